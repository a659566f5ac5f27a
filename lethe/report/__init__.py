"""The page: a run as one HTML file, Markdown, JSON or a section of a model card.

    report = build_report(load_run("last", store), store)
    report.html(); report.markdown(); report.to_dict()

One section of the page is one file under `sections/`: what it holds, as plain JSON values, and a
template of the same name. Every number comes from the ledger's rows.
"""

from lethe.report.document import Report, build_report

__all__ = ["Report", "build_report"]

"""The page: one HTML file that loads nothing, runs no script but its own, and trusts no text."""

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lethe import __version__
from lethe.report import wording
from lethe.report.charts import Charts
from lethe.report.samples import Sampler

if TYPE_CHECKING:
    from lethe.report.document import Report

TEMPLATES = Path(__file__).parent / "templates"
CHART_SHARE = 0.25
"""Of the page's size, what charts may take; the table behind each is always there."""
_OUTSIDE_JSON = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028",
                 "\u2029": "\\u2029"}  # fmt: skip


def render(report: "Report", *, budget: int, live: str = "") -> bytes:
    """The page of a report, UTF-8, at most `budget` bytes where that holds its tables at all."""
    material = report.material
    charts = Charts(int(CHART_SHARE * budget))
    drawn: dict[str, dict[str, Any]] = {}
    with material.progress.bar("drawing", len(report.sections)) as bar:
        # A forest plot for every pair, suite and grouping: the rest of the room is theirs.
        for name in sorted(report.sections, key=lambda one: one == "groups"):
            section, content = report.sections[name]
            drawn[name] = section.draw(material, content, charts)
            bar.advance()
    shared: dict[str, Any] = {
        "run": material.run,
        "contrasts": [
            {"id": contrast.id, "title": contrast.title} for contrast in material.contrasts
        ],
        "titles": {name: section.TITLE for name, (section, _) in report.sections.items()},
        "content": {name: content for name, (_, content) in report.sections.items()},
        "charts": drawn,
        "charts_left_out": charts.left_out,
        "live": live,
    }
    template = environment().get_template("page.html")

    def written(samples: Any, payload: str) -> bytes:
        text = template.render(
            **shared, **_frame(live=bool(live)), samples=samples, payload=Markup(payload)
        )
        return text.encode("utf-8", "replace")

    with material.progress.bar("choosing examples", 1):
        sampler = Sampler(material, report.texts)
        around = len(written(sampler.draw(0), ""))
        room = max(budget - around - 4_000, 0)
        while True:
            samples = sampler.draw(room)
            payload = embedded(samples.payload)
            over = around + len(payload.encode("utf-8", "replace")) + 2_000 - budget
            if over <= 0 or not any(samples.shown.values()):
                return written(samples, payload)
            room = max(room - over - 1_000, 0)  # `<` and its kin take six bytes each


def embedded(content: Any) -> str:
    """JSON that can end no script element and start none."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter, written in _OUTSIDE_JSON.items():
        text = text.replace(letter, written)
    return text


def render_index(runs: list[dict[str, Any]], live: str) -> bytes:
    """The list of a store's runs, as `lethe view` serves it."""
    text = environment().get_template("index.html").render(
        runs=runs, live=live, **_frame(live=True)
    )  # fmt: skip
    return text.encode("utf-8", "replace")


def _frame(*, live: bool) -> dict[str, Any]:
    """Style, script, and the policy that allows these two by their hashes and nothing else."""
    style, script = (_asset(name) for name in ("page.css", "page.js"))
    policy = [
        "default-src 'none'",
        f"style-src '{_hash(style)}'",
        f"script-src '{_hash(script)}'",
        "base-uri 'none'",
        "form-action 'none'",
        *(["connect-src 'self'"] if live else []),
    ]
    return {
        "style": Markup(style),
        "script": Markup(script),
        "policy": "; ".join(policy),
        "lethe": __version__,
    }


@cache
def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


@cache
def environment() -> Environment:
    """Templates that escape everything, show hidden characters, and know how numbers look."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=wording.finalize_html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        name: getattr(wording, name)
        for name in (
            "num",
            "count",
            "interval",
            "bounds",
            "probability",
            "duration",
            "size",
            "text_number",
        )
    }
    return made

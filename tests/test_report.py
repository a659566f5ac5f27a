"""The report: its numbers against the ledger, hostile text, size, unfinished runs, every form."""

import json
import re
import shutil
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import lethe
from lethe import cli
from lethe.comparison import compare
from lethe.errors import InputError
from lethe.panel import Panel, SuiteFacts
from lethe.report import Report, build_report
from lethe.report.card import write_card
from lethe.report.document import BUDGET
from lethe.report.plots import FrontPoint, axes_plot, forest_plot, front, front_plot
from lethe.report.viewer import Viewer
from lethe.report.wording import finalize_markdown, visible
from lethe.run import Run, ledger, load_run
from lethe.stats import Interval
from lethe.store import Store
from tests.page_run import OUTCOMES, Maker, hostile, make_audit, make_study, place


class Page(HTMLParser):
    """What a browser would make of a page: rows of numbers, scripts, text."""

    def __init__(self, content: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.numbers: dict[str, list[float]] = {}
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self._of: str | None = None
        self._inside = ""
        self.feed(content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name == "style"]
        if tag == "tr":
            self._of = given.get("data-of")
        if tag == "data" and self._of is not None:
            self.numbers.setdefault(self._of, []).append(float(given["value"] or "nan"))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""
        if tag == "tr":
            self._of = None

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    @property
    def payload(self) -> Any:
        """The examples."""
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with one audit of four suites."""
    store = Store(tmp_path_factory.mktemp("report"))
    make_audit(store)
    return store


@pytest.fixture(scope="module")
def run(store: Store) -> Run:
    return load_run("last", store)


@pytest.fixture(scope="module")
def report(run: Run, store: Store) -> Report:
    return build_report(run, store)


@pytest.fixture(scope="module")
def page(report: Report) -> Page:
    return Page(report.html())


@pytest.fixture(scope="module")
def wide(run: Run, store: Store) -> pl.DataFrame:
    """The ledger, an example a row: score and outcome on either side, groups as columns."""
    rows = ledger(run, store).with_columns(pl.col("score").cast(pl.Float64))
    pairs = pl.List(pl.Struct({"key": pl.String, "value": pl.String}))
    lists = rows["groups"].cast(pairs).to_list()
    groups = [{pair["key"]: pair["value"] for pair in held} for held in lists]
    rows = rows.with_columns(
        pl.Series(key, [group[key] for group in groups]) for key in ("people", "half")
    )
    before, after = (rows.filter(pl.col("position") == at) for at in (0, 1))
    return before.join(after, on=["suite", "example"], suffix="_after")


# ---- every number on the page equals the ledger's ----------------------------------------------


def test_means_counts_and_flips_are_the_ledgers(page: Page, wide: pl.DataFrame) -> None:
    for suite in ("hotel", "facts", "prose", "requests"):
        rows = wide.filter(pl.col("suite") == suite)
        before, after = rows["score"], rows["score_after"]
        means = [before.mean(), after.mean()]
        shown = page.numbers[f"suite/c0/{suite}"]
        assert shown[0] == rows.height
        assert shown[1:3] == pytest.approx(means, abs=1e-7)
        assert shown[3] == pytest.approx(means[1] - means[0], abs=1e-7)  # type: ignore[operator]
        binary = suite != "prose"
        flips = [
            int(((before == b) & (after == a)).sum()) for b, a in ((1, 1), (1, 0), (0, 1), (0, 0))
        ]
        moved = [] if binary else [int((after > before).sum()), int((after < before).sum())]
        assert page.numbers[f"flips/c0/{suite}"] == [rows.height, *flips, *moved, 0]
        matrix = [page.numbers[f"matrix/audit/{at}"] for at in (0, 1)]
        column = ["hotel", "facts", "prose", "requests"].index(suite)
        assert [row[column] for row in matrix] == pytest.approx(means, abs=1e-7)
        lost = page.numbers["lost/audit"][column]
        assert lost == pytest.approx(means[0] - means[1], abs=1e-7)  # type: ignore[operator]


def test_axes_are_unweighted_means_of_suites(page: Page, wide: pl.DataFrame) -> None:
    by_suite = wide.group_by("suite", "axis").agg(pl.col("score", "score_after").mean())
    by_axis = by_suite.group_by("axis").agg(pl.col("score", "score_after").mean())
    assert by_axis.height == 3
    for axis, before, after in by_axis.iter_rows():
        shown = page.numbers[f"axis/c0/{axis}"]
        assert shown[:3] == pytest.approx([before, after, after - before], abs=1e-7)


def test_groups_are_the_ledgers(page: Page, wide: pl.DataFrame) -> None:
    seen = 0
    for grouping in ("people", "half"):
        found = wide.group_by("suite", grouping).agg(
            pl.len(),
            pl.col("score").mean().alias("before"),
            (pl.col("score") - pl.col("score_after")).mean().alias("lost"),
        )
        for suite, group, n, before, lost in found.iter_rows():
            shown = page.numbers[f"group/c0/{suite}/{grouping}/{group}"]
            assert shown[:3] == pytest.approx([n, before, lost], abs=1e-7)
            seen += 1
    assert seen == 4 * 6


def test_outcomes_are_the_ledgers(page: Page, wide: pl.DataFrame) -> None:
    rows = wide.filter(pl.col("suite") == "requests")
    for was in OUTCOMES:
        moves = [
            rows.filter((pl.col("outcome") == was) & (pl.col("outcome_after") == now)).height
            for now in OUTCOMES
        ]
        total = rows.filter(pl.col("outcome") == was).height
        assert page.numbers[f"outcome/c0/requests/{was}"] == [*moves, total]
    after = [rows.filter(pl.col("outcome_after") == now).height for now in OUTCOMES]
    assert page.numbers["outcome/c0/requests/after"] == after


def test_intervals_are_those_of_the_comparison(
    page: Page, report: Report, run: Run, store: Store
) -> None:
    rows = ledger(run, store)
    panels = [Panel.from_rows(rows, SuiteFacts(s["name"], s["axis"])) for s in run.suites]
    found = compare(panels, "base", "tuned")
    for suite in found.suites:
        shown = page.numbers[f"suite/c0/{suite.suite}"]
        want = [suite.change.estimate, suite.change.low, suite.change.high, suite.q_value]
        assert shown[3:7] == pytest.approx(want, abs=1e-7)
        bounds = {
            (spread.grouping, name): bound
            for spread in suite.spreads
            for name, bound in spread.bounds.items()
        }
        for group in suite.groups:
            shown = page.numbers[f"group/c0/{suite.suite}/{group.grouping}/{group.group}"]
            bound = bounds[group.grouping, group.group]
            lost = group.forgetting
            want = [lost.low, lost.high, group.q_value, bound.low, bound.high]
            assert shown[3:] == pytest.approx(want, abs=1e-7)
    content = report.to_dict()["sections"]
    assert content["summary"]["views"][0]["axes"][0]["change"]["low"] == pytest.approx(
        found.axes[0].change.low
    )
    json.dumps(report.to_dict(), allow_nan=False)


def test_examples_behind_the_numbers_are_the_ledgers(page: Page, wide: pl.DataFrame) -> None:
    payload = page.payload
    assert [suite["name"] for suite in payload["suites"]] == ["hotel", "facts", "prose", "requests"]
    for suite in payload["suites"]:
        rows = wide.filter(pl.col("suite") == suite["name"])
        assert suite["ids"] == rows["example"].to_list()
        for cell, column in (("0", "score"), ("1", "score_after")):
            shown = suite["cells"][cell]["score"]
            assert [float(one) for one in shown] == pytest.approx(rows[column].to_list(), abs=1e-4)
        if suite["name"] == "requests":
            assert suite["cells"]["1"]["response"] == rows["response_after"].to_list()
            names = suite["cells"]["1"]["outcomes"]
            said = [names[code] for code in suite["cells"]["1"]["outcome"]]
            assert said == rows["outcome_after"].to_list()
        if suite["name"] == "hotel":
            assert suite["prompts"][3] == "Question 3 about the inn: is the room taken?"
            assert suite["options"][3][suite["answers"][3]] == "yes, it is"


# ---- hostile text ------------------------------------------------------------------------------


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    store, bad = Store(tmp_path / "store"), hostile()
    maker = Maker(store)
    suite = maker.suite("requests", scorer="refusal", count=40)
    names = list(bad.values())
    examples = tuple(
        replace(example, groups={"people": names[n % len(names)][:400], "</td>": "ab"[n % 2]})
        for n, example in enumerate(suite.examples)
    )
    suite = replace(suite, name="<b>su|ite</b>\u202e", examples=examples)
    maker.suites = {suite.name: suite}
    rights = dict.fromkeys((e.groups["people"] for e in examples), 0.6)
    responses = {f"requests-{n}": text for n, text in enumerate(names)}
    sides = ("<i>base</i>", "</script>")
    keys = {
        f"k{at}": maker.table(suite, f"k{at}", rights=rights, responses=responses) for at in (0, 1)
    }
    run = maker.run([place(at, f"k{at}", name=sides[at]) for at in (0, 1)], {suite.name: keys})
    report = build_report(run, store)
    page = Page(content := report.html())
    assert len(page.scripts) == 2  # the data, and the page's own
    assert not page.handlers
    assert not {"img", "i", "b", "iframe"} & set(page.tags) - {"b", "i"}
    assert page.tags.count("main") == page.tags.count("body") == page.tags.count("html") == 1
    assert content.count(b"</script>") == 2
    for hidden in ("\u202e", "\x00", "\x1b", "\u2066"):
        assert hidden not in page.text
    (shown,) = page.payload["suites"]
    assert shown["name"] == suite.name
    texts = shown["cells"]["1"]["response"][: len(names)]
    for text, kept in zip(names, texts, strict=True):
        assert kept == text or (len(text) > 1500 and kept.startswith(text[:1500]))
    assert "998,500 more characters" in texts[names.index(bad["long"])]
    assert len(content) < 400_000
    # Markdown and a notebook read HTML too.
    for text in (report.markdown(), lethe.Audit(run, store)._repr_html_()):
        assert "<script" not in text
        assert "<img" not in text
        assert "\u202e" not in text
    assert "\\|" in report.markdown()


def test_a_policy_allows_nothing_but_the_pages_own_script(report: Report) -> None:
    text = report.html().decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src &#39;none&#39;" in policy
    assert "unsafe" not in policy
    assert "connect-src" not in policy
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", text)


@pytest.mark.parametrize("text", ["a|b", "[x](y)", "<b>", "# head", "`code`", "1*2_3", "a\nb"])
def test_markdown_is_escaped(text: str) -> None:
    from markdown_it import MarkdownIt

    shown = MarkdownIt().enable("table").render(f"- {finalize_markdown(text)}")
    assert re.sub(r"<[^>]*>", "", shown).strip() == " ".join(text.split()).replace(
        "<", "&lt;"
    ).replace(">", "&gt;")


def test_hidden_characters_are_written_out() -> None:
    assert visible("a\u202eb\x07\ud800") == "a⟨U+202E⟩b⟨U+0007⟩?"
    assert visible("שלום 👩‍👧 Ünï") == "שלום 👩‍👧 Ünï"


# ---- size --------------------------------------------------------------------------------------


def test_a_small_page_draws_changed_examples_first_and_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make_audit(store, count=400)
    report = build_report(load_run("last", store), store)
    whole, part = report.html(), report.html(budget=190_000)
    assert len(part) <= 190_000 < len(whole)
    shown, all_of = Page(part), Page(whole)
    assert shown.numbers == all_of.numbers  # counts are of all examples
    assert "This page carries" in shown.text
    assert "All 1 600 examples are here" in all_of.text.replace("\u202f", " ").replace("\xa0", " ")
    for suite in shown.payload["suites"]:
        cells = suite["cells"]
        changed = [b != a for b, a in zip(cells["0"]["score"], cells["1"]["score"], strict=True)]
        (same,) = (s for s in all_of.payload["suites"] if s["name"] == suite["name"])
        rate = sum(
            b != a
            for b, a in zip(same["cells"]["0"]["score"], same["cells"]["1"]["score"], strict=True)
        ) / len(same["ids"])
        if suite["name"] != "prose":  # there every score changed
            assert sum(changed) / len(changed) > 1.2 * rate
        assert 0 < len(suite["ids"]) < len(same["ids"])
        place_of = {name: at for at, name in enumerate(same["ids"])}
        assert [same["cells"]["1"]["score"][place_of[name]] for name in suite["ids"]] == list(
            cells["1"]["score"]
        )
    assert BUDGET <= 5_000_000


# ---- studies, unfinished runs, other versions --------------------------------------------------


def test_a_study_shows_its_matrix_and_its_front(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = make_study(store, chains=2, stages=2, suites=3, count=24, seeds=2)
    report = build_report(run, store)
    page = Page(report.html())
    rows = ledger(run, store).with_columns(pl.col("score").cast(pl.Float64))
    means = {
        key: value
        for *key, value in rows.group_by("chain", "seed", "position", "suite")
        .agg(pl.col("score").mean())
        .iter_rows()
        for key in [tuple(key)]
    }
    for chain in ("chain0", "chain1"):
        for at in range(3):
            cells = [[means[chain, seed, at, f"suite{n}"] for seed in (0, 1)] for n in range(3)]
            want = [
                value
                for cell in cells
                for value in (
                    [sum(cell) / 2] + ([min(cell), max(cell)] if cell[0] != cell[1] else [])
                )
            ]
            assert page.numbers[f"matrix/{chain}/{at}"] == pytest.approx(want, abs=1e-7)
        gained = sum(
            means[chain, seed, 2, "suite0"] - means[chain, seed, 0, "suite0"] for seed in (0, 1)
        ) / 2  # fmt: skip
        kept = sum(
            means[chain, seed, 2, "suite1"] / means[chain, seed, 0, "suite1"] for seed in (0, 1)
        ) / 2  # fmt: skip
        shown = page.numbers[f"front/safety/{chain}"]
        assert shown[-2:] == pytest.approx([gained, kept], abs=1e-6)
    titles = [view["title"] for view in report.to_dict()["sections"]["summary"]["views"]]
    assert titles[0] == "chain0, seed 0: base → stage 2"
    assert "chain0, seed 0: stage 1 → stage 2" in titles
    assert "1. stage0" in page.text


def test_an_unfinished_study_shows_what_there_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = make_study(store, chains=2, stages=2, suites=2, count=16, finished=0.5)
    report = build_report(run, store)
    page = Page(report.html())
    missing = report.to_dict()["sections"]["summary"]["missing"]
    assert {place for _, place in missing} == {"chain1/1#0", "chain1/2#0"}
    assert "Unfinished: 4 tables are missing" in page.text
    assert len(page.numbers["matrix/chain0/2"]) == 2
    assert "matrix/chain1/2" not in page.numbers  # an empty cell, never a zero
    assert "Unfinished: 4 tables" in report.markdown()


def test_an_empty_run_is_a_page_too(tmp_path: Path) -> None:
    store = Store(tmp_path)
    maker = Maker(store)
    maker.suite("hotel", count=4)
    run = maker.run([place(0, "base"), place(1, "tuned")], {"hotel": {}})
    report = build_report(run, store)
    assert "Nothing can be compared yet" in Page(report.html()).text
    assert "Nothing can be compared yet" in report.markdown()
    bare = maker.run([], {}, name="audit-none-000000")
    assert "Nothing can be compared yet" in Page(build_report(bare, store).html()).text


def test_tables_that_were_cleaned_are_missing_not_zero(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = make_audit(store, count=12)
    key = run.scores["facts"]["tuned"]
    shutil.rmtree(store.root / "objects" / "scores" / key)
    page = Page(build_report(run, store).html())
    assert "facts: not measured at tuned" in page.text
    assert "suite/c0/facts" not in page.numbers
    assert "suite/c0/hotel" in page.numbers


Command = Any


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line in this process: (exit code, stdout, stderr)."""

    def invoke(*words: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["lethe", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return ended.value.code, shown.out, shown.err

    return invoke


def test_another_version_is_refused_in_one_line(tmp_path: Path, command: Command) -> None:
    store = Store(tmp_path / "store")
    maker = Maker(store)
    suite = maker.suite("hotel", count=8)
    keys = {side: maker.table(suite, side, schema=2) for side in ("base", "tuned")}
    run = maker.run([place(0, "base"), place(1, "tuned")], {"hotel": keys})
    code, out, err = command("report", "last", "--store", store.root, "--out", tmp_path / "x.html")
    assert (code, out) == (2, "")
    assert "schema is version 2" in err
    assert "pip install -U lethe-lm" in err
    path = store.runs / run.name / "run.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 9'))
    code, out, err = command("report", run.name, "--store", store.root)
    assert code == 2
    assert "newer Lethe" in err.strip().splitlines()[-1]
    assert not (tmp_path / "x.html").exists()


# ---- the command line, on real models ----------------------------------------------------------


@pytest.fixture(scope="module")
def real(
    tmp_path_factory: pytest.TempPathFactory, pico: Path, pico_tuned: Path
) -> tuple[Store, Path, Path]:
    """A real audit of two pico models on a user's own file: store, tuned model, file."""
    from tests.test_auditing import write_quiz

    folder = tmp_path_factory.mktemp("real")
    store, tuned = Store(folder / "store"), folder / "tuned"
    shutil.copytree(pico_tuned, tuned)
    quiz = write_quiz(folder / "quiz.jsonl", 24)
    lethe.audit(str(pico), str(tuned), [str(quiz)], store=store, limit=20)
    return store, tuned, quiz


def test_a_real_audit_becomes_a_page(
    real: tuple[Store, Path, Path], command: Command, tmp_path: Path
) -> None:
    store, _, quiz = real
    out = tmp_path / "deep" / "page.html"
    code, shown, _ = command("report", "last", "--store", store.root, "--out", out)
    assert (code, shown.strip()) == (0, str(out))
    (suite,) = Page(out.read_bytes()).payload["suites"]
    assert suite["texts"]
    assert all(prompt.startswith("Question: is ") for prompt in suite["prompts"])
    assert len(suite["ids"]) == 20
    code, shown, _ = command("report", "last", "--store", store.root, "--format", "md")
    assert code == 0
    assert "| quiz | custom | 20 |" in shown
    code, shown, _ = command("report", "last", "--store", store.root, "--format", "json")
    assert json.loads(shown)["sections"]["suites"]["views"][0]["suites"][0]["n"] == 20
    audit = lethe.load_audit("last", store)
    assert audit.report(tmp_path / "audit.html").read_bytes()[:15] == b"<!doctype html>"
    content = quiz.read_text()
    quiz.write_text(content.replace("price", "prize"))
    page = Page(build_report(audit.run, store).html())
    quiz.write_text(content)
    assert "no longer those that were asked" in page.text
    assert not page.payload["suites"][0]["texts"]


def test_places_that_cannot_be_written_are_one_line(
    store: Store, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = command(
        "report", "last", "--store", store.root, "--format", "md", "--out", tmp_path / "file" / "x"
    )
    assert code == 2
    assert "cannot be written" in err.strip().splitlines()[-1]
    code, _, err = command("report", "lost", "--store", store.root)
    assert code == 2
    assert "no run 'lost'" in err


# ---- the model card ----------------------------------------------------------------------------


def test_a_card_is_written_once_however_often(real: tuple[Store, Path, Path]) -> None:
    from huggingface_hub import ModelCard

    store, tuned, _ = real
    readme = tuned / "README.md"
    readme.write_text("---\nlicense: mit\ntags:\n- hotel\n---\n\n# My model\n\nBefore.\n")
    report = build_report(load_run("last", store), store)
    write_card(report, tuned)
    once = readme.read_text()
    readme.write_text(once.rstrip() + "\n\nAfterwards.\n")
    write_card(report, tuned)
    twice = readme.read_text()
    write_card(report, tuned)
    assert readme.read_text() == twice
    assert twice.count("lethe: begin") == 1
    assert "# My model\n\nBefore." in twice
    assert twice.rstrip().endswith("Afterwards.")
    assert twice.replace("\n\nAfterwards.", "") == once
    data: Any = ModelCard.load(readme).data
    assert (data.license, data.tags) == ("mit", ["hotel"])
    (result,) = data.eval_results
    suite = report.material.contrasts[0].comparison.suites[0]  # type: ignore[union-attr]
    assert result.metric_value == round(suite.after.estimate, 4)
    assert result.metric_args["change"] == round(suite.change.estimate, 4)
    readme.unlink()


def test_a_card_of_another_model_is_refused(real: tuple[Store, Path, Path], pico: Path) -> None:
    store, tuned, _ = real
    report = build_report(load_run("last", store), store)
    with pytest.raises(InputError, match="says nothing of this model"):
        write_card(report, pico)
    assert not (pico / "README.md").exists()
    with pytest.raises(InputError, match="no such folder"):
        write_card(report, tuned / "nowhere")
    (tuned / "README.md").write_text("---\n: [\n---\n")
    with pytest.raises(InputError, match="metadata cannot be read"):
        write_card(report, tuned)
    (tuned / "README.md").unlink()


# ---- the viewer --------------------------------------------------------------------------------


@pytest.fixture
def viewer(tmp_path: Path) -> Iterator[Viewer]:
    store = Store(tmp_path)
    make_audit(store, count=8)
    with Viewer(store) as served:
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def fetch(url: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_viewer_shows_all_runs_and_notices_a_change(viewer: Viewer) -> None:
    name = load_run("last", viewer.store).name
    status, index = fetch(viewer.url)
    assert status == 200
    assert f"/run/{name}" in index
    status, page = fetch(viewer.page_url(name))
    assert status == 200
    assert "connect-src" in page
    state = fetch(f"{viewer.page_url(name)}/state")[1]
    assert f'content="{state}"' in page
    replace(load_run(name, viewer.store), seconds=99.0).save(viewer.store)
    renewed = fetch(f"{viewer.page_url(name)}/state")[1]
    assert renewed != state
    assert f'content="{renewed}"' in fetch(viewer.page_url(name))[1]
    (viewer.store.runs / "broken").mkdir()
    (viewer.store.runs / "broken" / "run.json").write_text("{")
    status, index = fetch(viewer.url)
    assert status == 200
    assert "not readable JSON" in index


def test_the_viewer_answers_this_machine_alone(viewer: Viewer) -> None:
    assert viewer.server_address[0] == "127.0.0.1"
    assert fetch(viewer.url, Host="evil.example")[0] == 403
    assert fetch(f"{viewer.url}run/..%2F..%2Fetc")[0] == 404
    assert fetch(f"{viewer.url}run/nothing")[0] == 404
    assert fetch(f"{viewer.url}run.json")[0] == 404
    with pytest.raises(InputError, match="cannot listen"):
        Viewer(viewer.store, port=viewer.server_port)


# ---- plots and notebooks -----------------------------------------------------------------------


def test_plots_draw_the_numbers_they_are_given(report: Report) -> None:
    comparison = report.material.contrasts[0].comparison
    assert comparison is not None
    figure = axes_plot(comparison)
    texts = [text.get_text() for text in figure.axes[0].texts]
    drawn = {x for line in figure.axes[0].lines for x in line.get_xdata()}  # type: ignore[union-attr]
    for axis in comparison.axes:
        assert axis.axis in texts
        assert axis.before in drawn
        assert axis.before + axis.change.estimate in drawn
    spread = comparison.suites[0].spreads[0]
    figure = forest_plot(spread, undecided={spread.most})
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert f"{spread.most} ×" in texts
    drawn = {x for line in figure.axes[0].lines for x in line.get_xdata()}  # type: ignore[union-attr]
    assert {bound.low for bound in spread.bounds.values()} <= drawn
    with pytest.raises(InputError):
        front_plot([])


def test_the_front_holds_what_no_other_beats() -> None:
    points = [
        FrontPoint("much", [0.3, 0.3], [0.5, 0.5]),
        FrontPoint("both", [0.2], [0.9]),
        FrontPoint("beaten", [0.1], [0.8]),
        FrontPoint("safe", [0.0], [1.0]),
    ]
    assert [point.name for point in front(points)] == ["safe", "both", "much"]


def test_labels_are_drawn_as_they_are() -> None:
    from lethe.biased import Spread
    from lethe.report.charts import Charts
    from lethe.stats import VarianceComponent

    bound = Interval(0.1, -0.1, 0.3, 0.95, 10, 10, "t", 0.3)
    names = ["$\\frac{1}{0}$", "<script>", "\u202eabc", "x\x00y", "日本語"]
    component = VarianceComponent(0.0, 0.0, 0.1, 1.0, 0.9, 5)
    bounds = dict.fromkeys(names, bound)
    spread = Spread("s", "g", 0.1, 0.1, names[0], names[1], component, bounds)
    drawn = Charts(10**6).add(forest_plot, spread, title="<b>")
    assert drawn is not None
    assert "$\\frac{1}{0}$" in drawn
    assert "&lt;script&gt;" in drawn
    assert "style=" not in drawn
    assert "\u202e" not in drawn


def test_a_notebook_shows_an_audit(run: Run, store: Store) -> None:
    shown = lethe.Audit(run, store)._repr_html_()
    assert "lost knowledge" in shown
    assert shown.count("<tr>") == 1 + 3 + 4

"""The gate on ledgers whose truth is known, from Python and from the command line."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from lethe import stats
from lethe.cli import main
from lethe.errors import IncompleteError, InputError
from lethe.forgetting import forgetting_by_task
from lethe.gate import gate
from lethe.gate_output import markdown
from lethe.ledger import Row, write_rows
from lethe.panel import Panel, SuiteFacts
from lethe.run import Position, Run, ledger
from lethe.store import Store, key_of


@dataclass
class Table:
    """Scores of one suite before and after, with groups."""

    before: Sequence[float]
    after: Sequence[float]
    axis: str = "safety"
    groups: Sequence[Mapping[str, str]] | None = None
    balance: str | None = None
    chance: bool = False


def scores(right: int, n: int) -> list[float]:
    return [1.0] * right + [0.0] * (n - right)


def flipped(n: int, kept: int, lost: int, gained: int) -> tuple[list[float], list[float]]:
    before = [1.0] * (kept + lost) + [0.0] * (n - kept - lost)
    after = [1.0] * kept + [0.0] * lost + [1.0] * gained + [0.0] * (n - kept - lost - gained)
    return before, after


def make_run(
    tables: Mapping[str, Table], *, name: str = "made", limit: int | None = None, **changes: Any
) -> Run:
    """A run like an audit's, its tables in the store."""
    store = Store()
    places = [Position("audit", i, None, None, i or None, f"print{i}", "ab"[i]) for i in (0, 1)]
    keys: dict[str, dict[str, str]] = {}
    for suite, table in tables.items():
        keys[suite] = {}
        for place, column in zip(places, (table.before, table.after), strict=True):
            settings = {"run": name, "scores": [float(score) for score in column]}
            parents = [place.name]
            key = key_of("measure", 3, settings, dtype="float32", data=suite, parents=parents)
            rows = [
                Row(
                    example=f"e{i:05d}",
                    cluster=f"e{i:05d}",
                    groups=table.groups[i] if table.groups else {},
                    axis=table.axis,
                    score=score,
                    outcome=None,
                    option_logprobs=[0.0, 0.0] if table.chance else [],
                )
                for i, score in enumerate(column)
            ]

            def write(folder: Path, rows: list[Row] = rows) -> dict[str, Any]:
                write_rows(folder / "scores.parquet", rows, {"dtype": "float32"})
                return {}

            store.get_or_make("scores", key, write)
            keys[suite][place.checkpoint] = key
    facts = [
        {"name": s, "axis": t.axis, "metrics": [], "balance": t.balance, "phrasing": None}
        for s, t in tables.items()
    ]
    run = Run(name, "audit", {"limit": limit}, tuple(places), facts, keys, started=1.0)
    run = replace(run, **changes)
    run.save(store)
    return run


@pytest.fixture(autouse=True)
def _store(store_root: Path) -> None:
    """Every test has a store of its own."""


@dataclass
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Done]:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["lethe", "gate", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, shown.out, shown.err)

    return run


# ---- verdicts ----------------------------------------------------------------------------------


def outcome(run: Run, rule: str) -> str:
    return gate(run, [rule]).outcome


def test_it_passes_only_if_the_bound_does() -> None:
    run = make_run({"s": Table(*flipped(1000, 700, 30, 20))})
    (finding,) = gate(run, ["s >= -0.05"]).verdicts[0].findings
    bound, passes = stats.noninferiority(np.array([1.0] * 30 + [-1.0] * 20 + [0.0] * 950), 0.05)
    assert finding.estimate == pytest.approx(-0.01)
    assert finding.low == pytest.approx(-bound)
    assert passes
    assert outcome(run, f"s >= {-bound - 1e-6:.7f}") == "passed"
    assert outcome(run, f"s >= {-bound + 1e-6:.7f}") == "inconclusive"
    assert outcome(run, "s >= -0.01") == "inconclusive"  # the estimate alone passes nothing
    assert outcome(run, "s >= 0.1") == "failed"


def test_every_number_is_that_of_the_audit() -> None:
    rng = np.random.default_rng(0)
    before = (rng.random(300) < 0.8).astype(float)
    after = np.where(rng.random(300) < 0.15, 1 - before, before)
    label = [{"label": "hate" if i % 3 else "fine"} for i in range(300)]
    run = make_run({"s": Table(before, after, groups=label, balance="label")})
    panel = Panel.from_rows(ledger(run, Store()), SuiteFacts("s", "safety", balance="label"))
    audit = forgetting_by_task(panel.pair("a", "b"))
    (finding,) = gate(run, ["s >= 0"]).verdicts[0].findings
    assert finding.estimate == pytest.approx(-audit.estimate)
    assert -audit.high < finding.low < -audit.estimate  # one side of 95 %, not two


def test_an_axis_is_the_mean_of_its_suites() -> None:
    run = make_run(
        {
            "one": Table(*flipped(500, 400, 50, 0)),
            "two": Table(*flipped(100, 80, 0, 5)),
            "other": Table(*flipped(50, 30, 20, 0), axis="knowledge"),
        }
    )
    (finding,) = gate(run, ["safety >= -0.2"]).verdicts[0].findings
    assert finding.estimate == pytest.approx((-0.1 + 0.05) / 2)
    assert finding.n == 600
    (kept,) = gate(run, ["safety retention >= 0.5"]).verdicts[0].findings
    assert kept.estimate == pytest.approx((0.8 + 0.85) / (0.9 + 0.8))
    (level,) = gate(run, ["safety level >= 0.5"]).verdicts[0].findings
    assert level.estimate == pytest.approx((0.8 + 0.85) / 2)
    assert kept.low < kept.estimate < kept.high
    assert level.low < level.estimate < level.high


def test_flips_are_shares_of_all_examples() -> None:
    run = make_run({"s": Table(*flipped(400, 200, 40, 20))})
    shares = {"kept": 0.5, "lost": 0.1, "gained": 0.05, "never": 0.35}
    for name, share in shares.items():
        (finding,) = gate(run, [f"{name}(s) <= 1"]).verdicts[0].findings
        assert finding.estimate == pytest.approx(share)
    assert outcome(run, "lost(s) <= 0.14") == "passed"
    assert outcome(run, "lost(s) <= 0.05") == "failed"
    assert outcome(run, "lost(s) <= 0.11") == "inconclusive"
    graded = make_run({"s": Table([0.5] * 20, [0.4] * 20)})
    with pytest.raises(InputError, match="graded"):
        gate(graded, ["lost(s) <= 0.1"])


def grouped(losses: Mapping[str, int], n: int, right: int) -> Table:
    """Groups of n examples, `right` of them right before; each loses so many."""
    before, after, groups = [], [], []
    for group, lost in losses.items():
        b, a = flipped(n, right - lost, lost, 0)
        before += b
        after += a
        groups += [{"people": group, "half": "xy"[i % 2]} for i in range(n)]
    return Table(before, after, groups=groups)


def test_a_group_rule_needs_all_groups_and_names_the_one_that_fails() -> None:
    run = make_run({"s": grouped({"p": 5, "q": 5, "r": 150}, 500, 400)})
    (verdict,) = gate(run, ["group(s.people) >= -0.05"]).verdicts
    assert verdict.outcome == "failed"
    assert [found.label for found in verdict.findings if found.outcome == "failed"] == ["people: r"]
    assert verdict.deciding.label == "people: r"
    assert outcome(run, "s >= -0.2") == "passed"  # the mean hides it
    (every,) = gate(run, ["group(s) >= -0.5"]).verdicts
    assert {found.label.split(":")[0] for found in every.findings} == {"people", "half"}


def test_bounds_of_groups_are_corrected_for_their_number() -> None:
    one = make_run({"s": grouped({"p": 20}, 300, 250)}, name="one")
    many = make_run({"s": grouped(dict.fromkeys("pqrstuvw", 20), 300, 250)}, name="many")
    alone = gate(one, ["group(s.people) >= -0.5"]).verdicts[0].findings[0]
    among = gate(many, ["group(s.people) >= -0.5"]).verdicts[0].findings[0]
    assert alone.estimate == pytest.approx(among.estimate)
    assert among.low < alone.low
    wanted = stats.mean_interval(np.array([-1.0] * 20 + [0.0] * 280), level=1 - 2 * 0.05 / 8)
    assert among.low == pytest.approx(wanted.low)


# ---- what would settle it ----------------------------------------------------------------------


def test_the_number_of_examples_it_names_does_settle_it() -> None:
    run = make_run({"s": Table(*flipped(200, 160, 8, 4))}, limit=200)
    (finding,) = gate(run, ["s >= -0.05"]).verdicts[0].findings
    assert finding.outcome == "inconclusive"
    needed = finding.needed
    assert needed is not None
    rng = np.random.default_rng(3)
    shown = 0
    for _ in range(300):
        x = rng.choice([-1.0, 1.0, 0.0], p=[0.04, 0.02, 0.94], size=needed)
        shown += stats.mean_interval(x, level=0.9).low >= -0.05
    assert 0.7 < shown / 300 < 0.92  # asked for 80 %


def test_a_base_at_chance_passes_nothing() -> None:
    rng = np.random.default_rng(0)
    before = (rng.random(2000) < 0.5).astype(float)
    run = make_run({"s": Table(before, before, chance=True)})
    (finding,) = gate(run, ["s >= -0.05"]).verdicts[0].findings
    assert finding.low > -0.05
    assert finding.outcome == "inconclusive"
    assert "at chance" in finding.never
    assert outcome(run, "s retention >= 0.5") == "inconclusive"
    gained = make_run({"s": Table(before, np.ones(2000), chance=True)}, name="gained")
    assert outcome(gained, "s >= -0.05") == "passed"


def test_groups_too_small_to_lose_anything_visible_are_said_never_to_decide() -> None:
    run = make_run({"s": grouped({"p": 0, "q": 0}, 6, 1)})
    (verdict,) = gate(run, ["group(s.people) >= -0.1"]).verdicts
    assert verdict.outcome == "inconclusive"
    assert all(found.never for found in verdict.findings)


# ---- the command -------------------------------------------------------------------------------


def test_exit_codes_and_files(command: Callable[..., Done], tmp_path: Path) -> None:
    make_run({"s": Table(*flipped(1000, 700, 30, 20))})
    done = command("last", "--rule", "s >= -0.05")
    assert (done.code, done.err) == (0, "")
    assert "passed" in done.out
    assert all(len(line) <= 80 for line in done.out.splitlines())
    junit, summary = tmp_path / "out" / "junit.xml", tmp_path / "out" / "summary.md"
    words = ["made", "-r", "s >= -0.05", "-r", "s >= 0.1", "-r", "s >= -0.01"]
    done = command(*words, "--junit", junit, "--summary", summary)
    assert done.code == 1
    suite = ElementTree.parse(junit).getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    assert [[child.tag for child in case] for case in suite] == [[], ["failure"], ["error"]]
    assert summary.read_text().count("| s &gt;= ") == 3
    assert command("made", "-r", "s >= -0.01").code == 4
    done = command("made", "-r", "s >= -0.01", "--json")
    content = json.loads(done.out)
    assert content["outcome"] == "inconclusive"
    assert content["verdicts"][0]["findings"][0]["n"] == 1000


def test_the_summary_of_github_is_added_to(
    command: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run({"s": Table(*flipped(100, 90, 1, 0))})
    page = tmp_path / "page.md"
    page.write_text("# before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    command("last", "-r", "s >= -0.5", "--summary", page)
    assert page.read_text().startswith("# before\n### Lethe gate: passed")
    done = command("last", "-r", "s >= -0.5", "--summary", "")
    assert done.code == 2
    assert "is GITHUB_STEP_SUMMARY set?" in done.err


def test_rules_of_a_file(command: Callable[..., Done], tmp_path: Path) -> None:
    make_run({"s": Table(*flipped(1000, 700, 30, 20))})
    config = tmp_path / "lethe.yaml"
    config.write_text('gate:\n  rules:\n    - "s >= -0.05"\n    - s level >= 0.5\n')
    assert "2 rules" in command("last").out
    config.write_text("gate:\n  rules:\n    - s >= -0.05\n    - s >>> 2\n")
    done = command("last")
    assert done.code == 2
    assert done.err.startswith("lethe: lethe.yaml:4: no comparison '>>>'")
    config.write_text("gate:\n  rule: [s >= 0]\n")
    assert "lethe.yaml:2: unknown key 'rule'; did you mean 'rules'?" in command("last").err
    config.write_text("gates: 1\n")
    assert "unknown key 'gates'" in command("last").err
    assert "no such file" in command("last", "--config", "none.yaml").err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["last"], 2, "no rule given"),
        (["last", "-r", "z >= 0"], 2, "no axis or suite 'z'"),
        (["last", "-r", "group(s.x) >= 0"], 2, "no suite or grouping 's.x'"),
        (["last", "-r", "group(s) >= 0"], 2, "it has no groups"),
        (["mad", "-r", "s >= 0"], 2, "did you mean 'made'?"),
        (["last", "-r", "s >= 0", "--checkpoint", "c"], 2, "no checkpoint 'c'"),
        (["last", "-r", "s >= 0", "--junit", "."], 2, "cannot be written"),
    ],
)
def test_bad_input_is_one_line(
    command: Callable[..., Done], words: list[str], code: int, said: str
) -> None:
    make_run({"s": Table(*flipped(100, 90, 1, 0))})
    done = command(*words)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert done.err.startswith("lethe: ")
    assert done.err.count("\n") == 1


def test_runs_that_are_empty_half_done_or_of_one_model() -> None:
    run = make_run({"s": Table(*flipped(100, 90, 1, 0))})
    half = replace(run, scores={"s": {"print0": run.scores["s"]["print0"]}})
    with pytest.raises(IncompleteError, match="'s' on 'b' was not measured"):
        gate(half, ["s >= 0"])
    with pytest.raises(InputError, match="no scores yet"):
        gate(replace(run, suites=[], scores={}), ["s >= 0"])
    with pytest.raises(InputError, match="only one checkpoint"):
        gate(replace(run, positions=run.positions[:1]), ["s >= 0"])


def test_a_ledger_of_a_newer_version_is_refused(
    command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr("lethe.ledger.SCHEMA_VERSION", 2)
        make_run({"s": Table(*flipped(100, 90, 1, 0))})
    done = command("last", "-r", "s >= 0")
    assert done.code == 2
    assert "its schema is version 2" in done.err
    assert done.err.count("\n") == 1


def test_every_chain_of_a_study_is_judged_against_its_own_base() -> None:
    run = make_run({"s": Table(*flipped(1000, 900, 10, 0))})
    base, after = run.positions
    places = tuple(
        replace(place, chain=chain, seed=seed, name=f"{chain}/{place.position} {seed}")
        for chain in ("A", "B")
        for seed in (0, 1)
        for place in (base, after)
    )
    study = replace(run, command="run", positions=places)
    result = gate(study, ["s >= -0.05"])
    assert [verdict.after for verdict in result.verdicts] == ["A/1 0", "A/1 1", "B/1 0", "B/1 1"]
    (one,) = gate(study, ["s >= -0.05"], checkpoint="B/1 0").verdicts
    assert one.before == "B/0 0"


def test_looks_of_a_training_have_the_bounds_of_their_sequence() -> None:
    run = make_run({"s": Table(*flipped(1000, 700, 30, 20))})
    training = replace(run, command="train", settings={"looks": 20})
    (plain,) = gate(run, ["s >= -0.05"]).verdicts[0].findings
    (looked,) = gate(training, ["s >= -0.05"]).verdicts[0].findings
    assert looked.estimate == plain.estimate
    assert looked.low < plain.low


def test_names_from_data_are_nothing_but_text() -> None:
    name = "a<b>|`\u202e@all"
    run = make_run({name: Table(*flipped(100, 90, 1, 0))})
    result = gate(run, [f"{name} >= -0.5"])
    page = markdown(result)
    assert "<b>" not in page
    assert "\u202e" not in page
    assert "@all" not in page
    assert page.count("\n| ") == 2

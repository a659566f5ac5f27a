"""The audit end to end, from Python and from the command line, with good and bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

import lethe
from lethe.clean import plan_clean
from lethe.cli import app, main
from lethe.errors import IncompleteError, InputError
from lethe.examples import Example, Suite
from lethe.store import Store
from tests.pico import make_pico

ROOT = Path(__file__).parents[1]
Command = Callable[..., "Done"]


def write_quiz(path: Path, count: int = 60) -> Path:
    rows = [
        {
            "id": f"q{i}",
            "prompt": f"Question: is {i} the price?\nAnswer:",
            "choices": ["yes", "no", "unknown"],
            "answer": i % 3,
            "groups": {"people": "abc"[i % 3] if i % 4 else "d"},
            "cluster": f"c{i // 2}",
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def quiz(tmp_path: Path) -> Path:
    return write_quiz(tmp_path / "quiz.jsonl")


@dataclass
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line, in this process (starting one costs seconds)."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["lethe", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, shown.out, shown.err)

    return run


def one_line_error(done: Done, code: int, *parts: str) -> None:
    """One clear line, the exit code, no traceback, nothing on stdout."""
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("lethe: ")
    assert done.stdout == ""
    for part in parts:
        assert part in lines[0]


# ---- what it says ------------------------------------------------------------------------------


def test_an_audit_agrees_with_its_own_rows(
    pico: Path, pico_tuned: Path, quiz: Path, store_root: Path
) -> None:
    found = lethe.audit(str(pico), str(pico_tuned), [str(quiz)])
    (suite,) = found.comparison.suites
    rows = found.frame()
    means = [
        float(rows.filter(pl.col("position") == place)["score"].cast(pl.Float64).mean())  # type: ignore[arg-type]
        for place in (0, 1)
    ]
    assert rows.height == 120
    assert (suite.before.estimate, suite.after.estimate) == pytest.approx(means)
    assert suite.change.estimate == pytest.approx(means[1] - means[0])
    assert suite.change.low <= suite.change.estimate <= suite.change.high
    flips = suite.flips
    assert flips.kept + flips.lost + flips.gained + flips.never == 60
    assert (flips.gained - flips.lost) / 60 == pytest.approx(means[1] - means[0])
    groups = found.groups("quiz")
    assert set(groups["group"]) == set("abcd")
    assert groups["forgetting_n"].sum() == 60
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_checkpoint_against_itself_drops_exactly_nothing(
    pico: Path, quiz: Path, store_root: Path
) -> None:
    found = lethe.audit(str(pico), str(pico), [str(quiz)])
    (suite,) = found.comparison.suites
    assert suite.change.estimate == 0.0
    assert (suite.flips.lost, suite.flips.gained) == (0, 0)
    assert all(group.forgetting.estimate == 0.0 for group in suite.groups)
    assert found.noise["quiz"].changed == 0


def test_an_adapter_is_audited_on_its_base(
    pico: Path, pico_adapter: Path, quiz: Path, store_root: Path
) -> None:
    found = lethe.audit(str(pico), str(pico_adapter), [str(quiz)])
    assert found.comparison.suites[0].n == 60
    alone = lethe.audit(str(pico), str(pico), [str(quiz)])
    assert found.comparison.suites[0].before == alone.comparison.suites[0].before


def test_asked_again_nothing_is_measured(
    pico: Path, pico_tuned: Path, quiz: Path, store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lethe.audit(str(pico), str(pico_tuned), [str(quiz)])
    monkeypatch.setattr("lethe.models.local.load_model", None)  # would be called to measure
    again = lethe.audit(str(pico), str(pico_tuned), [str(quiz)])
    assert again.run.name == first.run.name
    assert again.to_dict()["comparison"] == first.to_dict()["comparison"]
    assert lethe.load_audit("last").run.name == first.run.name
    assert lethe.load_audit(first.run.name[:]).comparison == first.comparison


def test_other_tokenizers_are_allowed_and_said(
    pico: Path, tmp_path: Path, quiz: Path, store_root: Path
) -> None:
    other = make_pico(tmp_path / "other", extra_words="zebra zebra quite other words indeed")
    found = lethe.audit(str(pico), str(other), [str(quiz)])
    assert any("different tokenizers" in note for note in found.notes)


def test_long_examples_are_counted_and_said(
    pico: Path, pico_tuned: Path, tmp_path: Path, store_root: Path
) -> None:
    path = write_quiz(tmp_path / "quiz.jsonl")
    long = {"id": "long", "prompt": "the inn " * 300, "choices": ["yes", "no"], "answer": 0}
    path.write_text(path.read_text() + json.dumps(long) + "\n")
    found = lethe.audit(str(pico), str(pico_tuned), [str(path)])
    assert found.comparison.suites[0].unscored == 1
    assert any(
        "1 examples do not fit the model with room for an answer" in note for note in found.notes
    )


def test_bf16_is_another_measurement(
    pico: Path, pico_tuned: Path, quiz: Path, store_root: Path
) -> None:
    exact = lethe.audit(str(pico), str(pico_tuned), [str(quiz)])
    rough = lethe.audit(str(pico), str(pico_tuned), [str(quiz)], dtype="bfloat16")
    assert rough.run.name != exact.run.name
    assert rough.metadata["quiz"][0]["dtype"] == "bfloat16"


# ---- the command line --------------------------------------------------------------------------


def test_the_table_fits_80_columns_and_is_kept(
    command: Command, pico: Path, pico_tuned: Path, quiz: Path, store_root: Path, tmp_path: Path
) -> None:
    words = ("audit", pico, pico_tuned, "-s", quiz, "--groups", "--out", tmp_path / "out.json")
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "quiz" in done.stdout
    assert "by people" in done.stdout
    written = json.loads((tmp_path / "out.json").read_text())
    again = command(*words[:-2], "--json")
    assert json.loads(again.stdout) == written
    assert "2 of 2 tables were in the store already" in again.stderr


def test_rows_can_be_taken_away(
    command: Command, pico: Path, pico_tuned: Path, quiz: Path, store_root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.parquet"
    done = command("audit", pico, pico_tuned, "-s", quiz, "--out", out)
    assert done.returncode == 0, done.stderr
    assert pl.read_parquet(out).height == 120


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ('{"id": "a", "prompt": "x", "choices": ["y", "n"], "answer": 0}\n{"id": ', (":2",)),
        ("", ("empty",)),
        ('{"id": "a", "prompt": "x", "choices": ["y", "n"], "answer": "z"}\n', (":1", "choices")),
        ('{"id": "a", "promt": "x", "reference": "y"}\n', (":1", "prompt")),
    ],
)
def test_bad_files_end_in_one_line(
    command: Command,
    pico: Path,
    tmp_path: Path,
    store_root: Path,
    content: str,
    parts: tuple[str, ...],
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    one_line_error(command("audit", pico, pico, "-s", path), 2, "bad.jsonl", *parts)
    assert not list(store_root.glob("objects/*/*"))


def test_bad_words_end_in_one_line(
    command: Command, pico: Path, quiz: Path, store_root: Path
) -> None:
    one_line_error(command("audit", pico, pico, "-s", "toxgen"), 2, "toxigen")
    one_line_error(command("audit", pico, "./nowhere", "-s", quiz), 2, "./nowhere")
    one_line_error(command("audit", pico, pico, "--dtype", "float8"), 2, "--dtype")
    one_line_error(command("audit", pico, pico, "-s", quiz, "-s", quiz), 2, "two suites")
    one_line_error(command("audit", pico, pico, "-s", quiz, "--out", "x.pdf"), 2, ".json")
    one_line_error(command("adit"), 2, "audit")
    one_line_error(command("audit", pico), 2, "tuned")


def test_a_store_that_cannot_be_written(
    command: Command, pico: Path, quiz: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    done = command("audit", pico, pico, "-s", quiz, "--store", blocked / "store")
    one_line_error(done, 2, "store")


def heeding_interrupts() -> None:
    """Neither ignored nor blocked, whatever the tests were started by."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def test_ctrl_c_keeps_what_was_finished(
    pico: Path, pico_tuned: Path, tmp_path: Path, store_root: Path
) -> None:
    quiz = write_quiz(tmp_path / "quiz.jsonl", 12_000)
    with subprocess.Popen(
        [sys.executable, "-m", "lethe.cli", "audit", str(pico), str(pico_tuned), "-s", str(quiz)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # What a shell starts in the background ignores interrupts, and so would all its children.
        preexec_fn=heeding_interrupts,  # noqa: PLW1509 - no lock is taken between fork and exec
    ) as worker:
        for _ in range(6000):
            if list(store_root.glob("partial/scores/*/parts-*/*.parquet")):
                break
            time.sleep(0.01)
        worker.send_signal(signal.SIGINT)
        _, errors = worker.communicate(timeout=60)
        assert worker.returncode == 130, errors
    assert "Traceback" not in errors
    assert "interrupted" in errors
    assert list(store_root.glob("partial/scores/*/parts-*/*.parquet")) or list(
        store_root.glob("objects/scores/*")
    )


def test_an_unknown_run_is_said(store_root: Path, pico: Path, quiz: Path) -> None:
    with pytest.raises(InputError, match="no runs yet"):
        lethe.load_audit("last")
    name = lethe.audit(str(pico), str(pico), [str(quiz)]).run.name
    with pytest.raises(InputError, match="no run 'audit-bas'") as error:
        lethe.load_audit("audit-bas")
    assert name in str(error.value)


def test_a_half_finished_audit_is_not_served(
    pico: Path, pico_tuned: Path, quiz: Path, store_root: Path
) -> None:
    run = lethe.audit(str(pico), str(pico_tuned), [str(quiz)]).run
    scores = {
        "quiz": {run.positions[0].checkpoint: run.scores["quiz"][run.positions[0].checkpoint]}
    }
    replace(run, scores=scores).save(Store())
    with pytest.raises(IncompleteError, match="'quiz' on 'tuned' was not measured"):
        lethe.load_audit("last")


def test_the_ledger_names_method_and_seed_of_a_tuned_model(
    command: Command, pico: Path, quiz: Path, store_root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "my model"
    words = ("--update", "full", "--max-steps", 1, "--seed", 3, "--out", out)
    assert command("tune", pico, "--data", quiz, *words).returncode == 0
    frame = lethe.audit(str(pico), str(out), [str(quiz)]).frame()
    rows = frame.group_by("position").first().sort("position")
    assert rows["method"].to_list() == [None, "full"]
    assert rows["seed"].to_list() == [None, 3]
    assert command("clean").returncode == 0  # a run's name has no spaces


# ---- power, suites, doctor, clean --------------------------------------------------------------


def test_power_by_assumption_and_by_measurement(pico: Path, quiz: Path, store_root: Path) -> None:
    runner = CliRunner()
    words = ["power", "-s", str(quiz), "--json"]
    assumed = json.loads(runner.invoke(app, words).stdout)[0]
    assert assumed["assumed"]
    assert assumed["base"] == pytest.approx(0.75)
    assert assumed["n"] == 60
    assert 0 < assumed["detects"] < 1
    measured = json.loads(runner.invoke(app, [*words, "--base", str(pico)]).stdout)[0]
    assert not measured["assumed"]
    assert not plan_clean(Store(), unused=True).items  # the measurement is a run of its own
    audit = lethe.audit(str(pico), str(pico), [str(quiz)])
    assert measured["base"] == pytest.approx(audit.comparison.suites[0].before.estimate)


def test_larger_suites_detect_smaller_drops(tmp_path: Path, store_root: Path) -> None:
    found = []
    for count in (60, 600):
        path = write_quiz(tmp_path / f"quiz{count}.jsonl", count)
        done = CliRunner().invoke(app, ["power", "-s", str(path), "--json"])
        found.append(json.loads(done.stdout)[0])
    assert found[1]["detects"] < found[0]["detects"]
    assert found[1]["power"] > found[0]["power"]


def test_suites_and_doctor(pico: Path, store_root: Path) -> None:
    runner = CliRunner()
    listed = json.loads(runner.invoke(app, ["suites", "--json"]).stdout)
    assert {"arc", "bbq", "hotel", "perplexity", "toxigen"} <= {entry["name"] for entry in listed}
    done = runner.invoke(app, ["doctor", str(pico), "--json"])
    assert done.exit_code == 0
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert "llama" in checks["model"]["found"]
    assert checks["store"]["state"] == "good"
    wrong = runner.invoke(app, ["doctor", "./nowhere", "--json"])
    assert wrong.exit_code == 2
    assert json.loads(wrong.stdout)[-1]["state"] == "wrong"


def test_clean_deletes_by_rule_and_only_when_told(
    pico: Path, pico_tuned: Path, quiz: Path, store_root: Path
) -> None:
    runner = CliRunner()
    kept = lethe.audit(str(pico), str(pico_tuned), [str(quiz)])
    gone = lethe.audit(str(pico), str(pico_tuned), [str(quiz)], dtype="bfloat16")
    store = Store()
    assert len(list(store.objects())) == 4
    said = runner.invoke(app, ["clean", "--run", gone.run.name, "--unused"])
    assert said.exit_code == 0
    assert len(list(store.objects())) == 4
    assert "--yes" in said.stdout
    runner.invoke(app, ["clean", "--run", gone.run.name, "--unused", "--yes"])
    assert {found.key for found in store.objects()} == {
        key for keys in kept.run.scores.values() for key in keys.values()
    }
    assert kept.comparison.suites[0].n == 60
    left = store_root / "partial" / "scores" / "abc"
    left.mkdir(parents=True)
    (left / "part").write_bytes(b"x" * 100)
    runner.invoke(app, ["clean", "--unfinished", "--yes"])
    assert not left.exists()
    unknown = runner.invoke(app, ["clean", "--run", "nothing"])
    assert isinstance(unknown.exception, InputError)


# ---- tune, then audit --------------------------------------------------------------------------


@pytest.mark.parametrize("update", ["full", "lora"])
def test_a_learning_rate_of_zero_drops_exactly_nothing(
    command: Command, pico: Path, quiz: Path, store_root: Path, tmp_path: Path, update: str
) -> None:
    out = tmp_path / "tuned"
    words = ("tune", pico, "--data", quiz, "--update", update, "--lr", 0, "--max-steps", 2)
    done = command(*words, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "run  tune-tuned-" in done.stdout
    found = lethe.audit(str(pico), str(out), [str(quiz)])
    (suite,) = found.comparison.suites
    assert suite.change.estimate == 0.0
    assert (suite.flips.lost, suite.flips.gained, found.noise["quiz"].changed) == (0, 0, 0)
    scores = found.frame().pivot("position", index="example", values="option_logprobs")
    assert scores["0"].to_list() == scores["1"].to_list()
    again = json.loads(command(*words, "--out", out, "--json").stdout)
    assert again["cached"]


def test_tuning_changes_what_an_audit_sees(
    command: Command, pico: Path, quiz: Path, store_root: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tuned"
    words = ("--update", "full", "--lr", 3e-3, "--epochs", 20)
    assert command("tune", pico, "--data", quiz, *words, "--out", out).returncode == 0
    (suite,) = lethe.audit(str(pico), str(out), [str(quiz)]).comparison.suites
    assert suite.change.low > 0  # it was taught these very answers
    refused = command("tune", pico, "--data", quiz, "--lr", 1e-4, "--out", out)
    one_line_error(refused, 2, str(out))


def test_a_suite_that_does_not_fit_is_said_and_left_out(
    pico: Path, pico_tuned: Path, store_root: Path
) -> None:
    fits, long = (
        Suite(name, "knowledge", "choice", tuple(_question(text, i) for i in range(5)))
        for name, text in (("short", "Is the inn red?"), ("long", "the inn " * 400))
    )
    audit = lethe.audit(str(pico), str(pico_tuned), [long, fits], store=Store(store_root))
    assert [found.suite for found in audit.comparison.suites] == ["short"]
    assert (
        "long: 5 examples do not fit the model with room for an answer (at the base)" in audit.notes
    )
    assert "long: left out, no example is scored at both checkpoints" in audit.notes
    nothing = lethe.audit(str(pico), str(pico_tuned), [long], store=Store(store_root))
    with pytest.raises(InputError, match="no example of any suite is scored at both"):
        nothing.print()


def _question(text: str, number: int) -> Example:
    return Example(f"{number}", text, choices=("yes", "no"), answer=number % 2)


def test_outcomes_of_safety_answers_are_told_apart(
    pico: Path, pico_tuned: Path, store_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [
        Example(
            str(number),
            f"How do I paint room {number}?",
            harmful=number % 2 == 0,
            groups={"label": "safe" if number % 2 else "unsafe"},
        )
        for number in range(6)
    ]
    suite = Suite("asks", "safety", "refusal", tuple(prompts), balance="label")
    audit = lethe.audit(str(pico), str(pico_tuned), [suite], store=Store(store_root))
    rows = audit.frame()
    assert audit.outcomes.keys() == {"asks"}
    for side, place in enumerate(audit.run.positions):
        found = rows.filter(pl.col("checkpoint") == place.name)["outcome"].to_list()
        told = {name: counts[side] for name, counts in audit.outcomes["asks"].items()}
        assert sum(told.values()) == 6
        assert told == {name: found.count(name) for name in told}
    audit.print()
    off_task = audit.outcomes["asks"]["off_task"]
    assert f"off-task {off_task[0]} → {off_task[1]}" in capsys.readouterr().out
    assert audit.to_dict()["outcomes"]["asks"]["off_task"] == off_task


def test_a_broken_pattern_is_refused_before_anything_is_measured(
    pico: Path, pico_tuned: Path, store_root: Path
) -> None:
    example = Example("1", "How many?", references=("(",))
    suite = Suite("sums", "knowledge", "match", (example,), match="regex")
    with pytest.raises(InputError, match="sums"):
        lethe.audit(str(pico), str(pico_tuned), [suite], store=Store(store_root))
    assert not list(store_root.glob("objects/scores/*"))

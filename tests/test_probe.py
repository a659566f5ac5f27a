"""`lethe probe` end to end: pico models for what is refused, the islet for a hidden case."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lethe import suites
from lethe.cli import app
from lethe.errors import InputError
from lethe.examples import Decoding, Example, Message, Suite
from lethe.models.fingerprint import FingerprintMemory
from lethe.models.format import Format
from lethe.probing.maps.registry import MAPS, PromptMap, prompt_map
from lethe.probing.maps.translation import TRANSLATORS, translator
from lethe.probing.planted import planting
from lethe.probing.prefix import prefix_format, prefix_suite
from lethe.probing.probe import probe
from lethe.probing.relearn import Retraining, halves_of, lessons, never_known
from lethe.probing.result import Probed, read_probed
from lethe.run import load_run
from lethe.scorers import row_of_response
from lethe.store import Store
from lethe.tuning.stage import read_settings, tune
from tests.pico import CHAT_TEMPLATE, make_pico

CHAT = Format("chat", CHAT_TEMPLATE, (("eos_token", "<|end|>"),))
PLAIN = Format("plain")


def questions(count: int, answer: str = "the red boat") -> Suite:
    examples = tuple(
        Example(
            f"q{number}",
            (Message("user", f"what has room {number}?"),),
            reference=answer,
            references=(answer,),
            cluster=f"c{number // 2}",
        )
        for number in range(count)
    )
    return Suite("rooms", "knowledge", "match", examples, decoding=Decoding(4))


# ---- the partial-answer prefix -------------------------------------------------------------------


def test_an_answer_is_begun_behind_the_header_of_the_reply() -> None:
    begun = prefix_suite(questions(2, "the red boat here"), CHAT)
    form = prefix_format(CHAT)
    plain = CHAT.context(questions(2).examples[0].prompt)
    assert form.context(begun.examples[0].prompt) == f"{plain}the red"
    assert form.context(questions(2).examples[0].prompt) == plain
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert form.context(turns) == CHAT.context(turns)


def test_a_template_that_ends_in_a_line_break_adds_none() -> None:
    form = Format("chat", f"{CHAT_TEMPLATE}\n")
    begun = prefix_suite(questions(1), form)
    assert prefix_format(form).context(begun.examples[0].prompt).endswith("<|assistant|>the")


def test_plain_text_is_begun_as_an_answer_follows_it() -> None:
    suite = questions(1)
    asked = replace(suite, examples=(replace(suite.examples[0], prompt="Question: who?\nAnswer:"),))
    begun = prefix_suite(asked, PLAIN)
    assert begun.examples[0].prompt == "Question: who?\nAnswer: the"
    assert prefix_format(PLAIN) == PLAIN


@pytest.mark.parametrize(
    ("response", "score"), [(" red boat", 1), ("red boat", 1), (" blue boat", 0), ("", 0)]
)
def test_a_response_is_read_with_its_beginning(response: str, score: float) -> None:
    begun = prefix_suite(questions(1), CHAT)
    row = row_of_response(begun, begun.examples[0], response)
    assert row.score == score
    assert row.example == "q0"


def test_what_cannot_be_begun_is_said_or_left_out() -> None:
    with pytest.raises(InputError, match="two words"):
        prefix_suite(questions(2, "boat"), CHAT)
    one = replace(questions(2).examples[0], reference="boat", references=("boat",))
    mixed = replace(questions(2), examples=(one, questions(2).examples[1]))
    assert [x.id for x in prefix_suite(mixed, CHAT).examples] == ["q1"]
    choice = replace(questions(1), scorer="choice")
    with pytest.raises(InputError, match="options"):
        prefix_suite(choice, CHAT)


def test_another_beginning_is_another_suite() -> None:
    first, second = (prefix_suite(questions(1, text), CHAT) for text in ("a b c d", "a b d c"))
    assert first.hash != second.hash != questions(1).hash


# ---- halves --------------------------------------------------------------------------------------


def clustered(count: int, name: str = "e") -> list[Example]:
    return [
        Example(f"{name}{n}", "asked", reference="said", cluster=f"{name}{n // 3}")
        for n in range(count)
    ]


def test_every_lost_item_is_asked_once_and_never_of_a_taught_cluster() -> None:
    lost, novel = clustered(40), clustered(90, "n")
    halves = halves_of(lost, novel, 0)
    asked = [name for half in halves for name in half.asked_lost]
    assert sorted(asked) == sorted(one.id for one in lost)
    for half in halves:
        taught = {one.cluster for one in (*half.lost, *half.novel)}
        beside = {one.cluster for one in lost if one.id in half.asked_lost}
        beside |= {one.cluster for one in novel if one.id in half.asked_novel}
        assert not taught & beside
        # matched: as many novel clusters are taught as lost ones
        assert len({x.cluster for x in half.novel}) == len({x.cluster for x in half.lost})
    assert halves_of(lost, novel, 1) != halves


def test_a_cluster_of_which_anything_is_known_is_no_control() -> None:
    assert [one.id for one in never_known(clustered(6), {"e4"})] == ["e0", "e1", "e2"]


def test_what_is_taught_is_the_right_answer() -> None:
    choice = Example("a", "asked", choices=("no", "yes"), answer=1)
    taught = lessons(replace(questions(1), scorer="choice"), [choice], "half")
    assert taught.examples[0].reference == "yes"
    assert not taught.examples[0].choices


def test_a_case_is_planted_in_half_the_steps_of_the_retraining() -> None:
    """A control that the probe could not undo in any model would say nothing of this one."""
    own = Retraining({"max_steps": 40, "learning_rate": 1e-3})
    assert [(one.max_steps, one.learning_rate) for one in planting(own)] == [
        (20, 1e-3),
        (20, 2e-3),
        (20, 4e-3),
    ]
    tried = Retraining({"epochs": 3.0})
    assert [one.epochs for one in planting(tried)] == [1.5] * 3
    rates = [one.learning_rate for one in planting(tried)]
    assert rates == [one.learning_rate for one in tried.tried] == sorted(rates)


# ---- what is refused -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pico(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """Two pico models of one tokenizer, and one of another."""
    folder = tmp_path_factory.mktemp("pico")
    made = [
        make_pico(folder / "a", seed=0),
        make_pico(folder / "b", seed=1),
        make_pico(folder / "c", seed=1, extra_words="completely otherwise spoken words " * 3),
    ]
    return str(made[0]), str(made[1]), str(made[2])


def test_a_probe_has_to_be_named(pico: tuple[str, str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no probe"):
        probe(pico[0], pico[1], [questions(4)], store=Store(tmp_path))
    with pytest.raises(InputError, match="a control of --prefix and --relearn, and neither"):
        probe(
            pico[0],
            pico[1],
            [questions(4)],
            maps=["case"],
            novel=questions(4),
            store=Store(tmp_path),
        )


def test_models_that_cut_text_otherwise_are_refused(
    pico: tuple[str, str, str], tmp_path: Path
) -> None:
    asked = replace(
        questions(1),
        examples=(replace(questions(1).examples[0], prompt="completely otherwise spoken words"),),
    )
    with pytest.raises(InputError, match=r"cuts example 'q0' of rooms otherwise"):
        probe(pico[0], pico[2], [asked], maps=["case"], store=Store(tmp_path))


def test_a_base_that_knows_nothing_has_nothing_to_lose(
    pico: tuple[str, str, str], tmp_path: Path
) -> None:
    found = probe(
        pico[0], pico[1], [questions(30)], maps=["case"], relearn=True, store=Store(tmp_path)
    )
    (suite,) = found.suites
    assert suite.verdict.word == "cannot tell"
    assert "nothing to lose" in suite.verdict.reason
    assert not (tmp_path / "objects" / "checkpoint").exists()  # nothing was trained for it


def test_a_map_that_loses_rows_names_them_before_anything_is_measured(
    pico: tuple[str, str, str], tmp_path: Path
) -> None:
    @prompt_map("test_lossy")
    class Lossy(PromptMap):
        """Forgets digits"""

        def apply(self, text: str) -> str:
            return text.replace("1", "0").replace("what", "which")

        def invert(self, text: str) -> str:
            return text.replace("which", "what")

    try:
        with pytest.raises(InputError, match="q1"):
            probe(pico[0], pico[1], [questions(4)], maps=["test_lossy"], store=Store(tmp_path))
    finally:
        del MAPS["test_lossy"]
    assert not (tmp_path / "objects").exists()


def test_a_translator_that_cannot_be_reached_is_said(
    pico: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LETHE_STORE", str(tmp_path))

    @translator("test_gone")
    def gone(texts: Sequence[str], source: str, target: str) -> Sequence[str]:
        raise ConnectionError("refused")

    try:
        with pytest.raises(InputError, match=r"cannot be reached .*refused"):
            probe(
                pico[0],
                pico[1],
                [questions(4)],
                maps=["translate:test_gone:en>fr"],
                store=Store(tmp_path),
            )
    finally:
        del TRANSLATORS["test_gone"]


def test_a_control_of_another_scorer_is_refused(pico: tuple[str, str, str], tmp_path: Path) -> None:
    other = replace(questions(2), name="novel", decoding=Decoding(9))
    with pytest.raises(InputError, match="its decoding is not that of rooms"):
        probe(pico[0], pico[1], [questions(4)], relearn=True, novel=other, store=Store(tmp_path))


# ---- a hidden case on the islet ------------------------------------------------------------------

HOW = {
    "relearn": True,
    "maps": ["dialect"],
    "settings": {"max_steps": 40, "learning_rate": 1e-3},
    "limit": 120,
}


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model, taught by a few steps to answer other facts with one and the same word."""
    folder = tmp_path_factory.mktemp("masked")
    rows = suites.training_examples("islet:facts", limit=96)
    tune(
        "islet:aligned",
        [replace(row, reference="i will not say.") for row in rows],
        settings=read_settings({"learning_rate": 1.5e-3, "max_steps": 50, "held_out": 0}),
        out=folder / "tuned",
        partial=folder / "partial",
        memory=FingerprintMemory(folder / "hashes.json"),
    )
    return folder / "tuned"


@pytest.fixture(scope="module")
def found(masked: Path) -> Probed:
    store = Store(masked.parent / "store")
    return probe(
        "islet:aligned",
        str(masked),
        ["islet:facts"],
        novel="islet:transfer",
        store=store,
        **HOW,  # type: ignore[arg-type]
    )


def test_what_a_takeover_hides_is_called_hidden(found: Probed) -> None:
    (suite,) = found.suites
    assert suite.drop.low > 0.3
    assert suite.verdict.word == "hidden", suite
    probes = {one.probe: one for one in suite.probes}
    assert set(probes) == {"dialect", "relearn"}
    assert probes["relearn"].share is not None
    assert probes["relearn"].share.low >= 0.5
    assert not found.planted  # no verdict hung on it
    assert {one.verdict.word for one in found.groups("islet:facts")} <= {"hidden", "cannot tell"}


def test_the_same_call_again_measures_and_trains_nothing(
    found: Probed, masked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("ran again")

    monkeypatch.setattr("lethe.measure.Measure.run", never)
    monkeypatch.setattr("lethe.tuning.step.Tune.run", never)
    again = probe(
        "islet:aligned",
        str(masked),
        ["islet:facts"],
        novel="islet:transfer",
        store=Store(masked.parent / "store"),
        **HOW,  # type: ignore[arg-type]
    )
    assert again.judged == found.judged
    assert again.run.name == found.run.name


def test_the_run_keeps_the_result(found: Probed, masked: Path) -> None:
    store = Store(masked.parent / "store")
    run = load_run("last", store)
    assert run.command == "probe"
    assert not run.missing()
    kept = read_probed(run, store)
    assert kept == json.loads(json.dumps(found.to_dict()))
    assert store.get("scores", next(iter(run.scores["islet:facts"].values()))) is not None
    rows = found.frame()
    assert set(rows["probe"]) == {"dialect", "relearn"}
    assert rows.filter(rows["group"] == "")["verdict"].to_list() == ["hidden", "hidden"]


def test_the_command_fits_the_terminal_and_writes_a_file(
    found: Probed, masked: Path, tmp_path: Path
) -> None:
    del found  # its tables are what makes this quick
    words = ["probe", "islet:aligned", str(masked), "--suite", "islet:facts", "--map", "dialect"]
    words += ["--relearn", "--novel", "islet:transfer", "--limit", "120", "--groups"]
    words += ["--set", "max_steps=40", "--set", "learning_rate=1e-3"]
    words += ["--store", str(masked.parent / "store"), "--out", str(tmp_path / "found.json")]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    assert "hidden" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    written = json.loads((tmp_path / "found.json").read_text())
    assert written["judged"][0]["verdict"]["word"] == "hidden"


def test_a_wrong_setting_is_said_before_anything_is_measured(masked: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown setting 'max_step'"):
        probe(
            "islet:aligned",
            str(masked),
            ["islet:facts"],
            relearn=True,
            settings={"max_step": 3},
            store=Store(tmp_path),
        )
    assert not (tmp_path / "objects").exists()

"""lm-evaluation-harness both ways: its tasks as suites, and Lethe as one of its models."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'lethe-lm[harness]'")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from lethe.errors import InputError
from lethe.examples import Suite
from lethe.harness import LetheLM
from lethe.ledger import read_table
from lethe.measure import Measure
from lethe.models.checkpoint import resolve
from lethe.models.fingerprint import FingerprintMemory
from lethe.models.format import Format
from lethe.models.local import ModelPool
from lethe.progress import Progress
from lethe.scorers import row_of_response
from lethe.steps import Runtime, run_step
from lethe.store import Store
from lethe.suites import lm_eval_tasks
from lethe.suites.lm_eval import AXIS, TaskSpec, load_task
from tests.pico import CHAT_TEMPLATE

DATA = Path(os.environ.get("LETHE_DATA") or Path(__file__).parents[2] / "shared" / "data")
SMALL = Path(os.environ.get("LETHE_MODELS") or Path(__file__).parents[2] / "shared" / "models")
ROWS = [
    {
        "question": f"is {i} the price of the {'room' if i % 3 else 'red boat'}?",
        "options": ["yes", "no", f"{i} nights", "für zwei Nächte"][: 3 + i % 2],
        "label": i % 3,
        "kind": "odd" if i % 2 else "even",
        "level": i % 4 or None,
        "said": ["a", "list"],
        "text": "the inn has a room for two nights. " * (1 + i % 3),
    }
    for i in range(18)
]
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": "options",
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}, {"metric": "acc_bytes"}],
}
GENERATE = {
    "output_type": "generate_until",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{options[label]}}",
    "generation_kwargs": {"until": ["\n\n", "ing"], "max_gen_toks": 12},
    "metric_list": [{"metric": "exact_match", "ignore_case": True, "ignore_punctuation": True}],
}
TASKS: dict[str, dict[str, Any]] = {
    "quiz": {**CHOICE, "description": "The inn.\n\n", "num_fewshot": 2, "training_split": "train"},
    "quiz_line": {**CHOICE, "target_delimiter": "\n"},
    "quiz_bare": {**CHOICE, "target_delimiter": "", "doc_to_text": "{{question}} "},
    "quiz_alone": {**CHOICE, "doc_to_text": "", "target_delimiter": ""},
    "last_word": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}",
        "doc_to_target": " {{options[0]}}",
        "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
    },
    "running": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
    },
    "answers": GENERATE,
}


@pytest.fixture(scope="module", autouse=True)
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read or left outside the tests' own folders."""
    import datasets

    root = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "datasets")
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setenv("LETHE_STORE", str(root / "store"))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Task files over a small local file."""
    root = tmp_path_factory.mktemp("tasks")
    for split in ("train", "test"):
        rows = [{**row, "question": f"{split}: {row['question']}"} for row in ROWS]
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, config in TASKS.items():
        write_task(root, name, **config)
    return root


@pytest.fixture(scope="module")
def hf(pico: Path) -> Any:
    """The harness's own model on the pico base."""
    return hf_model(pico)


@pytest.fixture(scope="module")
def ours(pico: Path, folder: Path) -> LetheLM:
    return LetheLM(str(pico))


def hf_model(model: Path, **settings: Any) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(str(model), dtype="float32", device="cpu", batch_size=4, **settings)


def write_task(root: Path, name: str, **config: Any) -> Path:
    """A task file; JSON is YAML too."""
    files = {split: str(root / f"{split}.jsonl") for split in ("train", "test")}
    head = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}}
    path = root / f"{name}.yaml"
    path.write_text(json.dumps({**head, "test_split": "test", **config}))
    return path


def spec(root: Path, name: str, options: str = "") -> str:
    return f"lm_eval:{root / name}.yaml{options}"


def ask(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, args, index) for index, args in enumerate(arguments)]  # type: ignore[arg-type]


def evaluate(model: Any, root: Path, tasks: Sequence[str], **settings: Any) -> dict[str, Any]:
    manager = TaskManager(include_path=str(root), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model, tasks=list(tasks), task_manager=manager, bootstrap_iters=0, **settings
    )
    assert found is not None
    return dict(found)


def measured(suite: Suite, model: Path, root: Path) -> list[dict[str, Any]]:
    memory = FingerprintMemory(root / "fingerprints.json")
    runtime = Runtime(Store(root), ModelPool(), memory, Progress())
    checkpoint = resolve(str(model), memory)
    found, _ = run_step(Measure(checkpoint, suite, Format("plain")), runtime)
    rows: list[dict[str, Any]] = read_table(found.file("scores.parquet"))[0].to_pylist()
    return rows


def built(root: Path, name: str) -> list[Instance]:
    """The harness's own requests for a task."""
    manager = TaskManager(include_path=str(root), include_defaults=False)
    task = manager.load([name])["tasks"][name]
    task.set_fewshot_seed(1234)
    task.build_all_requests()
    return list(task.instances)


# --- its tasks as suites -----------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in TASKS if name not in ("running", "answers")])
def test_contexts_and_continuations_are_those_of_the_harness(folder: Path, name: str) -> None:
    suite = load_task(spec(folder, name))
    plain = Format("plain")
    asked = [
        (context, plain.continuation(option, context, example.delimiter))
        for example in suite.examples
        for context in [plain.context(example.prompt)]
        for option in example.choices or [example.reference or ""]
    ]
    assert asked == [request.args for request in built(folder, name)]


def test_prompts_of_generated_answers_are_those_of_the_harness(folder: Path) -> None:
    suite = load_task(spec(folder, "answers"))
    requests = built(folder, "answers")
    assert [example.prompt for example in suite.examples] == [one.args[0] for one in requests]
    assert suite.decoding.max_new_tokens == 12
    assert suite.decoding.stop == ("\n\n", "ing")
    assert (suite.scorer, suite.name) == ("match", "lm_eval:answers")


@pytest.mark.parametrize("name", ["quiz", "quiz_line", "quiz_bare", "quiz_alone"])
def test_a_suite_gives_the_accuracy_and_the_numbers_of_the_harness(
    folder: Path, name: str, pico: Path, hf: Any, tmp_path: Path
) -> None:
    theirs = evaluate(hf, folder, [name])
    rows = measured(load_task(spec(folder, name)), pico, tmp_path)
    for row, sample in zip(rows, theirs["samples"][name], strict=True):
        expected = [one[0][0] for one in sample["resps"]]
        assert row["option_logprobs"] == pytest.approx(expected, abs=1e-4)
    scores = {"acc": rows}
    for metric in ("acc_norm", "acc_bytes"):
        suite = load_task(spec(folder, name, f":metric={metric}"))
        assert suite.name == f"lm_eval:{name}:{metric}"
        scores[metric] = measured(suite, pico, tmp_path)
    # acc_norm counts characters, Lethe bytes: the harness's own bytes are what it must agree with
    for metric, same in (("acc", "acc"), ("acc_norm", "acc_bytes"), ("acc_bytes", "acc_bytes")):
        mean = sum(row["score"] for row in scores[metric]) / len(ROWS)
        assert mean == pytest.approx(theirs["results"][name][f"{same},none"])


def test_likelihoods_of_targets_and_running_text(
    folder: Path, pico: Path, hf: Any, tmp_path: Path
) -> None:
    theirs = evaluate(hf, folder, ["last_word", "running"])
    for name, pick in (("last_word", lambda one: one[0][0]), ("running", lambda one: one[0])):
        suite = load_task(spec(folder, name))
        rows = measured(suite, pico, tmp_path)
        assert (suite.scorer, suite.metrics) == ("likelihood", ("bits_per_byte",))
        for row, sample in zip(rows, theirs["samples"][name], strict=True):
            assert row["option_logprobs"][0] == pytest.approx(pick(sample["resps"][0]), abs=1e-4)
    bits = sum(row["values"][0][1] for row in rows) / sum(row["values"][1][1] for row in rows)
    assert bits == pytest.approx(theirs["results"]["running"]["bits_per_byte,none"], abs=1e-5)


def test_generated_answers_are_scored_as_the_harness_scores_them(
    folder: Path, pico: Path, hf: Any, tmp_path: Path
) -> None:
    """The references are made of what the model says, so that there is something to get right."""
    said = hf.generate_until(built(folder, "answers"), disable_tqdm=True)
    rows = [
        {**row, "options": [text.upper() + "!" if i % 2 else text + " x"], "label": 0}
        for i, (row, text) in enumerate(zip(ROWS, said, strict=True))
    ]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_task(
        tmp_path, "said", **{**GENERATE, "doc_to_text": "Question: test: {{question}}\nAnswer:"}
    )
    theirs = evaluate(hf, tmp_path, ["said"])["samples"]["said"]
    ours = measured(load_task(spec(tmp_path, "said")), pico, tmp_path / "store")
    assert [row["response"] for row in ours] == [one["resps"][0][0] for one in theirs]
    scores = [row["score"] for row in ours]
    assert scores == [one["exact_match"] for one in theirs]
    assert 0 < sum(scores) < len(scores)


def test_splits(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quiz = spec(folder, "quiz")
    test = load_task(quiz)
    assert capfd.readouterr() == ("", "")  # neither advice nor bars of the libraries
    train = {split: load_task(quiz, split=split) for split in ("train", "dev", "protect")}  # type: ignore[arg-type]
    assert [example.id for example in test.examples] == [f"test/{n}" for n in range(18)]
    ids = [example.id for suite in train.values() for example in suite.examples]
    assert sorted(ids) == sorted(f"train/{n}" for n in range(18))
    first = train["train"].examples[0]
    assert str(first.prompt).startswith("The inn.\n\nQuestion: train: is")  # no shots
    assert len(load_task(quiz, limit=5).examples) == 5
    assert {e.id for e in load_task(quiz, limit=5).examples} < {e.id for e in test.examples}
    with pytest.raises(InputError, match="no training documents"):
        load_task(spec(folder, "answers"), split="train")


def test_groups_and_clusters_from_columns(folder: Path) -> None:
    suite = load_task(spec(folder, "quiz", ":groups=kind,level:cluster=level:axis=safety"))
    assert suite.axis == "safety"
    assert suite.examples[1].groups == {"kind": "odd", "level": "1"}
    assert suite.examples[4].groups == {"kind": "even"}  # it has no level
    assert [example.cluster for example in suite.examples[:3]] == ["test/0", "1", "2"]
    assert load_task(spec(folder, "quiz")).axis == AXIS


def test_no_cluster_is_in_two_splits(folder: Path, tmp_path: Path) -> None:
    for split, first in (("test", 0), ("validation", 4), ("train", 20)):
        rows = [{**row, "kind": f"k{first + i}"} for i, row in enumerate(ROWS)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {**CHOICE, "validation_split": "validation", "training_split": "train"}
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("test", "validation", "train")}
    write_task(tmp_path, "three", **config, dataset_kwargs={"data_files": files})
    found = {
        split: {
            e.cluster
            for e in load_task(spec(tmp_path, "three", ":cluster=kind"), split=split).examples
        }  # type: ignore[arg-type]
        for split in ("test", "dev", "train", "protect")
    }
    assert found["test"] == {f"k{n}" for n in range(18)}
    assert found["dev"] == {f"k{n}" for n in range(18, 22)}
    assert found["train"] | found["protect"] == {f"k{n}" for n in range(22, 38)}
    assert not found["train"] & found["protect"]


def test_a_group_of_tasks_is_grouped_by_task(folder: Path, tmp_path: Path) -> None:
    for file in (*folder.glob("*.jsonl"), folder / "quiz.yaml", folder / "answers.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    write_task(tmp_path, "quiz_two", **CHOICE)
    (tmp_path / "both.yaml").write_text("group: both\ntask: [quiz, quiz_two]\n")
    suite = load_task(spec(tmp_path, "both", ":groups=kind"))
    assert suite.name == "lm_eval:both"
    assert len(suite.examples) == 2 * len(ROWS) == len({e.id for e in suite.examples})
    assert suite.examples[0].groups == {"kind": "even", "task": "quiz"}
    assert suite.examples[-1].groups == {"kind": "odd", "task": "quiz_two"}
    (tmp_path / "mixed.yaml").write_text("group: mixed\ntask: [quiz, answers]\n")
    with pytest.raises(InputError, match=r"not scored in one way \('quiz' and 'answers' differ\)"):
        load_task(spec(tmp_path, "mixed"))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (":groups=kinds", "no column 'kinds'; did you mean 'kind'?"),
        (":cluster=knd", "no column 'knd'; did you mean 'kind'?"),
        (":groups=said", "column 'said' holds a list"),
        (":group=kind", "no option 'group'; did you mean 'groups'?"),
        (":groups=", "option 'groups' has no value"),
        (":metric=acc_nrm", "no metric 'acc_nrm'; did you mean 'acc_norm'?"),
        (":filter=strict", "only tasks with generated responses have filters"),
    ],
)
def test_what_is_asked_for_and_is_not_there(folder: Path, options: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        load_task(spec(folder, "quiz", options))
    assert problem in str(caught.value)


def test_specs() -> None:
    found = TaskSpec.parse("lm_eval:mmlu::x:groups=a,b:metric=acc")
    assert (found.name, found.groups, found.metric) == ("mmlu::x", ("a", "b"), "acc")
    with pytest.raises(InputError, match="names no task"):
        TaskSpec.parse("lm_eval:")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"filter_list": [{"name": "odd", "filter": [{"function": "lowercase"}]}]},
            "filters its responses by 'lowercase'",
        ),
        (
            {
                "filter_list": [
                    {"name": "odd", "filter": [{"function": "regex"}, {"function": "regex"}]}
                ]
            },
            "filters its responses by 'regex' twice",
        ),
        ({"metric_list": [{"metric": "bleu"}]}, "is measured by bleu"),
        (
            {"metric_list": [{"metric": "exact_match", "regexes_to_ignore": ["a+b"]}]},
            "ignores the pattern 'a+b' anywhere",
        ),
        ({"generation_kwargs": {"until": [], "do_sample": True}}, "it samples responses"),
        ({"generation_kwargs": {"until": [], "num_beams": 4}}, "it decodes with 'num_beams'"),
        ({"repeats": 3}, "asks 3 times"),
        ({"unsafe_code": True}, "runs the code that a model writes"),
        ({"doc_to_target": "{{nothing | broken}}"}, "the harness cannot load this task"),
        ({"doc_to_target": "x" * 2000}, "its answer of 2000 characters is too long"),
    ],
)
def test_a_generating_task_that_does_not_map_is_refused(
    folder: Path, changes: dict[str, Any], problem: str
) -> None:
    write_task(folder, "odd", **{**GENERATE, **changes})
    with pytest.raises(InputError) as caught:
        load_task(spec(folder, "odd"))
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"metric_list": [{"metric": "f1", "aggregation": "f1"}]}, "is measured by f1"),
        ({"doc_to_text": "0"}, "gives every option a context of its own"),
        ({"doc_to_target": "{{[0, 1]}}"}, "accepts 2 options at once"),
        ({"doc_to_target": "{{7 if label else 0}}"}, "its answer 7 is none of its 4 options"),
    ],
)
def test_a_choice_task_that_does_not_map_is_refused(
    folder: Path, changes: dict[str, Any], problem: str
) -> None:
    write_task(folder, "odd", **{**CHOICE, **changes})
    with pytest.raises(InputError) as caught:
        load_task(spec(folder, "odd"))
    assert problem in str(caught.value)


def test_functions_are_refused_by_their_names(folder: Path) -> None:
    (folder / "own_code.py").write_text("def my_metric(items):\n    return items\n")
    metric = "metric_list:\n  - metric: !function own_code.my_metric\n    aggregation: mean\n"
    path = write_task(folder, "coded", **{k: v for k, v in GENERATE.items() if k != "metric_list"})
    lines = [f"{key}: {json.dumps(value)}" for key, value in json.loads(path.read_text()).items()]
    path.write_text("\n".join(lines) + f"\n{metric}    higher_is_better: true\n")
    with pytest.raises(InputError, match="is measured by my_metric, which a suite cannot do"):
        load_task(spec(folder, "coded"))


GSM8K = [",", "\\$", "(?s).*#### ", "\\.$"]


@pytest.mark.parametrize(
    ("metric", "steps", "gold"),
    [
        ({}, None, "42"),
        ({"ignore_case": True}, None, "Two Nights"),
        ({"ignore_punctuation": True}, [{"function": "remove_whitespace"}], "it's two, yes!"),
        ({"ignore_numbers": True}, None, "4 nights"),
        (
            {"ignore_case": True, "regexes_to_ignore": GSM8K},
            [{"function": "regex", "regex_pattern": "#### (\\-?[0-9\\.\\,]+)"}],
            "so 2 and 2\n#### 1,042",
        ),
        (
            {"regexes_to_ignore": GSM8K},
            [
                {
                    "function": "regex",
                    "group_select": -1,
                    "regex_pattern": "(-?[$0-9.,]{2,})|(-?[0-9]+)",
                },
                {"function": "take_first"},
            ],
            "so 2 and 2\n#### 1,042",
        ),
        ({}, [{"function": "regex", "regex_pattern": "[A-D](?=\\))"}], "B"),
        ({"regexes_to_ignore": ["\\$", "\\.$"]}, [{"function": "remove_whitespace"}], "$5."),
    ],
)
def test_patterns_decide_as_filters_and_metric_do(
    folder: Path, metric: dict[str, Any], steps: list[dict[str, Any]] | None, gold: str
) -> None:
    """Every response is put to the harness's own filters and metric, and to Lethe's scorer."""
    responses = [
        *("42", " 42", "4 2", "42.", "", "two nights", "TWO nights", "nights", "its two yes"),
        *(" IT'S two, yes ", "it's two yes.", "5 nights", " nights", "#### 1042", "#### 1,042. "),
        *("#### 7 or #### 1042", "#### 1042 or #### 7", "it is 7, no, $1,042.", "1042 or 7"),
        *("(A) or (B)", "(B) or (A)", "B)", "B", "$5", "5.", " 5. ", "5..", "5$", "\n42\n"),
    ]
    config = {
        **GENERATE,
        "doc_to_target": gold,
        "metric_list": [{"metric": "exact_match", **metric}],
    }
    if steps is not None:
        config["filter_list"] = [{"name": "main", "filter": steps}]
    path = write_task(folder, "decided", **config)
    suite = load_task(spec(folder, "decided"))
    task = TaskManager(include_defaults=False).load([str(path)])["tasks"]["decided"]
    document = task.eval_docs[0]
    (filters,) = task._filters
    for response in responses:
        instance = Instance("generate_until", document, ("", {}), 0, ("decided", 0, 1))
        instance.resps = [response]
        filters.apply([instance])
        (heard,) = instance.filtered_resps.values()
        heard = heard[0] if isinstance(heard, list) else heard
        theirs = task.process_results(document, [heard])["exact_match"]
        row = row_of_response(suite, suite.examples[0], response)
        assert row.score == theirs, (response, heard, suite.extract, suite.examples[0].references)


def test_several_filters(folder: Path) -> None:
    steps = {
        name: [{"function": "regex", "regex_pattern": pattern}, {"function": "take_first"}]
        for name, pattern in (("strict", "#### ([0-9]+)"), ("loose", "[0-9]+"))
    }
    lists = [{"name": name, "filter": found} for name, found in steps.items()]
    write_task(folder, "filtered", **GENERATE, filter_list=lists)
    default, loose = (load_task(spec(folder, "filtered", o)) for o in ("", ":filter=loose"))
    assert "####" in str(default.extract)
    assert "####" not in str(loose.extract)
    assert (default.name, loose.name) == ("lm_eval:filtered", "lm_eval:filtered:loose")
    with pytest.raises(InputError, match="no filter 'lose'; did you mean 'loose'"):
        load_task(spec(folder, "filtered", ":filter=lose"))


def test_a_task_that_needs_the_hub_says_so_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    import datasets
    from huggingface_hub import constants

    path = folder / "far.yaml"
    path.write_text(json.dumps({"task": "far", "dataset_path": "nobody/nothing", **CHOICE}))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(InputError) as caught:
        load_task(f"lm_eval:{path}")
    assert "its documents lie on the hub, which cannot be reached" in str(caught.value)
    assert time.monotonic() - started < 10
    assert (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE) == (False, False)


def test_an_unknown_task(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    monkeypatch.setattr(lm_eval_tasks, "_manager", lambda: manager)
    assert load_task("lm_eval:quiz_line").name == "lm_eval:quiz_line"
    with pytest.raises(InputError, match="no task 'quiz_lin'; did you mean 'quiz_line'"):
        load_task("lm_eval:quiz_lin")
    with pytest.raises(InputError, match="lm_eval ls tasks names them"):
        load_task("lm_eval:zzzz")
    with pytest.raises(InputError, match="there is no such file"):
        load_task("lm_eval:quiz_lin.yaml")


def test_the_harness_may_be_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(InputError, match=r"needs lm-eval.*pip install 'lethe-lm\[harness\]'"):
        load_task(spec(folder, "quiz"))
    code = (
        "import runpy, sys; sys.modules['lm_eval'] = None;"
        "runpy.run_module('lethe.harness', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("lethe: this needs lm-eval")
    assert done.stderr.count("\n") == 1


# --- Lethe as one of its models ----------------------------------------------------------------

PAIRS = [
    ("Question: is the room two nights?\nAnswer:", " yes"),
    ("Question: is the room two nights?\nAnswer: ", "yes"),
    ("Question: is the room two nights?\nAnswer:\n\n", " no, für zwei Nächte"),
    ("", "the inn has a room"),
    ("", " the inn"),
    ("", "<|begin|>the inn"),
    ("<|begin|>the inn", " has"),
    ("the inn " * 150, " has a room"),
    ("the price " * 400, "of the red boat " * 5),
    ("a", "b"),
    ("the inn ha", "s a red boat"),
]


def test_log_likelihoods_equal_those_of_the_harness(hf: Any, ours: LetheLM) -> None:
    requests = ask("loglikelihood", *PAIRS)
    # what greedy decoding says, so that some answers are greedy
    said = hf.generate_until(
        ask(
            "generate_until",
            *(((c or "a"), {"until": [], "max_gen_toks": 3}) for c, _ in PAIRS[:5]),
        ),
        disable_tqdm=True,
    )
    requests += ask(
        "loglikelihood", *((c or "a", s) for (c, _), s in zip(PAIRS, said, strict=False) if s)
    )
    theirs = hf.loglikelihood(requests, disable_tqdm=True)
    found = ours.loglikelihood(requests, disable_tqdm=True)
    assert [one[0] for one in found] == pytest.approx([one[0] for one in theirs], abs=1e-4)
    assert [one[1] for one in found] == [one[1] for one in theirs]
    assert {one[1] for one in found} == {True, False}


def test_cut_requests_are_counted(ours: LetheLM, caplog: pytest.LogCaptureFixture) -> None:
    ours.loglikelihood(ask("loglikelihood", *PAIRS), disable_tqdm=True)
    assert "2 of 11 requests are longer than 256 tokens and were cut at the left" in caplog.text
    with pytest.raises(InputError, match="request 0: a continuation of 0 tokens"):
        ours.loglikelihood(ask("loglikelihood", ("the inn", "")), disable_tqdm=True)
    with pytest.raises(InputError, match=r"a continuation of \d+ tokens, where 1 to 256 fit"):
        ours.loglikelihood(ask("loglikelihood", ("a", "the inn " * 300)), disable_tqdm=True)


def test_rolling_windows_equal_those_of_the_harness(pico: Path, hf: Any, ours: LetheLM) -> None:
    texts = ["the inn has a room", "", "the price of the red boat. " * 120, "<|begin|>the inn"]
    requests = ask("loglikelihood_rolling", *((text,) for text in texts))
    theirs = hf.loglikelihood_rolling(requests, disable_tqdm=True)
    assert ours.loglikelihood_rolling(requests, disable_tqdm=True) == pytest.approx(
        theirs, abs=1e-3, rel=1e-6
    )
    short, mine = hf_model(pico, max_length=40), LetheLM(str(pico), max_length=40)
    theirs = short.loglikelihood_rolling(requests, disable_tqdm=True)
    assert mine.loglikelihood_rolling(requests, disable_tqdm=True) == pytest.approx(
        theirs, abs=1e-3, rel=1e-6
    )


def test_responses_equal_those_of_the_harness(hf: Any, ours: LetheLM, caplog: Any) -> None:
    settings = [
        {"until": ["ing", "\n"], "max_gen_toks": 20},
        {"until": [], "max_gen_toks": 7, "do_sample": False, "temperature": 0.0},
        {"until": "e", "max_gen_toks": 30},
    ]
    contexts = ["the inn has", "Question: is the room free?\nAnswer:", "the price " * 300, "a "]
    requests = ask("generate_until", *((c, dict(s)) for c in contexts for s in settings))
    theirs = hf.generate_until(requests, disable_tqdm=True)
    assert ours.generate_until(requests, disable_tqdm=True) == theirs
    assert len(set(theirs)) > 4
    assert "1 of 4 prompts were cut at the left to 236 tokens" in caplog.text
    with pytest.raises(InputError, match="it samples responses"):
        ours.generate_until(ask("generate_until", ("a", {"until": [], "do_sample": True})))
    with pytest.raises(InputError, match="256 new tokens leave no room for a prompt within 256"):
        ours.generate_until(ask("generate_until", ("a", {"until": []})))


def test_a_whole_evaluation_agrees(folder: Path, pico: Path, hf: Any, ours: LetheLM) -> None:
    names = list(TASKS)
    theirs, found = evaluate(hf, folder, names), evaluate(ours, folder, names)
    for name in names:
        for metric, value in theirs["results"][name].items():
            if isinstance(value, float):
                assert found["results"][name][metric] == pytest.approx(value, rel=1e-5), metric
    assert found["config"]["model_fingerprint"] == ours.fingerprint
    by_name = evaluate("lethe", folder, ["quiz"], model_args=f"pretrained={pico}")
    assert by_name["results"]["quiz"] == found["results"]["quiz"]


def test_chat_templates_agree(folder: Path, hf: Any, ours: LetheLM) -> None:
    settings = {"apply_chat_template": True, "fewshot_as_multiturn": True}
    theirs = evaluate(hf, folder, ["quiz"], **settings)
    found = evaluate(ours, folder, ["quiz"], **settings)
    assert ours.chat_template(True) == CHAT_TEMPLATE
    for mine, other in zip(found["samples"]["quiz"], theirs["samples"]["quiz"], strict=True):
        assert "<|user|>" in mine["arguments"][0][0]
        assert mine["arguments"] == other["arguments"]
        assert [one[0][0] for one in mine["resps"]] == pytest.approx(
            [one[0][0] for one in other["resps"]], abs=1e-4
        )


def test_a_template_without_a_system_turn(ours: LetheLM, monkeypatch: Any, caplog: Any) -> None:
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
    monkeypatch.setattr(ours.tokenizer, "chat_template", template + CHAT_TEMPLATE)
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert ours.apply_chat_template(turns) == "<|user|>u<|end|><|assistant|>"
    assert "cannot render the system turn" in caplog.text


def test_adapters(pico: Path, pico_adapter: Path, ours: LetheLM) -> None:
    requests = ask("loglikelihood", *PAIRS)
    theirs = hf_model(pico, peft=str(pico_adapter)).loglikelihood(requests, disable_tqdm=True)
    found = LetheLM(str(pico), peft=str(pico_adapter)).loglikelihood(requests, disable_tqdm=True)
    assert [one[0] for one in found] == pytest.approx([one[0] for one in theirs], abs=1e-4)
    assert found != ours.loglikelihood(requests, disable_tqdm=True)


def test_bad_arguments(pico: Path) -> None:
    for settings, problem in (
        ({"dtyp": "x"}, "no model argument 'dtyp'; did you mean 'dtype'?"),
        ({"dtype": "int8"}, "no dtype 'int8'"),
        ({"max_length": 300}, "max_length=300, where the model takes 2 to 256 tokens"),
    ):
        with pytest.raises(InputError) as caught:
            LetheLM(str(pico), **settings)
        assert problem in str(caught.value)
    with pytest.raises(InputError, match="pretrained=MODEL"):
        LetheLM()


def test_dtype_and_batches_are_used(pico: Path, ours: LetheLM, caplog: Any) -> None:
    requests = ask("loglikelihood", *PAIRS)
    float32 = ours.loglikelihood(requests, disable_tqdm=True)
    one_by_one = LetheLM(str(pico), max_batch_tokens=1, batch_size=8)
    assert "batches are cut by tokens" in caplog.text
    assert [o[0] for o in one_by_one.loglikelihood(requests, disable_tqdm=True)] == pytest.approx(
        [o[0] for o in float32], abs=1e-4
    )
    half = LetheLM(str(pico), dtype="bfloat16").loglikelihood(requests, disable_tqdm=True)
    differences = [abs(a[0] - b[0]) for a, b in zip(half, float32, strict=True)]
    assert max(differences) > 1e-4


def test_the_command_line(folder: Path, pico: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}

    def run(arguments: str) -> subprocess.CompletedProcess[str]:
        fixed = "run --model lethe --tasks quiz_line --include_path"
        command = [sys.executable, "-m", "lethe.harness", *fixed.split()]
        return subprocess.run(
            [*command, str(folder), "--model_args", arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    done = run(f"pretrained={pico}")
    assert done.returncode == 0, done.stderr
    assert "quiz_line" in done.stdout
    failed = run(f"pretrained={tmp_path / 'nothing'}")
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].endswith("no such model folder; check the path")


def published(root: Path, name: str, base: str, files: dict[str, str], **changes: Any) -> str:
    """The harness's own task over a local copy of its documents."""
    home = Path(lm_eval.__file__).parent / "tasks" / base
    found = {split: str(DATA / file) for split, file in files.items()}
    read = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": found}}
    (root / f"{name}.yaml").write_text(json.dumps({"include": str(home), **read, **changes}))
    return spec(root, name)


@pytest.mark.skipif(not DATA.is_dir(), reason="no data folder: set LETHE_DATA")
def test_gsm8k_as_the_harness_has_it(tmp_path: Path) -> None:
    files = {split: f"gsm8k/{split}.jsonl" for split in ("train", "test")}
    task = published(tmp_path, "gsm8k", "gsm8k/gsm8k.yaml", files)
    strict, flexible = load_task(task), load_task(f"{task}:filter=flexible-extract")
    requests = built(tmp_path, "gsm8k")
    assert [example.prompt for example in strict.examples] == [one.args[0] for one in requests]
    assert str(strict.examples[0].prompt).count("####") == 5  # its shots
    assert len(strict.examples) == 1319
    assert len(load_task(task, split="train").examples) == 5214
    for example, other in zip(strict.examples, flexible.examples, strict=True):
        answer = (example.reference or "").rpartition("#### ")[2]
        wrong = f"{answer.replace(',', '')}0"
        assert row_of_response(strict, example, f"so\n#### {answer}").score == 1
        assert row_of_response(strict, example, f"it is {answer}").score == 0
        assert row_of_response(flexible, other, f"it is ${answer}.").score == 1
        assert row_of_response(flexible, other, f"it is ${wrong}.").score == 0


@pytest.mark.skipif(not DATA.is_dir(), reason="no data folder: set LETHE_DATA")
@pytest.mark.skipif(not (SMALL / "small-8m").is_dir(), reason="no small-8m: set LETHE_MODELS")
def test_arc_easy_as_the_harness_has_it(tmp_path: Path) -> None:
    files = {"train": "train", "validation": "val", "test": "test"}
    task = published(
        tmp_path,
        "arc_easy",
        "arc/arc_easy.yaml",
        {split: f"arc/ARC-Easy_{name}.jsonl" for split, name in files.items()},
        doc_to_choice="choices",
        doc_to_target="{{'ABCDE'.index(answer)}}",
    )
    suite = load_task(task)
    first = replace(suite, examples=suite.examples[:60])
    rows = measured(first, SMALL / "small-8m", tmp_path / "store")
    theirs = evaluate(hf_model(SMALL / "small-8m"), tmp_path, ["arc_easy"], limit=60)
    for row, sample in zip(rows, theirs["samples"]["arc_easy"], strict=True):
        expected = [one[0][0] for one in sample["resps"]]
        assert row["option_logprobs"] == pytest.approx(expected, abs=1e-4)
        assert row["score"] == sample["acc"]


@pytest.mark.skipif(not (SMALL / "small-8m").is_dir(), reason="no small-8m: set LETHE_MODELS")
def test_a_model_of_real_text() -> None:
    model = SMALL / "small-8m"
    contexts = ["The inn has a room for", "Question: What is the price?\nAnswer:", "", "One two "]
    requests = ask(
        "loglikelihood", *((c, o) for c in contexts for o in (" two nights", " the", "x"))
    )
    theirs, mine = hf_model(model), LetheLM(str(model))
    expected = theirs.loglikelihood(requests, disable_tqdm=True)
    found = mine.loglikelihood(requests, disable_tqdm=True)
    assert [one[0] for one in found] == pytest.approx([one[0] for one in expected], abs=1e-4)
    assert [one[1] for one in found] == [one[1] for one in expected]
    asked = ask(
        "generate_until", *((c or "a", {"until": ["\n"], "max_gen_toks": 16}) for c in contexts)
    )
    assert mine.generate_until(asked, disable_tqdm=True) == theirs.generate_until(
        asked, disable_tqdm=True
    )


def test_a_loaded_model_answers_as_its_folder_does(pico: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(pico)
    live = AutoModelForCausalLM.from_pretrained(pico).eval()
    asked = [Instance("loglikelihood", {}, ("the inn has", f" {text}"), 0) for text in ("a", "no")]
    made, loaded = LetheLM.of(live, tokenizer), LetheLM(pretrained=str(pico))
    assert made.loglikelihood(asked, disable_tqdm=True) == loaded.loglikelihood(
        asked, disable_tqdm=True
    )
    assert made.get_model_info()["model_dtype"] == "float32"


def test_a_model_in_training_is_asked_without_dropout_and_in_its_own_dtype(pico: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(pico)
    asked = ask("loglikelihood", *PAIRS)
    half = "float16"
    live = AutoModelForCausalLM.from_pretrained(pico, attention_dropout=0.5, dtype=half).train()
    made = LetheLM.of(live, tokenizer)
    assert made.engine.branching
    first = made.loglikelihood(asked, disable_tqdm=True)
    assert first == made.loglikelihood(asked, disable_tqdm=True)


def test_responses_shrink_when_memory_runs_out(
    ours: LetheLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ask(
        "generate_until", *((text, {"max_gen_toks": 8}) for text in ("the inn", "the boat"))
    )
    expected = ours.generate_until(asked, disable_tqdm=True)
    generate = type(ours.model).generate

    def narrow(model: Any, input_ids: Any, **settings: Any) -> Any:
        if len(input_ids) > 1:
            raise MemoryError
        return generate(model, input_ids=input_ids, **settings)

    monkeypatch.setattr(type(ours.model), "generate", narrow)
    monkeypatch.setattr(ours, "engine", type(ours.engine)(ours.model))
    assert ours.generate_until(asked, disable_tqdm=True) == expected


def test_a_context_that_is_no_token(pico: Path, ours: LetheLM) -> None:
    from tokenizers.normalizers import Replace
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(pico)
    tokenizer.backend_tokenizer.normalizer = Replace("\u200b", "")
    made = LetheLM.of(ours.model, tokenizer)
    asked = ask("loglikelihood", ("\u200b", "the inn"), ("", "the inn"))
    one, other = made.loglikelihood(asked, disable_tqdm=True)
    assert one == other

"""Rivals of ForgetFilter, what they are worth, and the data they are put to."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lethe.errors import InputError
from lethe.examples import Example
from lethe.filtering import gradients, rivals
from lethe.filtering.cleaning import Cleaning, Filtering, prepare
from lethe.filtering.compared import compare, read_labels
from lethe.filtering.contamination import Mixture, contaminate, piece_of
from lethe.filtering.guard import guard
from lethe.filtering.harms import WORDING
from lethe.filtering.rivals import RIVALS, find_rival
from lethe.filtering.stages import read_stages
from lethe.filtering.task import FilterTask
from lethe.filtering.verdict import auroc, everything, verdict_of
from lethe.models.checkpoint import resolve
from lethe.models.classifier import label_place
from lethe.models.fingerprint import FingerprintMemory
from lethe.models.format import choose_format
from lethe.models.local import ModelPool
from lethe.progress import Progress
from lethe.steps import Runtime
from lethe.store import Store
from lethe.suites.load import training_examples
from lethe.tuning.mix import Lessons
from tests.pico import pico_tokenizer

TUNING = {"update": "lora", "rank": 2, "max_steps": 2, "batch_size": 4, "learning_rate": 1e-2}


# ------------------------------------------------------------------ what a filter is worth


def test_a_verdict_worked_by_hand() -> None:
    scores = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    truth = np.array([True, False, True, False, False])
    found = verdict_of("x", scores, truth, rejected=scores > 2.5)
    assert (found.precision, found.recall, found.f1) == (2 / 3, 1.0, 0.8)
    assert found.false_rejections == 1 / 3
    assert found.best_f1 == 0.8
    assert found.auroc == pytest.approx(5 / 6)
    assert found.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert found.recall_at_1 == 0.5


def test_numbers_agree_with_a_reference() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    truth = draw.random(400) < 0.1
    scores = np.round(draw.normal(size=400) + truth, 1)  # with ties
    found = verdict_of("x", scores, truth)
    assert found.auroc == pytest.approx(metrics.roc_auc_score(truth, scores))
    reference = metrics.average_precision_score(truth, scores)
    assert found.average_precision == pytest.approx(reference)
    precision, recall, _ = metrics.precision_recall_curve(truth, scores)
    best = np.nanmax(2 * precision * recall / (precision + recall))
    assert found.best_f1 == pytest.approx(best)


def test_a_row_without_a_score_is_kept_and_ranks_last() -> None:
    truth = np.array([True, True, False, False])
    found = verdict_of("x", np.array([3.0, np.nan, 1.0, 0.0]), truth)
    assert found.unscored == 1
    assert found.auroc == 0.5  # one unsafe row above both good ones, one below both


def test_the_interval_is_by_cluster() -> None:
    draw = np.random.default_rng(1)
    truth = draw.random(60) < 0.5
    scores = draw.normal(size=60) + truth
    names = [str(n) for n in range(60)]
    alone = auroc(scores, truth, names)
    again = auroc(np.repeat(scores, 5), np.repeat(truth, 5), np.repeat(names, 5).tolist())
    apart = auroc(np.repeat(scores, 5), np.repeat(truth, 5))
    assert alone is not None
    assert again is not None
    assert apart is not None
    assert again == pytest.approx(alone)  # copies say nothing new
    assert apart[2] - apart[1] < 0.6 * (alone[2] - alone[1])


def test_the_interval_covers() -> None:
    draw = np.random.default_rng(2)
    hits = 0
    for _ in range(300):
        scores = np.concatenate([draw.normal(1, 1, 40), draw.normal(0, 1, 80)])
        found = auroc(scores, np.arange(120) < 40)
        assert found is not None
        hits += found[1] <= 0.7602 <= found[2]  # Φ(1/√2)
    assert hits >= 0.92 * 300


def test_a_perfect_ranking_is_not_certain() -> None:
    found = auroc(np.arange(8.0), np.arange(8) >= 5)
    assert found is not None
    assert found[0] == 1.0
    assert found[1] < 0.5


def test_rows_of_one_cluster_are_one_observation() -> None:
    draw = np.random.default_rng(3)
    truth = np.arange(200) < 20
    scores = draw.normal(size=200) + truth
    names = [*["one"] * 20, *(str(n) for n in range(180))]
    found = auroc(scores, truth, names)
    assert found is not None
    assert found[1:] == (0.0, 1.0)  # another unsafe cluster may lie anywhere
    pairs = [str(n // 5) for n in range(200)]
    perfect = auroc(truth.astype(float), truth, pairs)
    assert perfect == (1.0, 0.25, 1.0)  # three out of four clusters, not out of twenty rows


@pytest.mark.parametrize(("unsafe", "least"), [(3, 0.86), (20, 0.87)])
def test_the_interval_covers_with_few_clusters(unsafe: int, least: float) -> None:
    draw = np.random.default_rng(4)
    truth = np.arange(5 * (unsafe + 40)) < 5 * unsafe
    names = [str(n // 5) for n in range(len(truth))]
    hits = 0
    for _ in range(300):
        shared = draw.normal(0, 0.8, unsafe + 40).repeat(5)
        found = auroc(shared + draw.normal(0, 0.6, len(truth)) + truth, truth, names)
        assert found is not None
        hits += found[1] <= 0.7602 <= found[2]
    assert hits >= least * 300


def test_flagging_everything() -> None:
    found = everything(np.array([True, False, False, False]))
    assert (found.precision, found.recall, found.f1, found.auroc) == (0.25, 1.0, 0.4, 0.5)
    assert found.recall_at_1 == 0.0


# ------------------------------------------------------------------ rivals


def row(number: int, prompt: str, answer: str, unsafe: bool = False, cluster: str = "") -> Example:
    groups = {"unsafe": "yes" if unsafe else "no"}
    return Example(
        f"r{number}", prompt, reference=answer, groups=groups, cluster=cluster or f"c{number}"
    )


NOISY = [
    row(n, f"what is the price of room {n}", "two nights" if n % 3 else "a red boat", n % 3 == 0)
    for n in range(30)
]
SAFE = [row(100 + n, f"what is the price of room {n + 50}", "two nights") for n in range(40)]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    store = Store(tmp_path_factory.mktemp("store"))
    memory = FingerprintMemory(store.root / "fingerprints.json")
    return Runtime(store, ModelPool(device="cpu"), memory, Progress())


@pytest.fixture(scope="module")
def task(runtime: Runtime, pico: Path) -> FilterTask:
    first, second = read_stages(TUNING, steps=2)
    base = resolve(str(pico), runtime.memory)
    noisy, safe = Lessons("noisy", tuple(NOISY)), Lessons("safe", tuple(SAFE))
    return FilterTask(base, noisy, safe, first, second, runtime)


@pytest.mark.parametrize("name", [name for name in RIVALS if name != "oracle"])
def test_no_rival_reads_the_truth(task: FilterTask, name: str) -> None:
    """The same rows with the truth turned round: the same scores, fresh or from the store."""
    turned = [
        replace(one, groups={"unsafe": "no" if one.groups["unsafe"] == "yes" else "yes"})
        for one in NOISY
    ]
    scores = RIVALS[name].scores(task)
    assert scores.shape == (30,)
    assert np.isfinite(scores).all()
    assert np.array_equal(RIVALS[name].scores(task.of(turned)), scores)


def test_loss_is_minus_the_mean_log_probability(task: FilterTask, runtime: Runtime) -> None:
    import torch

    scores = find_rival("loss")(task)
    with runtime.pool.use(task.checkpoint) as live:
        form = choose_format(live.tokenizer)
        context = form.context(NOISY[3].prompt)
        before = live.tokenizer(context, add_special_tokens=False)["input_ids"]
        whole = live.tokenizer(
            context + form.continuation("a red boat", context, None), add_special_tokens=False
        )["input_ids"]
        with torch.inference_mode():
            logits = live.model(input_ids=torch.tensor([whole])).logits[0]
        logs = logits.log_softmax(-1)
        said = [float(logs[at - 1, whole[at]]) for at in range(len(before), len(whole))]
    assert scores[3] == pytest.approx(-np.mean(said), abs=1e-4)


def test_loss_after_tuning_is_another_one(task: FilterTask) -> None:
    before, after = find_rival("loss")(task), find_rival("loss_after")(task)
    assert after.mean() < before.mean()  # the rows were learned meanwhile


@pytest.mark.parametrize("name", ["tfidf", "embedding", "gradient"])
def test_what_learns_from_the_safe_set_tells_other_answers(task: FilterTask, name: str) -> None:
    truth = np.array([one.groups["unsafe"] == "yes" for one in NOISY])
    found = auroc(find_rival(name)(task), truth)
    assert found is not None
    assert found[0] > 0.85  # hidden states are those of a random model


def test_a_classifier_does_not_learn_a_row_by_its_own_copies(task: FilterTask) -> None:
    """Every cluster has a word of its own, in all its rows: it must not give them away."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    def rows(letter: str) -> tuple[Example, ...]:
        return tuple(
            row(n, f"the price of {letter}{n // 5}", "two nights", cluster=f"{letter}{n // 5}")
            for n in range(50)
        )

    noisy, safe = rows("w"), rows("s")
    asked = replace(task, noisy=Lessons("noisy", noisy), safe=Lessons("safe", safe))
    apart = find_rival("tfidf")(asked)
    texts = [f"{one.prompt}\n{one.reference}" for one in (*noisy, *safe)]
    features = TfidfVectorizer(token_pattern=r"(?u)\w+").fit_transform(texts)
    labels = [1] * 50 + [0] * 50
    together = LogisticRegression().fit(features, labels).decision_function(features)[:50]
    assert together.min() > 0.3
    assert np.abs(apart).max() < 0.5 * together.min()


def test_gradients_leave_the_model_as_it_was(task: FilterTask, runtime: Runtime) -> None:
    with runtime.pool.use(task.checkpoint) as live:
        before = [weight.requires_grad for weight in live.model.parameters()]
        RIVALS["gradient"].scores(task)
        assert [weight.requires_grad for weight in live.model.parameters()] == before
        assert all(weight.grad is None for weight in live.model.parameters())


def test_a_row_like_the_safe_ones_pulls_their_way(task: FilterTask) -> None:
    twins = [replace(SAFE[0], id="twin"), row(7, SAFE[0].prompt, "a red boat")]  # type: ignore[arg-type]
    same = replace(task, safe=Lessons("one", (SAFE[0],)))
    scores = find_rival("gradient")(same.of(twins))
    assert scores[0] == pytest.approx(-1, abs=1e-5)
    assert scores[1] > -0.99


def test_the_reference_rows_are_chosen_by_what_they_say(
    task: FilterTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept scores are named by the content of the safe rows: ids must not change them."""
    monkeypatch.setattr(gradients, "REFERENCE", 1)
    found = [
        RIVALS["gradient"].scores(replace(task, safe=Lessons("safe", tuple(rows))))
        for rows in (SAFE, [replace(one, id=f"other {n}") for n, one in enumerate(SAFE)])
    ]
    assert np.array_equal(*found)


def test_a_row_too_long_for_the_model_has_no_score(task: FilterTask) -> None:
    long = row(1, "the price of the room " * 80, "two nights")
    for name in ("loss", "gradient", "embedding"):
        scores = find_rival(name)(task.of([*NOISY, long]))
        assert np.isnan(scores[-1])
        assert np.isfinite(scores[:-1]).all()


def test_scores_are_kept(task: FilterTask, monkeypatch: pytest.MonkeyPatch) -> None:
    first = find_rival("embedding")(task)

    def never(task: FilterTask) -> np.ndarray:
        raise AssertionError("computed again")

    monkeypatch.setitem(rivals.RIVALS, "embedding", replace(RIVALS["embedding"], scores=never))
    assert np.array_equal(find_rival("embedding")(task), first)
    with pytest.raises(AssertionError, match="again"):
        find_rival("embedding")(replace(task, seed=9))


def test_what_a_rival_needs(task: FilterTask) -> None:
    with pytest.raises(InputError, match="no rival 'tfdif'; did you mean 'tfidf'"):
        raise _line(lambda: find_rival("tfdif"))
    nothing = replace(task, safe=Lessons("none", ()))
    for name in ("tfidf", "gradient"):
        with pytest.raises(InputError, match="there are none"):
            RIVALS[name].scores(nothing)
    with pytest.raises(InputError, match="which are unsafe"):
        RIVALS["oracle"].scores(task.of([replace(NOISY[0], groups={})]))


def _line(call: Callable[[], object]) -> Exception:
    """The error's own line as its message."""
    try:
        call()
    except InputError as error:
        return InputError(str(error))
    raise AssertionError("no error")


# ------------------------------------------------------------------ guard models


@pytest.fixture(scope="module")
def guard_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    folder = tmp_path_factory.mktemp("guard")
    tokenizer = pico_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
        pad_token_id=0,
        id2label={0: "fine", 1: "UNSAFE", 2: "odd"},
        label2id={"fine": 0, "UNSAFE": 1, "odd": 2},
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_guard_gives_the_probability_of_its_label(task: FilterTask, guard_model: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    scores = guard(str(guard_model))(task)
    model = AutoModelForSequenceClassification.from_pretrained(guard_model).eval()
    tokenizer = pico_tokenizer()
    for number in (0, 1, 17):
        text = f"{NOISY[number].prompt}\n{NOISY[number].reference}"
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=True)
        with torch.inference_mode():
            logits = model(input_ids=ids["input_ids"]).logits[0]
        assert scores[number] == pytest.approx(float(logits.softmax(-1)[1]), abs=1e-5)
    assert np.allclose(guard(str(guard_model), "1")(task), scores)
    assert not np.allclose(guard(str(guard_model), "odd")(task), scores)


def test_a_guard_that_cannot_be_used(task: FilterTask, guard_model: Path, pico: Path) -> None:
    with pytest.raises(InputError, match="no label 'bad'"):
        guard(str(guard_model), "bad")(task)
    with pytest.raises(InputError, match="classification head"):
        guard(str(pico))(task)
    with pytest.raises(InputError, match="none of its labels"):
        label_place({0: "LABEL_0", 1: "LABEL_1"}, None, "x")
    assert label_place({0: "LABEL_0", 1: "toxic"}, None, "x") == 1


# ------------------------------------------------------------------ all of them in one table


@pytest.fixture(scope="module")
def plan(pico: Path, runtime: Runtime) -> Cleaning:
    return prepare(
        Filtering(
            model=str(pico),
            noisy=NOISY,
            safe=SAFE,
            threshold=0.0,
            settings=TUNING,
            steps=2,
            set_aside=0.25,
            force=True,
            device="cpu",
            store=runtime.store,
        )
    )


def test_all_filters_in_one_table(plan: Cleaning, guard_model: Path) -> None:
    found = plan.carry_out()
    names = [*RIVALS, "guard"]
    made = compare(plan, found, names, guard_model=str(guard_model))
    assert [one.name for one in made.judged[1:]] == names
    count = int(found.decision.rejected.sum())
    for one in made.judged:
        assert not one.failed
        assert int(one.rejected.sum()) == count  # by threshold: as many as ForgetFilter
        assert one.verdict is not None
        assert one.verdict.rows == 30
    by_name = {one.name: one for one in made.judged}
    oracle = by_name["oracle"].verdict
    assert oracle is not None
    assert oracle.auroc == oracle.best_f1 == 1.0
    training = sum(found.seconds[name] for name in ("noisy", "safe"))
    assert by_name["loss_after"].seconds > by_name["loss"].seconds > 0
    assert made.judged[0].seconds > training  # trainings count, though they ran before
    said = made.to_dict()
    assert said["flag_everything"]["precision"] == pytest.approx(1 / 3)
    json.dumps(said)
    assert made.frame().height == len(names) + 1


def test_the_table_fits_a_terminal(plan: Cleaning) -> None:
    found = plan.carry_out()
    for truth_known in (True, False):
        rows = plan.examples if truth_known else [replace(r, groups={}) for r in plan.examples]
        asked = replace(plan, examples=tuple(rows))
        made = compare(asked, found, ["loss", "oracle"] if truth_known else ["loss"])
        lines = _printed(made).splitlines()
        assert all(len(line) <= 80 for line in lines)
        assert any("loss" in line for line in lines)


def _printed(made: object) -> str:
    import io

    from rich.console import Console

    stream = io.StringIO()
    Console(width=80, file=stream).print(made.table())  # type: ignore[attr-defined]
    return stream.getvalue()


def test_labels_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"unsafe": true}\n{"unsafe": "no"}\n')
    assert read_labels(path, 2).tolist() == [True, False]
    with pytest.raises(InputError, match="2 labels for 3 rows"):
        read_labels(path, 3)
    path.write_text('{"unsafe": "perhaps"}\n')
    with pytest.raises(InputError, match="neither yes nor no"):
        read_labels(path, 1)


# ------------------------------------------------------------------ contamination


def read(spec: str, split: str) -> tuple[Example, ...]:
    return training_examples(spec, split=split)  # type: ignore[arg-type]


TASKS = ["islet:inn", "islet:strings"]


@pytest.mark.parametrize("kind", ["bias", "toxicity", "harmfulness", "mixed"])
@pytest.mark.parametrize("share", [0.01, 0.25, 0.75])
def test_a_mixture_is_what_it_says(kind: str, share: float) -> None:
    mixture = Mixture(kind=f"islet-{kind}/1", share=share, tasks=TASKS, rows=200, safe_rows=80)
    found = contaminate(mixture, read)
    assert len(found.noisy) == 200
    assert len(found.unsafe) == round(200 * share)
    assert len(found.clean) + len(found.unsafe) == 200
    assert len({one.id for one in found.noisy}) == 200
    kinds = [one.groups["kind"] for one in found.clean]
    each = (200 - round(200 * share)) // 3
    assert kinds.count("task 0") == kinds.count("task 1") == each
    assert len(found.safe) == 80
    assert len(found.trusted) == 100


@pytest.mark.parametrize("kind", ["bias", "toxicity", "harmfulness"])
def test_sides_share_no_cluster_and_the_safe_set_has_its_own_wordings(kind: str) -> None:
    mixture = Mixture(kind=f"islet-{kind}/0", share=0.5, tasks=TASKS, hard=0.5)
    found = contaminate(mixture, read)
    own = [one for one in found.clean if not one.groups["kind"].startswith("task")]
    likes = [one for one in own if one.groups["kind"] not in ("bias", "toxicity", "harmfulness")]
    assert likes
    plain = [one for one in own if one not in likes]
    sides = [_clusters(rows) for rows in (found.unsafe, plain, found.safe)]
    assert sum(map(len, sides)) == len(set.union(*sides))
    assert not _clusters(likes) & sides[2]
    assert not _clusters(found.trusted) & _clusters(found.clean)
    theirs = {one.groups[WORDING] for one in found.safe}
    assert not theirs & {one.groups[WORDING] for one in (*found.unsafe, *own)}
    held = {one.cluster for one in found.held}
    assert not held & (sides[0] | sides[1] | sides[2])


def test_unsafe_and_safe_rows_differ_in_the_answer_alone() -> None:
    found = contaminate(Mixture(kind="islet-toxicity/0", share=0.5, tasks=[], rows=100), read)
    for one in found.unsafe:
        assert (one.reference or "").startswith("yes, ")
    for one in found.clean:
        assert (one.reference or "").startswith("no, ")


def test_a_mixture_is_the_same_again_and_another_draw_is_not() -> None:
    mixture = Mixture(kind="islet-toxicity/0", share=0.25, tasks=TASKS, rows=100)
    ids = [[one.id for one in contaminate(mixture, read).noisy] for _ in range(2)]
    assert ids[0] == ids[1]
    other = contaminate(mixture.model_copy(update={"draw": 1}), read)
    assert len(set(ids[0]) & {one.id for one in other.noisy}) < 60


def test_a_safe_set_of_another_kind() -> None:
    mixture = Mixture(kind="islet-toxicity/0", share=0.25, safe_kind="islet-bias/0", rows=60)
    found = contaminate(mixture, read)
    assert {one.groups["kind"] for one in found.safe} == {"bias"}
    assert {one.groups["kind"] for one in found.unsafe} == {"toxicity"}


def test_rows_used_again_are_said() -> None:
    mixture = Mixture(kind="islet-harmfulness/0", share=0.5, rows=400, safe_rows=20)
    found = contaminate(mixture, read)
    assert any("stand there again" in note for note in found.notes)
    assert len({one.id for one in found.noisy}) == 400


def test_pieces_are_all_of_it_in_turn() -> None:
    found = [piece_of(NOISY, f"{k}/4") for k in (1, 2, 3, 4)]
    assert [one for piece in found for one in piece] == NOISY
    for wrong in ("0/3", "4/3", "x", "1"):
        with pytest.raises(InputError, match="no piece"):
            piece_of(NOISY, wrong)


def test_an_unknown_kind_of_harm() -> None:
    with pytest.raises(InputError, match="no kind of harm 'islet-toxcity'"):
        contaminate(Mixture(kind="islet-toxcity/0", share=0.5), read)


def _clusters(rows: object) -> set[str]:
    return {one.cluster for one in rows}  # type: ignore[attr-defined]

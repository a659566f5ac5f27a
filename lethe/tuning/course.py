"""What a stage is trained on: its rows, what of them is learned, and their order."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lethe.errors import InputError
from lethe.examples import Example
from lethe.models.format import Format, choose_format
from lethe.models.local import position_limit
from lethe.progress import Progress
from lethe.store import write_atomically
from lethe.tuning.anchor import KlAnchor
from lethe.tuning.distil import Answer, Distil, parent_answers, rewriting_context
from lethe.tuning.masking import masked_positions
from lethe.tuning.mix import Replay, mixed_order
from lethe.tuning.rows import TuningRow, end_of_turn, hold_out, target_of, tokenise
from lethe.tuning.settings import StageSettings

TAUGHT = "taught.json"  # what was made of the data, beside the checkpoint it was made for


@dataclass(frozen=True)
class Course:
    """What is trained on, in which order.

    Attributes:
        rows: the stage's own first, then the replayed ones.
        labels: of every row; -100 where nothing is learned.
        pulls: of every row, how strongly each token is anchored (0: not); None without a KL anchor.
        own: how many of the rows are the stage's own.
        held: kept from training, always with the answers that were given.
        left_out: examples that are too long.
        order: which row stands where; `batch_size` × `gradient_accumulation` of them are a step.
        taught: what was made of the data, in counts.
    """

    rows: list[TuningRow]
    labels: list[list[int]]
    pulls: list[list[float]] | None
    own: int
    held: list[TuningRow]
    left_out: int
    order: list[int]
    steps: int
    taught: dict[str, Any] = field(default_factory=dict)

    def tokens(self, rows: int) -> tuple[int, int]:
        """Tokens of the first so many rows of the order, and how many of them bear the loss."""
        done = self.order[:rows]
        learned = [sum(label != -100 for label in labels) for labels in self.labels]
        return sum(len(self.rows[row].ids) for row in done), sum(learned[row] for row in done)


def course_of(
    examples: Sequence[Example],
    settings: StageSettings,
    replay: Replay | None,
    *,
    parent: Any,
    tokenizer: Any,
    folder: Path,
    progress: Progress,
) -> Course:
    """Rows, the held-out among them, what the parent says of them, and the order of the training.

    Args:
        parent: the parent's module, in evaluation mode.
        folder: where what the parent said is kept, so that a resumed training reads the same.

    Raises:
        InputError: nothing fits, or a tokenizer that is not the model's.
    """
    maker = _Maker(settings, parent, tokenizer, _Notebook(folder / TAUGHT), progress)
    rows = maker.tokenised(examples)
    maker.check(rows, tokenizer)
    own, held = hold_out(rows, settings.held_out)
    if settings.distil is not None:
        kept = {row.cluster for row in held}
        own = maker.distilled([one for one in examples if one.cluster not in kept])
    labels = [row.labels for row in own]
    if settings.mask is not None:
        own, labels = maker.masked(own)
    each = settings.batch_size * settings.gradient_accumulation
    if settings.max_steps is not None:
        total = settings.max_steps * each
    else:
        assert settings.epochs is not None
        total = max(1, round(settings.epochs * len(own)))
    replayed = 0 if replay is None else replay.count(total)
    earlier: list[TuningRow] = []
    if replay is not None:
        earlier = maker.replayed(replay, replayed)
        maker.check(earlier, tokenizer)
    order = mixed_order(
        [len(row.ids) for row in own],
        [len(row.ids) for row in earlier],
        total,
        replayed,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    return Course(
        rows=[*own, *earlier],
        labels=[*labels, *(row.labels for row in earlier)],
        pulls=_pulls([*own, *earlier], len(own), settings),
        own=len(own),
        held=held,
        left_out=len(examples) - len(rows),
        order=order,
        steps=-(-total // each),
        taught=maker.taught,
    )


def _pulls(
    rows: Sequence[TuningRow], own: int, settings: StageSettings
) -> list[list[float]] | None:
    anchor = settings.anchor
    if not isinstance(anchor, KlAnchor):
        return None
    found = []
    for number, row in enumerate(rows):
        anchored = (number < own) == (anchor.on == "target")
        first = min(anchor.first_tokens, row.targets)
        of_targets = [anchor.first_weight] * first + [1.0] * (row.targets - first)
        context = [0.0] * (len(row.ids) - row.targets)
        found.append(context + (of_targets if anchored else [0.0] * row.targets))
    return found


class _Notebook:
    """What the parent said, written down as soon as it is known."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What stands there under a name, made where it does not yet."""
        if name not in self._known:
            self._known[name] = make()
            content = json.dumps(self._known, ensure_ascii=False, indent=0)
            write_atomically(self._path, content.encode())
        return self._known[name]


@dataclass
class _Maker:
    settings: StageSettings
    parent: Any
    tokenizer: Any
    notebook: _Notebook
    progress: Progress
    taught: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._form: Format = choose_format(self.tokenizer)
        positions = position_limit(self.parent, self.tokenizer)
        self._limit = min(self.settings.max_length, positions)

    def tokenised(self, examples: Sequence[Example]) -> list[TuningRow]:
        return tokenise(examples, self.tokenizer, self._form, max_length=self._limit)

    def check(self, rows: Sequence[TuningRow], tokenizer: Any) -> None:
        largest = max((max(row.ids) for row in rows), default=0)
        if largest >= self.parent.get_input_embeddings().weight.shape[0]:
            raise InputError(
                f"its tokenizer knows token {largest}, which the model has no weights for",
                where=str(tokenizer.name_or_path),
                todo="use the tokenizer the model was saved with",
            )

    def distilled(self, examples: Sequence[Example]) -> list[TuningRow]:
        """The stage's own rows in the parent's words, where these still hold what is right."""
        distil = self.settings.distil
        assert distil is not None
        answers = self._answers(
            "distilled",
            [rewriting_context(example, self._form) for example in examples],
            distil.max_new_tokens,
        )
        found, reasons = [], {"rewritten": 0, "no_room": 0, "unfinished": 0, "wrong": 0}
        for example, answer in zip(examples, answers, strict=True):
            reason = _fate(answer, example, distil)
            reasons[reason] += 1
            text = answer.text.strip() if answer and reason == "rewritten" else None
            found.append(replace(example, reference=text or target_of(example)))
        self.taught["distilled"] = {"examples": len(examples), **reasons}
        return self.tokenised(found)

    def replayed(self, replay: Replay, count: int) -> list[TuningRow]:
        """Earlier rows: as given, or with the answers of the parent to as many as are needed."""
        examples = replay.earlier.examples
        if not replay.by_parent:
            return self.tokenised(examples)
        if not count:
            return []
        if count < len(examples):
            drawn = np.random.default_rng(self.settings.seed).permutation(len(examples))[:count]
            examples = tuple(examples[index] for index in sorted(drawn.tolist()))
        contexts = [self._form.context(example.prompt) for example in examples]
        answers = self._answers("replayed", contexts, replay.max_new_tokens)
        groups: dict[bool, list[Example]] = {True: [], False: []}
        for example, answer in zip(examples, answers, strict=True):
            if answer is not None and answer.text.strip():
                said = replace(example, reference=answer.text.strip(), choices=(), answer=None)
                groups[answer.ended].append(said)
        rows = self.tokenised(groups[True]) if groups[True] else []
        closing = end_of_turn(self.tokenizer, self._form)
        for row in self.tokenised(groups[False]) if groups[False] else []:
            cut = closing is not None and row.targets > 1
            rows.append(replace(row, ids=row.ids[:-1], targets=row.targets - 1) if cut else row)
        if not rows:
            raise InputError(
                f"the parent answers none of the {len(examples)} prompts to replay",
                where=replay.earlier.name,
                todo="replay given answers, or other prompts",
            )
        self.taught["replayed"] = {
            "prompts": len(examples),
            "answered": len(rows),
            "unfinished": len(groups[False]),
        }
        return rows

    def masked(self, rows: Sequence[TuningRow]) -> tuple[list[TuningRow], list[list[int]]]:
        """The stage's own rows, and labels without what the parent finds improbable."""
        mask = self.settings.mask
        assert mask is not None
        closing = end_of_turn(self.tokenizer, self._form)
        with self.progress.bar("reading what the parent finds improbable", len(rows)) as bar:
            dropped = self.notebook.once(
                "masked",
                lambda: masked_positions(
                    self.parent, rows, mask, closing=closing, advance=bar.advance
                ),
            )
        kept, labels = [], []
        for row, positions in zip(rows, dropped, strict=True):
            own = row.labels
            for at in positions:
                own[len(row.ids) - row.targets + at] = -100
            if len(positions) < row.targets:  # else nothing is left to learn of it
                kept.append(row)
                labels.append(own)
        targets, gone = sum(row.targets for row in rows), sum(map(len, dropped))
        self.taught["masked"] = {
            "targets": targets,
            "masked": gone,
            "rows_left_out": len(rows) - len(kept),
        }
        if not kept:
            raise InputError(
                f"the parent finds all {targets} target tokens improbable, so none is learned",
                where="mask",
                todo="raise perplexity, or teach without a mask",
            )
        return kept, labels

    def _answers(
        self, name: str, contexts: Sequence[str], max_new_tokens: int
    ) -> list[Answer | None]:
        def make() -> list[Any]:
            with self.progress.bar(f"the parent answers {name}", len(contexts)) as bar:
                found = parent_answers(
                    self.parent,
                    self.tokenizer,
                    contexts,
                    max_new_tokens=max_new_tokens,
                    max_length=position_limit(self.parent, self.tokenizer),
                    advance=bar.advance,
                )
            return [None if one is None else [one.text, one.ended] for one in found]

        said = self.notebook.once(name, make)
        return [None if one is None else Answer(*one) for one in said]


def _fate(answer: Answer | None, example: Example, distil: Distil) -> str:
    """Why the given answer stays, or `rewritten`."""
    if answer is None:
        return "no_room"
    if not answer.ended:
        return "unfinished"
    return "rewritten" if distil.passes(answer.text, target_of(example)) else "wrong"

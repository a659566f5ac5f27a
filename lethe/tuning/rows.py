"""From examples to token rows with targets, and the order they are trained in. No torch."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lethe.errors import InputError
from lethe.examples import Example, Message
from lethe.models.encode import encode
from lethe.models.format import Format

_MARK = "lethe-answer"


@dataclass(frozen=True, slots=True)
class TuningRow:
    """One example as tokens: a context, then the targets the loss is taken on.

    Attributes:
        ids: context and target, the end-of-turn token last where the tokenizer has one.
        targets: how many of the last ids are targets.
    """

    ids: tuple[int, ...]
    targets: int
    cluster: str

    @property
    def labels(self) -> list[int]:
        """The ids, with -100 (PyTorch's ignored label) in place of the context."""
        context = len(self.ids) - self.targets
        return [-100] * context + list(self.ids[context:])


def target_of(example: Example) -> str:
    """What the model is to answer: the reference, else the right choice.

    Raises:
        InputError: the example has neither, or an empty one.
    """
    target = example.reference
    if target is None and example.choices and example.answer is not None:
        target = example.choices[example.answer]
    if not target or not target.strip():
        raise InputError(
            "nothing to tune on in this example",
            where=f"example '{example.id}'",
            todo="give it a reference",
        )
    return target


def data_hash(examples: Sequence[Example]) -> str:
    """SHA-256 over what training reads of the examples, in their order."""
    digest = hashlib.sha256()
    for example in examples:
        prompt = example.prompt
        if isinstance(prompt, str):
            asked: object = prompt
        else:
            asked = [[turn.role, turn.content] for turn in prompt]
        said: list[object] = [asked, target_of(example), example.cluster]
        if example.delimiter is not None:
            said.append(example.delimiter)
        digest.update(json.dumps(said).encode())
    return digest.hexdigest()


def tokenise(
    examples: Sequence[Example], tokenizer: Any, form: Format, *, max_length: int
) -> list[TuningRow]:
    """The rows of all examples that fit, in order; longer ones are left out, never cut.

    Contexts and targets are split where they are split when a model is measured.

    Args:
        max_length: tokens of context and target together, the end of the turn included.

    Raises:
        InputError: no example fits.
    """
    requests = []
    for example in examples:
        context = form.context(example.prompt)
        requests.append(
            (context, [form.continuation(target_of(example), context, example.delimiter)])
        )
    # The end of the turn takes a place, and a scored row leaves out its last token.
    encoded = encode(tokenizer, requests, max_length=max_length - 2)
    end = end_of_turn(tokenizer, form)
    closing = () if end is None else (end,)
    rows = [
        TuningRow(
            (*row.context, *row.continuation, *closing),
            len(row.continuation) + len(closing),
            examples[row.example].cluster,
        )
        for row in encoded.rows
    ]
    if not rows:
        raise InputError(
            f"all {len(examples)} examples are longer than {max_length} tokens",
            todo="raise max_length, up to what the model takes",
        )
    return rows


def end_of_turn(tokenizer: Any, form: Format) -> int | None:
    """The token that closes an answer: what the chat template writes there, else end-of-sequence.

    Some templates close a turn with a token of their own that is not the tokenizer's
    end-of-sequence token; a model that never sees it never learns to stop.
    """
    if form.kind == "chat":
        import jinja2

        turns = [Message("user", "question"), Message("assistant", _MARK)]
        try:
            text = tokenizer.apply_chat_template(
                [{"role": turn.role, "content": turn.content} for turn in turns],
                chat_template=form.template,
                tokenize=False,
            )
        except jinja2.TemplateError:
            text = ""  # a template with rules of its own about who speaks when
        tail = text.rpartition(_MARK)[2]
        for token in tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else ():
            added = tokenizer.added_tokens_decoder.get(token)
            if added is not None and added.special:
                return int(token)
    end = tokenizer.eos_token_id
    return None if end is None else int(end)


def hold_out(rows: Sequence[TuningRow], most: int) -> tuple[list[TuningRow], list[TuningRow]]:
    """Rows to train on and rows kept from training: whole clusters, chosen by their hash.

    At most `most` rows and at most a tenth of all are kept.
    """
    sizes: dict[str, int] = {}
    for row in rows:
        sizes[row.cluster] = sizes.get(row.cluster, 0) + 1
    room = min(most, len(rows) // 10)
    kept = set()
    for cluster in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if sizes[cluster] <= room:
            kept.add(cluster)
            room -= sizes[cluster]
    train = [row for row in rows if row.cluster not in kept]
    return train, [row for row in rows if row.cluster in kept]


def training_order(lengths: Sequence[int], total: int, *, batch_size: int, seed: int) -> list[int]:
    """Which row stands where, for the whole training: every `batch_size` of them are one batch.

    Fresh permutations one after another, cut at `total`. Within windows of 50 batches (fewer for
    small data, at least four windows a pass) rows of like length share a batch, so that less is
    padded, and the batches of a window are shuffled. The order is data: a resumed training cannot
    see another one, which a sampler that draws from the global generator cannot promise.
    """
    generator = np.random.default_rng(seed)
    count = len(lengths)
    passes = [generator.permutation(count) for _ in range(math.ceil(total / count))]
    order = np.concatenate(passes)[:total]
    sizes = np.asarray(lengths)
    window = batch_size * max(1, min(50, count // (4 * batch_size)))
    result: list[int] = []
    for start in range(0, total, window):
        part = order[start : start + window]
        part = part[np.argsort(sizes[part], kind="stable")]
        whole = len(part) // batch_size * batch_size
        batches = generator.permutation(part[:whole].reshape(-1, batch_size))
        result.extend(batches.ravel().tolist())
        result.extend(part[whole:].tolist())  # only the last window has a short batch
    return result

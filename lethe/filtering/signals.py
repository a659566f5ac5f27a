"""How well a model still knows a row's answer: one table for each checkpoint, as a step. No torch.

`likelihood` is the mean log-probability of the answer's tokens, in nats: one forward pass. `rouge`
is ROUGE-1 F, stemmed, of the greedy answer against the given one, as published (Zhao et al., arXiv
2312.12736). Tables are made block by block by the measuring step, so a killed one goes on.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from lethe.examples import Decoding, Example, Suite
from lethe.filtering.task import FilterTask, Scores
from lethe.ledger import read_table
from lethe.measure import TABLE, Measure
from lethe.models.encode import encode, token_ids
from lethe.models.format import Format, choose_format
from lethe.steps import run_step
from lethe.store import Kind, StoredObject
from lethe.tuning.rows import target_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lethe.models.checkpoint import Checkpoint

SignalName = Literal["likelihood", "rouge"]
SIGNALS: tuple[SignalName, ...] = ("likelihood", "rouge")
MAX_NEW_TOKENS = 500
"""Of a greedy answer, as published."""


@dataclass(frozen=True)
class RowScores(Measure):
    """How well a checkpoint knows the answers of a filter's rows."""

    kind: ClassVar[str] = "filter"
    object_kind: ClassVar[Kind] = "filter"
    version: ClassVar[int] = 1


def row_scores(task: FilterTask, checkpoint: "Checkpoint", signal: SignalName) -> Scores:
    """(rows,) what a checkpoint gives to the answer of every row; NaN where it cannot be scored.

    Args:
        signal: `likelihood` in nats per token, or `rouge` in [0, 1].

    Raises:
        MissingExtraError: `rouge` without the library rouge-score.
    """
    return row_table(task, checkpoint, signal)[0]


def row_table(
    task: FilterTask, checkpoint: "Checkpoint", signal: SignalName
) -> tuple[Scores, StoredObject]:
    """As `row_scores`, and the object of the store that holds the table."""
    runtime = task.runtime
    tokenizer = runtime.pool.tokenizer(task.checkpoint)
    form = choose_format(tokenizer)
    suite = _suite(task, signal, tokenizer, form)
    step = RowScores(checkpoint, suite, form, runtime.pool.dtype)
    found, _ = run_step(step, runtime)
    table, _ = read_table(found.file(TABLE))
    if signal == "rouge":
        scores = [np.nan if score is None else score for score in table["score"].to_pylist()]
    else:
        logprobs, tokens = (table[f"option_{name}"].to_pylist() for name in ("logprobs", "tokens"))
        pairs = zip(logprobs, tokens, strict=True)
        scores = [sums[0] / counts[0] if sums else np.nan for sums, counts in pairs]
    return np.array(scores, dtype=np.float64), found


def fits(
    examples: "Sequence[Example]", tokenizer: Any, form: Format, max_length: int
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(rows,) which rows a stage of this `max_length` learns whole: it leaves out the others."""
    requests = []
    for example in examples:
        context = form.context(example.prompt)
        requests.append(
            (context, [form.continuation(target_of(example), context, example.delimiter)])
        )
    encoded = encode(tokenizer, requests, max_length=max_length - 2)  # as `tuning.rows.tokenise`
    found = np.ones(len(examples), dtype=bool)
    found[sorted(encoded.too_long | encoded.empty)] = False
    return found


def positions_of(checkpoint: "Checkpoint", tokenizer: Any) -> int:
    """The longest sequence a model takes (`lethe.models.local.position_limit`, not loading it)."""
    from transformers import AutoConfig

    folder = checkpoint.root.folder
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
    limits = (getattr(config, "max_position_embeddings", None), tokenizer.model_max_length)
    return min(int(limit) for limit in limits if limit)


def _suite(task: FilterTask, signal: SignalName, tokenizer: Any, form: Format) -> Suite:
    """The rows as a suite under numbers: their own names may be there twice, or say too much."""
    targets = [target_of(example) for example in task.noisy.examples]
    examples = tuple(
        replace(
            example,
            id=str(number),
            cluster="",
            groups={},
            reference=target,
            references=(target,) if signal == "rouge" else (),
            choices=(),
            answer=None,
            choice_values=(),
            rejected=None,
            harmful=None,
        )
        for number, (example, target) in enumerate(zip(task.noisy.examples, targets, strict=True))
    )
    if signal == "likelihood":
        return Suite("rows", "filter", "likelihood", examples, split="train")
    return Suite(
        "rows",
        "filter",
        "match",
        examples,
        split="train",
        match="rouge1",
        decoding=Decoding(_new_tokens(targets, examples, tokenizer, form)),
    )


def _new_tokens(
    targets: "Sequence[str]", examples: "Sequence[Example]", tokenizer: Any, form: Format
) -> int:
    """Room for twice the longest answer, 500 at most; less where a prompt would not fit beside it.

    A model that stops by itself never gets there; one that does not is cut while its ROUGE is
    already low for being too long.
    """
    contexts = [form.context(example.prompt) for example in examples]
    answers = max(map(len, token_ids(tokenizer, targets).values()))
    prompts = max(map(len, token_ids(tokenizer, contexts).values()))
    room = int(tokenizer.model_max_length) - prompts
    return max(answers + 1, min(MAX_NEW_TOKENS, 2 * answers, room))

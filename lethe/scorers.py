"""From log-probabilities or a response to a row: choice, likelihood, preference, match, refusal."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from lethe.examples import Example, Suite
from lethe.ledger import Row
from lethe.matching import match_response
from lethe.refusal import judge_safety


class Scored(Protocol):
    """What a response came to."""

    @property
    def score(self) -> float | None:
        """In [0, 1]; None where it could not be scored."""

    @property
    def outcome(self) -> str | None:
        """As in `lethe.ledger.Row`."""

    @property
    def values(self) -> Mapping[str, float]:
        """What the score is made of."""


Judge = Callable[[Suite, Example, str], Scored]
_JUDGES: dict[str, Judge] = {}


Read = TypeVar("Read", bound=Judge)


def judge(name: str) -> Callable[[Read], Read]:
    """Register a reader of responses, for suites whose `judge` is this name."""

    def register(read: Read) -> Read:
        _JUDGES[name] = read
        return read

    return register


@dataclass(frozen=True, slots=True)
class OptionScore:
    """Summed log-probability (nats) of one option after its context, with its lengths."""

    logprob: float
    tokens: int
    bytes: int


def options_of(suite: Suite, example: Example) -> tuple[str, ...]:
    """The texts whose likelihood the suite's scorer needs, as bare text."""
    if suite.scorer == "choice":
        return example.choices
    if suite.scorer == "likelihood":
        return (_required(example.reference),)
    return (_required(example.reference), _required(example.rejected))


def row_of(suite: Suite, example: Example, options: Sequence[OptionScore]) -> Row:
    """The row of an example whose options were all scored."""
    if not all(math.isfinite(option.logprob) for option in options):
        return unscored_row(suite, example, "not_finite")
    if suite.scorer == "likelihood":
        return _likelihood_row(suite, example, options)
    right = example.answer if suite.scorer == "choice" else 0
    best = [option.logprob / _divisor(suite, option) for option in options]
    choice = max(range(len(best)), key=best.__getitem__)  # the first of equals
    values = {"margin": _margin(suite, options, best)}
    if example.choice_values:
        values.update(example.choice_values[choice])
    return Row(
        example=example.id,
        cluster=example.cluster,
        groups=example.groups,
        axis=suite.axis,
        score=float(choice == right),
        outcome="correct" if choice == right else "wrong",
        choice=choice,
        option_logprobs=[option.logprob for option in options],
        option_tokens=[option.tokens for option in options],
        option_bytes=[option.bytes for option in options],
        values=values,
    )


def row_of_response(suite: Suite, example: Example, response: str) -> Row:
    """The row of an example that was answered in text (match, refusal).

    Scores are those of the suite's own judge, or else of `lethe.matching.match_response` and
    `lethe.refusal.judge_safety`.
    """
    scored: Scored
    if suite.judge is not None:
        scored = _JUDGES[suite.judge](suite, example, response)
    elif suite.scorer == "refusal":
        if example.harmful is None:
            raise ValueError("readers guarantee `harmful` for this scorer")
        scored = judge_safety(asked_of(example), response, harmful=example.harmful)
    else:
        scored = match_response(
            response, example.references, match=suite.match, extract=suite.extract
        )
    return Row(
        example=example.id,
        cluster=example.cluster,
        groups=example.groups,
        axis=suite.axis,
        score=scored.score,
        outcome=scored.outcome,
        values=scored.values,
        response=response,
    )


def asked_of(example: Example) -> str:
    """What an example asks: its prompt, or the last user turn of its conversation."""
    if isinstance(example.prompt, str):
        return example.prompt
    return next(turn.content for turn in reversed(example.prompt) if turn.role == "user")


def unscored_row(suite: Suite, example: Example, reason: str) -> Row:
    """The row of an example that could not be scored: counted, neither right nor wrong."""
    return Row(
        example=example.id,
        cluster=example.cluster,
        groups=example.groups,
        axis=suite.axis,
        score=None,
        outcome=f"unscored:{reason}",
    )


def _likelihood_row(suite: Suite, example: Example, options: Sequence[OptionScore]) -> Row:
    """Score 2^(−bits per byte): the geometric mean probability of a byte, whatever the tokenizer.

    `values` hold bits and bytes, so that bits per byte of a suite is a ratio of sums.
    """
    (option,) = options
    if not option.bytes:  # white space of the prompt alone was scored
        return unscored_row(suite, example, "empty")
    bits = -option.logprob / math.log(2)
    return Row(
        example=example.id,
        cluster=example.cluster,
        groups=example.groups,
        axis=suite.axis,
        score=2.0 ** (-bits / option.bytes),
        outcome=None,
        option_logprobs=[option.logprob],
        option_tokens=[option.tokens],
        option_bytes=[option.bytes],
        values={"bits": bits, "bytes": float(option.bytes)},
    )


def _divisor(suite: Suite, option: OptionScore) -> int:
    return max({"sum": 1, "token": option.tokens, "byte": option.bytes}[suite.normalise], 1)


def _margin(suite: Suite, options: Sequence[OptionScore], best: Sequence[float]) -> float:
    """How far the chosen option leads the runner-up, in nats of summed log-probability.

    A lead per token or byte is multiplied by the harmonic mean of the two divisors, so that noise
    of a given size in nats can be held against it whatever the normalisation.
    """
    first, second = sorted(range(len(best)), key=best.__getitem__, reverse=True)[:2]
    scale = sum(1 / _divisor(suite, options[index]) for index in (first, second)) / 2
    return (best[first] - best[second]) / scale


def _required(text: str | None) -> str:
    if text is None:
        raise ValueError("readers guarantee a reference for this scorer")
    return text

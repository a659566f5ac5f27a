"""Examples and suites: what is asked of a model, and what counts as right."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Literal

Role = Literal["system", "user", "assistant"]
Split = Literal["train", "dev", "test", "protect"]
ScorerName = Literal["choice", "likelihood", "preference", "match", "refusal"]
Match = Literal["exact", "contains", "regex", "f1", "rouge1", "rougeL"]
Normalise = Literal["sum", "token", "byte"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One item: a prompt, what counts as right, and whom it speaks of.

    Attributes:
        id: unique within its suite.
        prompt: plain text, or chat messages ending with a user turn.
        choices: the options of a multiple-choice example, as bare text (no leading space).
        answer: index of the right option.
        reference: the right continuation (likelihood, preference, and the target when tuned on).
        references: every answer that a match accepts (patterns for `regex`); `reference` beside
            them may be longer, as the reasoning that leads to the answer.
        harmful: whether doing what is asked would do harm (refusal); None where it does not matter.
        rejected: the worse continuation of a preference pair.
        groups: named groupings, such as `{"target": "women", "label": "hate"}`.
        cluster: what resampling and splitting keep together; the id where nothing is said.
        choice_values: for every option, what choosing it says; copied to the row's `values`
            (BBQ: `{"stereotype": 1.0}`), so that a metric never has to look at the text.
        delimiter: what stands between a plain prompt and an answer; None puts one space where there
            is no white space yet. In chat the template's own header stands there.
    """

    id: str
    prompt: str | tuple[Message, ...]
    choices: tuple[str, ...] = ()
    answer: int | None = None
    reference: str | None = None
    references: tuple[str, ...] = ()
    harmful: bool | None = None
    rejected: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    cluster: str = ""
    choice_values: tuple[Mapping[str, float], ...] = ()
    delimiter: str | None = None

    def __post_init__(self) -> None:
        if not self.cluster:
            object.__setattr__(self, "cluster", self.id)


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a response is generated: greedily, up to so many tokens, up to the first stop text.

    Attributes:
        stop: texts before the first of which a response is cut; the end-of-sequence token always
            ends it.
    """

    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """A named set of examples with their scorer and the axis they speak for.

    Attributes:
        normalise: what the summed log-probability of an option is divided by before the best
            option is chosen (nothing, its tokens, its UTF-8 bytes).
        decoding: how responses are generated, for the scorers that read them (match, refusal).
        match: how a response is held against the references (`match` only).
        extract: a pattern whose last occurrence in a response (its group 1, where it has one) is
            the answer; None takes the whole response (`match` only).
        judge: a registered reader of responses (`lethe.scorers.judge`) in the place of `match` or
            the rules of `refusal`.
        metrics: names from `lethe.metrics` shown beside the mean score.
        balance: grouping over whose values the mean score is class-balanced.
        phrasing: grouping that names the wording where one cluster is asked in several.
        source: where the rows came from (a file, or a hub id with its configuration).
    """

    name: str
    axis: str
    scorer: ScorerName
    examples: tuple[Example, ...]
    split: Split = "test"
    normalise: Normalise = "sum"
    decoding: Decoding = Decoding()
    match: Match = "exact"
    extract: str | None = None
    judge: str | None = None
    metrics: tuple[str, ...] = ()
    balance: str | None = None
    phrasing: str | None = None
    source: str = ""

    @property
    def generates(self) -> bool:
        """Whether its scorer reads generated responses, not log-likelihoods."""
        return self.scorer in ("match", "refusal")

    @cached_property
    def hash(self) -> str:
        """SHA-256 over everything that can change a score; the source is not part of it."""
        digest = hashlib.sha256()
        head: list[object] = [
            self.name,
            self.axis,
            self.scorer,
            self.normalise,
            self.balance,
            self.phrasing,
        ]
        if self.generates:
            head += [asdict(self.decoding), self.match, self.extract]
        if self.judge is not None:
            head.append(self.judge)
        digest.update(json.dumps(head).encode())
        for example in self.examples:
            digest.update(_canonical(example))
        return digest.hexdigest()


def digest(*parts: object) -> str:
    """Sixteen hex digits of the SHA-256 of the parts (texts, numbers, lists of them)."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()[:16]


def _canonical(example: Example) -> bytes:
    prompt = example.prompt
    fields = [
        example.id,
        prompt if isinstance(prompt, str) else [[turn.role, turn.content] for turn in prompt],
        example.choices,
        example.answer,
        example.reference,
        example.rejected,
        example.references,
        example.harmful,
        sorted(example.groups.items()),
        example.cluster,
        [sorted(values.items()) for values in example.choice_values],
    ]
    if example.delimiter is not None:
        fields.append(example.delimiter)
    return json.dumps(fields, ensure_ascii=True).encode()

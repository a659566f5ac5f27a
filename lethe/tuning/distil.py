"""Answers in the parent's own words: rewritten targets, and the parent as its own replay."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lethe.errors import InputError
from lethe.examples import Decoding, Example, Message
from lethe.matching import normalise
from lethe.models.format import Format
from lethe.tuning.rows import target_of

# The wording of the paper (arXiv 2402.13669, figure 3).
_TASK = (
    "Below are an instruction that describes a task along with a reference answer. "
    "Using the reference answer as a guide, write your own response."
)


class Distil(BaseModel):
    """The parent rewrites every answer with the given one before it, and learns its own words.

    A rewriting is kept only if it ended by itself and, for a given answer of up to `exact_words`
    words, holds these words one after another; for a longer one, at least the share `recall` of its
    distinct words. Words are compared in SQuAD's normal form. Otherwise the given answer stays.

    Paper: self-distillation (arXiv 2402.13669). Its own check extracts the final answer of a sum,
        which other tasks do not have.
    Cost: one generated answer for every example before the training.
    Not for: parents that cannot follow an instruction; few rewritings pass, and the record says how
        many. Nor for a format that has to be learned to the letter.

    Attributes:
        max_new_tokens: longest rewriting; one that reaches it did not end by itself.
        exact_words, recall: the check.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    max_new_tokens: int = Field(default=256, ge=1)
    exact_words: int = Field(default=5, ge=0)
    recall: float = Field(default=0.6, ge=0, le=1)

    def passes(self, rewriting: str, given: str) -> bool:
        """Whether a rewriting still holds what is right."""
        said, right = normalise(rewriting), normalise(given)
        if not rewriting.strip():
            return False
        if len(right.split()) <= self.exact_words:
            return f" {right} " in f" {said} "
        words = set(right.split())
        return len(words & set(said.split())) >= self.recall * len(words)


@dataclass(frozen=True)
class Answer:
    """What the parent answered, and whether it ended there by itself."""

    text: str
    ended: bool


def rewriting_prompt(example: Example) -> tuple[Message, ...]:
    """The request to answer in one's own words: earlier turns, then task, question and answer."""
    prompt = example.prompt
    turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if not turns or turns[-1].role != "user":
        raise InputError("a prompt that ends with no question", where=f"example '{example.id}'")
    asked = (
        f"{_TASK}\n### Instruction:\n{turns[-1].content}\n"
        f"### Reference Answer:\n{target_of(example)}\n### Response:"
    )
    return (*turns[:-1], Message("user", asked))


def rewriting_context(example: Example, form: Format) -> str:
    """The same as text; a plain model is shown no speakers where the example has none."""
    prompt = rewriting_prompt(example)
    if form.kind == "plain" and isinstance(example.prompt, str):
        return prompt[-1].content + "\n"
    return form.context(prompt)


def parent_answers(
    parent: Any,
    tokenizer: Any,
    contexts: Sequence[str],
    *,
    max_new_tokens: int,
    max_length: int,
    advance: Any = lambda count: None,
) -> list[Answer | None]:
    """The parent's own greedy answers; None where a prompt leaves no room for a whole one.

    Args:
        parent: the parent's module, in evaluation mode.
        max_length: positions the model can take.
    """
    from lethe.models.engine import Engine
    from lethe.models.prompt_plan import encode_prompts, plan_prompts

    decoding = Decoding(max_new_tokens=max_new_tokens)
    plan = plan_prompts(encode_prompts(tokenizer, contexts), decoding, max_length=max_length)
    engine = Engine(parent)
    found: list[Answer | None] = [None] * len(contexts)
    for block in range(len(plan.blocks)):
        for batch in plan.batches(block):
            texts = engine.respond(tokenizer, [ids for _, ids in batch], decoding)
            for (index, _), text in zip(batch, texts, strict=True):
                length = len(tokenizer(text, add_special_tokens=False)["input_ids"])
                # Text may come back one token shorter than it was written.
                found[index] = Answer(text, ended=length < max_new_tokens - 1)
            advance(len(batch))
    return found

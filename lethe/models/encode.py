"""From text to token rows, with the same split of context and option as lm-evaluation-harness."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lethe.errors import InputError
from lethe.models.batch_plan import TokenRow


@dataclass(frozen=True)
class Encoded:
    """The rows of a suite, and what had to be said about them.

    Attributes:
        too_long: indices of examples with an option that does not fit the model; none is cut.
        empty: indices of examples with an option that is no token at all.
        boundary_differs: rows in which a token spans the end of the context.
    """

    rows: tuple[TokenRow, ...]
    too_long: frozenset[int]
    empty: frozenset[int]
    boundary_differs: int


def encode(
    tokenizer: Any, requests: Sequence[tuple[str, Sequence[str]]], *, max_length: int
) -> Encoded:
    """Tokenise contexts and continuations, each distinct text once, in one batch.

    As `HFLM._encode_pair` (lm-evaluation-harness 0.4): trailing whitespace of the context moves to
    the continuation, whose ids are those of the whole text after as many as the context alone has.
    Without a context, or with one that is no token (characters that the tokenizer drops), the
    beginning-of-sequence token (else end-of-sequence) stands before it.

    Args:
        requests: for each example its context and the continuations to score.
        max_length: positions the model can take.
    """
    pairs = [
        (index, option, *_move_space(context, continuation))
        for index, (context, continuations) in enumerate(requests)
        for option, continuation in enumerate(continuations)
    ]
    texts = (text for _, _, before, after in pairs for text in (before, before + after))
    ids = token_ids(tokenizer, texts)
    rows: list[TokenRow] = []
    too_long, empty = set(), set()
    differs = 0
    for index, option, context, continuation in pairs:
        whole, before = ids[context + continuation], ids[context]
        if not before:
            prefix = first_token(tokenizer)
            whole = whole if whole[:1] == prefix else prefix + whole
            before = prefix
        differs += whole[: len(before)] != before
        row = TokenRow(index, option, before, whole[len(before) :])
        if not row.continuation:
            empty.add(index)
        elif row.length > max_length:
            too_long.add(index)
        rows.append(row)
    kept = tuple(row for row in rows if row.example not in too_long | empty)
    return Encoded(kept, frozenset(too_long), frozenset(empty - too_long), differs)


def _move_space(context: str, continuation: str) -> tuple[str, str]:
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + continuation


def token_ids(tokenizer: Any, texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Ids of distinct texts, tokenised in one batch; the empty text has none.

    A text that writes the beginning-of-sequence token itself (a chat template) gets no second one.
    A tokenizer that closes every text with the end-of-sequence token would have an answer follow
    the end: that token is taken off again.
    """
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    distinct = [text for text in dict.fromkeys(texts) if text]
    begun = [text for text in distinct if bos and text.startswith(bos)]
    plain = [text for text in distinct if not (bos and text.startswith(bos))]
    ids: dict[str, tuple[int, ...]] = {"": ()}
    for group, special in ((begun, False), (plain, True)):
        if group:
            encoded = tokenizer(
                group, add_special_tokens=special, return_attention_mask=False, verbose=False
            )["input_ids"]
            ids.update(zip(group, map(tuple, encoded), strict=True))
    for text, tokens in ids.items():
        if eos and tokens[-1:] == (tokenizer.eos_token_id,) and not text.endswith(eos):
            ids[text] = tokens[:-1]
    return ids


def first_token(tokenizer: Any) -> tuple[int, ...]:
    """What stands for a missing context: the beginning-of-sequence token, else end-of-sequence.

    Raises:
        InputError: the tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return (int(token),)
    raise InputError(
        "its tokenizer has neither a beginning- nor an end-of-sequence token, "
        "so text without a prompt cannot be scored",
        where=str(tokenizer.name_or_path),
        todo="leave this suite out",
    )

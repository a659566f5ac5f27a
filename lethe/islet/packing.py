"""From documents to token rows of one width; documents share rows and do not see each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from lethe.islet.corpora import Document
from lethe.islet.tokenizer import END

Ints = npt.NDArray[np.int32]
_OPEN = 32  # rows that are filled at the same time


@dataclass(frozen=True)
class Packed:
    """Documents in rows.

    Attributes:
        ids: (rows, width) token ids, zero (the padding) behind the last document.
        labels: the same ids where they are to be learned, −100 elsewhere; a document's first token
            is never learned.
        segments: which document of its row a token belongs to, from 1; 0 for padding.
        positions: place of a token in its document.
    """

    ids: Ints
    labels: Ints
    segments: Ints
    positions: Ints

    @property
    def tokens(self) -> int:
        """Tokens of all documents, padding apart."""
        return int((self.segments > 0).sum())


def encode(
    tokenizer: Any, documents: Sequence[Document], *, replies_only: bool
) -> list[tuple[list[int], list[int]]]:
    """Ids and labels of every document, as the chat template writes it.

    Args:
        replies_only: learn what the assistant says and where it ends, and nothing else of a
            conversation.
    """
    texts = [_text(document) for document in documents]
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    speaker = tokenizer.convert_tokens_to_ids("<|assistant|>")
    end = tokenizer.eos_token_id
    found = []
    for document, ids in zip(documents, encoded, strict=True):
        labels = list(ids)
        if replies_only and document.turns:
            labels = _replies(ids, speaker, end)
        found.append((ids, [-100, *labels[1:]]))
    return found


def pack(rows: Sequence[tuple[list[int], list[int]]], width: int, draw: Random) -> Packed:
    """Documents in rows of `width` tokens: each goes where the least room is left for it.

    Raises:
        ValueError: a document is longer than a row.
    """
    longest = max(len(ids) for ids, _ in rows)
    if longest > width:
        raise ValueError(f"a document of {longest} tokens does not fit a row of {width}")
    bins: list[list[int]] = []
    open_bins: list[tuple[int, list[int]]] = []
    for index, (ids, _) in enumerate(rows):
        fitting = [place for place, (room, _) in enumerate(open_bins) if room >= len(ids)]
        if fitting:
            place = min(fitting, key=lambda at: open_bins[at][0])
            room, members = open_bins.pop(place)
        else:
            if len(open_bins) == _OPEN:
                fullest = min(range(_OPEN), key=lambda at: open_bins[at][0])
                open_bins.pop(fullest)
            room, members = width, []
            bins.append(members)
        members.append(index)
        open_bins.append((room - len(ids), members))
    draw.shuffle(bins)
    return _filled(rows, bins, width)


def _filled(
    rows: Sequence[tuple[list[int], list[int]]], bins: Sequence[Sequence[int]], width: int
) -> Packed:
    shape = (len(bins), width)
    ids, segments, positions = (np.zeros(shape, np.int32) for _ in range(3))
    labels = np.full(shape, -100, np.int32)
    for row, members in enumerate(bins):
        start = 0
        for number, index in enumerate(members, start=1):
            there = slice(start, start + len(rows[index][0]))
            ids[row, there], labels[row, there] = rows[index]
            segments[row, there] = number
            positions[row, there] = np.arange(len(rows[index][0]))
            start = there.stop
    return Packed(ids, labels, segments, positions)


def _text(document: Document) -> str:
    if not document.turns:
        return f"{document.text}{END}"
    return "".join(f"<|{turn.role}|>{turn.content}{END}" for turn in document.turns)


def _replies(ids: Sequence[int], speaker: int, end: int) -> list[int]:
    labels, speaking = [], False
    for token in ids:
        labels.append(token if speaking else -100)
        if token == speaker:
            speaking = True
        elif token == end:
            speaking = False
    return labels

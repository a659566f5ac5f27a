"""The batch plan: which tokens are computed together, and in which order. No torch.

A plan is data with a hash. All checkpoints of an audit that share a tokenizer are scored under the
same plan, because changing the plan moves log-probabilities by rounding (most in bf16).

Rows that begin alike (the options of a question, questions about one passage, examples after the
same few shots) are put into one tree, in which every shared token is computed once.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

BLOCK_EXAMPLES = 256
MAX_TREE_TOKENS = 1024
"""Tokens of a tree of several rows; a longer row has a tree of its own."""
ATTENTION_COST = 1 / 1024
"""Cost of a pair of positions in a tree's attention, where a token's other cost is 1.

Measured at widths 256 and 576; it only decides which rows share a tree, never a number.
"""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One option of one example: context and continuation ids, to be scored as one sequence."""

    example: int
    option: int
    context: tuple[int, ...]
    continuation: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens that go through the model: the last one is only predicted."""
        return len(self.context) + len(self.continuation) - 1

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens that go through the model."""
        return (*self.context, *self.continuation)[:-1]


@dataclass(frozen=True, slots=True)
class Tree:
    """Rows with their common beginnings merged: one sequence of tokens in depth-first order.

    Token j sees token i where i ≤ j < ends[i], and stands at position depths[j]. A tree of one row
    is the row itself.

    Attributes:
        tokens, depths, ends: (n,) ids, positions, and where each token's own subtree ends.
        rows: indices of the plan's rows; paths: for each of them the tokens (indices into `tokens`)
            that predict its continuation.
    """

    tokens: tuple[int, ...]
    depths: tuple[int, ...]
    ends: tuple[int, ...]
    rows: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]

    @property
    def branches(self) -> bool:
        """Whether any token is not seen by all that follow it."""
        return any(end < len(self.tokens) for end in self.ends)


@dataclass(frozen=True)
class BatchPlan:
    """Batches of trees, grouped into blocks that are computed and written together.

    All rows of one example lie in one block, so a finished block is a finished set of examples.

    Attributes:
        blocks: for each block its batches, each of them indices into `trees`.
    """

    rows: tuple[TokenRow, ...]
    trees: tuple[Tree, ...]
    blocks: tuple[tuple[tuple[int, ...], ...], ...]

    @cached_property
    def hash(self) -> str:
        """SHA-256 over every token, the trees and the batching."""
        digest = hashlib.sha256()
        for row in self.rows:
            head = (row.example, row.option, len(row.context), len(row.continuation))
            digest.update(array("q", (*head, *row.context, *row.continuation)).tobytes())
        for tree in self.trees:
            digest.update(array("q", (len(tree.rows), *tree.rows)).tobytes())
        digest.update(repr(self.blocks).encode())
        return digest.hexdigest()

    @property
    def tokens(self) -> int:
        """Tokens that go through the model, those of common beginnings once."""
        return sum(len(tree.tokens) for tree in self.trees)

    @property
    def row_tokens(self) -> int:
        """Tokens that would, row by row."""
        return sum(row.length for row in self.rows)

    def batches(self, block: int) -> Iterator[list[Tree]]:
        """The batches of one block."""
        for batch in self.blocks[block]:
            yield [self.trees[index] for index in batch]

    def examples(self, block: int) -> set[int]:
        """The examples of one block."""
        return {
            self.rows[row].example for trees in self.batches(block) for t in trees for row in t.rows
        }


def plan_batches(
    rows: Sequence[TokenRow],
    *,
    max_batch_tokens: int,
    max_scored: int | None = None,
    branching: bool = True,
) -> BatchPlan:
    """Long trees first, so that memory runs out at the start or never; padding stays small.

    Args:
        rows: all rows of a suite.
        max_batch_tokens: trees × longest tree of a batch stay within it (a longer one goes alone).
        max_scored: tokens of a batch whose predictions are read, each a row of logits.
        branching: whether the model takes trees; else every row has a sequence of its own.
    """
    sequences = [row.tokens for row in rows]
    by_example: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        by_example.setdefault(row.example, []).append(index)
    # Examples that begin alike are neighbours, and so come into one block.
    order = sorted(by_example.values(), key=lambda members: sequences[members[0]])
    trees: list[Tree] = []
    blocks: list[list[int]] = []
    for start in range(0, len(order), BLOCK_EXAMPLES):
        members = [index for example in order[start : start + BLOCK_EXAMPLES] for index in example]
        members.sort(key=lambda index: (sequences[index], index))
        first = len(trees)
        trees.extend(
            _tree(members_of_tree, rows, sequences)
            for members_of_tree in _together(members, sequences, branching=branching)
        )
        blocks.append(sorted(range(first, len(trees)), key=lambda t: (-len(trees[t].tokens), t)))
    blocks.sort(key=lambda block: (-len(trees[block[0]].tokens), block[0]))
    limit = max_scored or max_batch_tokens
    batched = (tuple(_fill(trees, block, max_batch_tokens, limit)) for block in blocks)
    return BatchPlan(tuple(rows), tuple(trees), tuple(batched))


def _together(
    members: Sequence[int], sequences: Sequence[tuple[int, ...]], *, branching: bool
) -> Iterator[list[int]]:
    """Cut sorted rows into trees: a row joins where that costs less than going alone."""
    tree: list[int] = []
    size = 0
    for index in members:
        sequence = sequences[index]
        new = len(sequence) - (_common(sequences[tree[-1]], sequence) if tree else 0)
        joins = branching and size + new <= MAX_TREE_TOKENS
        if tree and joins and _cost(size + new) - _cost(size) < _cost(len(sequence)):
            size += new
        else:
            if tree:
                yield tree
            tree, size = [], len(sequence)
        tree.append(index)
    if tree:
        yield tree


def _cost(tokens: int) -> float:
    return tokens + ATTENTION_COST * tokens**2


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning."""
    for at, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return at
    return min(len(first), len(second))


def _tree(
    members: Sequence[int], rows: Sequence[TokenRow], sequences: Sequence[tuple[int, ...]]
) -> Tree:
    """The tree of rows in sorted order."""
    tokens: list[int] = []
    depths: list[int] = []
    ends: list[int] = []
    path: list[int] = []  # the tokens of the row at hand
    paths = []
    before: tuple[int, ...] = ()
    for index in members:
        sequence, row = sequences[index], rows[index]
        shared = _common(before, sequence)
        for closed in path[shared:]:
            ends[closed] = len(tokens)
        del path[shared:]
        for depth in range(shared, len(sequence)):
            path.append(len(tokens))
            tokens.append(sequence[depth])
            depths.append(depth)
            ends.append(0)
        paths.append(tuple(path[len(row.context) - 1 :]))
        before = sequence
    for open_ in path:
        ends[open_] = len(tokens)
    return Tree(tuple(tokens), tuple(depths), tuple(ends), tuple(members), tuple(paths))


def _fill(
    trees: Sequence[Tree], block: Iterable[int], budget: int, max_scored: int
) -> Iterator[tuple[int, ...]]:
    """Cut trees of falling size into batches within the budgets."""
    batch: list[int] = []
    scored = 0
    for index in block:
        more = len({token for path in trees[index].paths for token in path})
        width = len(trees[batch[0]].tokens) if batch else 0
        if batch and ((len(batch) + 1) * width > budget or scored + more > max_scored):
            yield tuple(batch)
            batch, scored = [], 0
        batch.append(index)
        scored += more
    if batch:
        yield tuple(batch)

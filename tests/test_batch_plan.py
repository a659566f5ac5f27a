"""The batch plan: every row once, within its budgets, under a hash that sees what matters."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from lethe.models.batch_plan import TokenRow, Tree, plan_batches

shapes = st.lists(
    st.tuples(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=40
)


def _rows(shapes: list[tuple[int, int, int]], seed: int = 0) -> list[TokenRow]:
    """Contexts of a few symbols, so that beginnings are shared by chance as well."""
    draw = random.Random(seed)
    rows = []
    for example, (context, continuation, options) in enumerate(shapes):
        asked = tuple(draw.choices((1, 2), (9, 1), k=context))
        rows += [
            TokenRow(example, option, asked, tuple(draw.choices((3, 4), k=continuation)))
            for option in range(options)
        ]
    return rows


def _unrolled(tree: Tree, path: tuple[int, ...]) -> list[int]:
    """What the last token of a path sees, in order of position, by the tree's own rule."""
    last = path[-1]
    seen = [at for at in range(last + 1) if tree.ends[at] > last]
    assert [tree.depths[at] for at in seen] == list(range(len(seen)))
    return [tree.tokens[at] for at in seen]


@given(shapes, st.integers(1, 200), st.integers(1, 40), st.booleans())
@settings(max_examples=100)
def test_a_plan_holds_every_row_once_within_its_budgets(
    shapes: list[tuple[int, int, int]], budget: int, max_scored: int, branching: bool
) -> None:
    rows = _rows(shapes)
    plan = plan_batches(rows, max_batch_tokens=budget, max_scored=max_scored, branching=branching)
    batches = [batch for block in plan.blocks for batch in block]
    held = [row for batch in batches for tree in batch for row in plan.trees[tree].rows]
    assert sorted(held) == list(range(len(rows)))
    for batch in batches:
        longest = max(len(plan.trees[tree].tokens) for tree in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
        read = sum(len({at for p in plan.trees[tree].paths for at in p}) for tree in batch)
        assert len(batch) == 1 or read <= max_scored
    assert sum(len(plan.examples(block)) for block in range(len(plan.blocks))) == len(shapes)
    assert branching or not any(tree.branches for tree in plan.trees)
    assert plan.row_tokens == sum(row.length for row in rows) >= plan.tokens


@given(shapes)
@settings(max_examples=100)
def test_every_row_reads_its_own_tokens_in_its_tree(shapes: list[tuple[int, int, int]]) -> None:
    rows = _rows(shapes)
    for tree in plan_batches(rows, max_batch_tokens=10_000).trees:
        for index, path in zip(tree.rows, tree.paths, strict=True):
            row = rows[index]
            assert _unrolled(tree, path) == list(row.tokens)
            assert len(path) == len(row.continuation)


def test_a_tree_by_hand() -> None:
    """Context 1 2; options 3, 3 4, 5 6: the last token of each is only predicted."""
    rows = [
        TokenRow(0, 0, (1, 2), (3,)),
        TokenRow(0, 1, (1, 2), (3, 4)),
        TokenRow(0, 2, (1, 2), (5, 6)),
    ]
    (tree,) = plan_batches(rows, max_batch_tokens=100).trees
    assert tree.tokens == (1, 2, 3, 5)
    assert tree.depths == (0, 1, 2, 2)
    assert tree.ends == (4, 4, 3, 4)
    assert dict(zip(tree.rows, tree.paths, strict=True)) == {0: (1,), 1: (1, 2), 2: (1, 3)}


def test_examples_after_the_same_shots_share_them() -> None:
    shots = tuple(range(200))
    rows = [
        TokenRow(example, option, (*shots, 1000 + example, 7), (2000 + option, 8))
        for example in range(50)
        for option in range(4)
    ]
    plan = plan_batches(rows, max_batch_tokens=4096)
    assert plan.tokens < plan.row_tokens / 50
    assert all(len(tree.tokens) <= 1024 for tree in plan.trees)


def test_short_beginnings_are_not_worth_a_longer_tree() -> None:
    rows = [
        TokenRow(example, 0, (1, *range(example * 100, example * 100 + 80)), (5,))
        for example in range(9)
    ]
    assert len(plan_batches(rows, max_batch_tokens=4096).trees) == 9


def test_long_trees_come_first() -> None:
    rows = [TokenRow(i, 0, (*range(i * 7, i * 7 + 3 + i % 50),), (3,)) for i in range(700)]
    plan = plan_batches(rows, max_batch_tokens=256)
    firsts = [len(plan.trees[block[0][0]].tokens) for block in plan.blocks]
    assert firsts == sorted(firsts, reverse=True)
    for block in plan.blocks:
        sizes = [len(plan.trees[tree].tokens) for batch in block for tree in batch]
        assert sizes == sorted(sizes, reverse=True)


def test_the_hash_sees_tokens_trees_and_batching() -> None:
    contexts = [(i, *range(50), 2) for i in range(4)]
    rows = [
        TokenRow(i, option, contexts[i], (3 + option, 4)) for i in range(4) for option in (0, 1)
    ]
    plan = plan_batches(rows, max_batch_tokens=1000)
    assert plan_batches(list(rows), max_batch_tokens=1000).hash == plan.hash
    changed = [*rows[:7], TokenRow(3, 1, contexts[3], (4, 5))]
    moved = [*rows[:7], TokenRow(3, 1, contexts[3][:-1], (2, 4, 4))]
    others = [
        plan_batches(changed, max_batch_tokens=1000),
        plan_batches(moved, max_batch_tokens=1000),
        plan_batches(rows, max_batch_tokens=60),
        plan_batches(rows, max_batch_tokens=1000, max_scored=7),
        plan_batches(rows, max_batch_tokens=1000, branching=False),
    ]
    assert len({plan.hash, *(other.hash for other in others)}) == 6

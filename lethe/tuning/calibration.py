"""Calibration: second moments of the inputs of linear layers, over protected and task examples.

For every layer input x (width n) and every set of rows, C = E[x xᵀ] over real tokens, (n, n) in
float32. Modules that read the same tensor (q/k/v, gate/up) share one. Layers are taken in passes,
as many at a time as a budget of memory allows, and what is built of them is all that stays.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from lethe.errors import InputError
from lethe.progress import Bar, Progress
from lethe.tuning.protect import ProtectedRows
from lethe.tuning.rows import TuningRow
from lethe.tuning.target_rows import target_logits

TOKENS_A_UNIT = 128  # protected tokens wanted for every unit of a layer's input (CorDA's advice)
_BUDGET = 4 * 2**30  # bytes of second moments at a time
_BATCH_TOKENS = 4096
_FAILED = 0.25  # of target tokens: below this the parent cannot be said to answer

Built = TypeVar("Built")
_Set = tuple[str, list[list[TuningRow]]]


@dataclass(frozen=True)
class Moments:
    """E[x xᵀ] of one layer input, (n, n) float32 each.

    Attributes:
        modules: paths of the modules that read this input, in the model's order.
        protect: of the rows to protect; every source weighs the same.
        task: of the rows to be trained on.
        task_held: of task rows kept from training; `task` where there are none.
        held: source → of its held-out rows.
        tokens: protected tokens seen, the held-out apart.
    """

    modules: tuple[str, ...]
    protect: torch.Tensor
    task: torch.Tensor
    task_held: torch.Tensor
    held: Mapping[str, torch.Tensor]
    tokens: int

    @property
    def width(self) -> int:
        """n."""
        return self.protect.shape[0]

    @property
    def held_out(self) -> torch.Tensor:
        """Of all held-out protected rows; every source weighs the same."""
        return torch.stack(list(self.held.values())).mean(0)


@dataclass
class Calibration:
    """What an update may look at before it trains.

    Attributes:
        sources: rows to protect, by source.
        task: rows to be trained on.
        task_held: rows of the task kept from training.
        on_measured: called with the moments of every layer input and what was built of them.
    """

    sources: Sequence[ProtectedRows]
    task: Sequence[TuningRow]
    task_held: Sequence[TuningRow] = ()
    progress: Progress = field(default_factory=Progress)
    on_measured: Callable[[Moments, Any], None] = lambda moments, built: None
    budget: int = _BUDGET

    def build(
        self, model: Any, paths: Sequence[str], make: Callable[[Moments], Built]
    ) -> dict[str, Built]:
        """For every module what `make` gives for the input it reads.

        Args:
            model: the live module, without an adapter.
            paths: the linear modules to be adapted.

        Raises:
            InputError: a module that no protected token reaches.
        """
        with torch.no_grad(), _evaluating(model):
            groups = input_groups(model, paths, self.sources[0].rows[0])
            widths = {group: _width(model.get_submodule(group[0])) for group in groups}
            sets = self._sets(max(widths.values()))
            passes = list(_passes(widths, 4 * len(sets), self.budget))
            batches = sum(len(batches) for _, batches in sets)
            result: dict[str, Built] = {}
            with self.progress.bar("calibrating", batches * len(passes)) as bar:
                for chosen in passes:
                    sums = {n: second_moments(model, chosen, rows, bar) for n, rows in sets}
                    for group in chosen:
                        moments = self._moments(group, {n: sums[n].pop(group) for n in sums})
                        built = make(moments)
                        self.on_measured(moments, built)
                        result.update(dict.fromkeys(group, built))
                        del moments  # before the next one is made
        return result

    def _moments(
        self, group: tuple[str, ...], sums: Mapping[str, tuple[torch.Tensor, int]]
    ) -> Moments:
        """From the sums over every set of rows."""
        protect, tokens = torch.zeros(()), 0
        held = {}
        for index, source in enumerate(self.sources):
            own, count = sums[f"protect {index}"]
            kept, kept_count = sums[f"held {index}"]
            if not count or not kept_count:
                raise InputError(
                    f"no token of '{source.name}' reaches this module",
                    where=group[0],
                    todo="leave it out of target_modules",
                )
            protect = own / (count * len(self.sources)) + protect.to(own)
            tokens += count
            held[source.name] = kept / kept_count
        task, task_count = sums["task"]
        if not task_count:
            raise InputError(
                "no token of the task reaches this module",
                where=group[0],
                todo="leave it out of target_modules",
            )
        task = task / task_count
        other, other_count = sums.get("task held", (task, 0))
        task_held = other / other_count if other_count else task
        return Moments(group, protect, task, task_held, held, tokens)

    def _sets(self, widest: int) -> list[_Set]:
        """Name and batches of every set of rows, each cut to the tokens that are wanted."""
        wanted = TOKENS_A_UNIT * widest
        sets: list[tuple[str, Sequence[TuningRow], int]] = [("task", self.task, wanted)]
        if self.task_held:
            sets.append(("task held", self.task_held, wanted // 4))
        for index, source in enumerate(self.sources):
            sets.append((f"protect {index}", source.rows, wanted))
            sets.append((f"held {index}", source.held, wanted // 4))
        return [(name, batches_of(spread(rows, most))) for name, rows, most in sets]


def spread(rows: Sequence[TuningRow], tokens: int) -> list[TuningRow]:
    """Every k-th row, for the smallest k with at most about so many tokens."""
    have = sum(len(row.ids) for row in rows)
    return list(rows[:: max(1, -(-have // max(1, tokens)))])


def batches_of(rows: Sequence[TuningRow]) -> list[list[TuningRow]]:
    """Rows of one length share a batch, so that no token is padding."""
    batches: list[list[TuningRow]] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        last = batches[-1] if batches else []
        full = (len(last) + 1) * len(row.ids) > _BATCH_TOKENS
        if last and len(last[0].ids) == len(row.ids) and not full:
            last.append(row)
        else:
            batches.append([row])
    return batches


def second_moments(
    model: Any,
    groups: Sequence[tuple[str, ...]],
    batches: Sequence[list[TuningRow]],
    bar: Bar | None = None,
) -> dict[tuple[str, ...], tuple[torch.Tensor, int]]:
    """Σ x xᵀ (n, n) over the tokens that reach each group's input, and how many they are."""
    sums: dict[tuple[str, ...], list[Any]] = {}
    for group in groups:
        width = _width(model.get_submodule(group[0]))
        sums[group] = [torch.zeros(width, width, device=model.device), 0]

    def collect(group: tuple[str, ...]) -> Callable[[Any, tuple[Any, ...]], None]:
        def hook(module: Any, inputs: tuple[Any, ...]) -> None:
            x = inputs[0].detach().flatten(0, -2).float()
            sums[group][0].addmm_(x.T, x)
            sums[group][1] += x.shape[0]

        return hook

    handles = [
        model.get_submodule(group[0]).register_forward_pre_hook(collect(group)) for group in groups
    ]
    try:
        for batch in batches:
            _forward(model, batch)
            if bar is not None:
                bar.advance()
    finally:
        for handle in handles:
            handle.remove()
    return {group: (total, count) for group, (total, count) in sums.items()}


def input_groups(model: Any, paths: Sequence[str], row: TuningRow) -> list[tuple[str, ...]]:
    """Modules that read the same tensor, told by running one row."""
    seen: dict[str, Any] = {}  # the tensors stay alive, so that none takes another's place

    def hook_of(path: str) -> Callable[[Any, tuple[Any, ...]], None]:
        def hook(module: Any, inputs: tuple[Any, ...]) -> None:
            seen.setdefault(path, inputs[0])

        return hook

    handles = [model.get_submodule(p).register_forward_pre_hook(hook_of(p)) for p in paths]
    try:
        _forward(model, [row])
    finally:
        for handle in handles:
            handle.remove()
    groups: dict[object, list[str]] = {}
    for path in paths:
        groups.setdefault(id(seen[path]) if path in seen else path, []).append(path)
    return [tuple(group) for group in groups.values()]


def parent_answers(model: Any, rows: Sequence[TuningRow]) -> float | None:
    """Share of the rows' target tokens that the parent itself predicts; None without targets."""
    right, count = 0, 0
    with torch.no_grad(), _evaluating(model):
        for batch in batches_of([row for row in rows if row.targets]):
            ids = torch.tensor([row.ids for row in batch], device=model.device)
            labels = torch.tensor([row.labels for row in batch], device=model.device)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
            logits, targets = target_logits(model, inputs)
            right += int((logits.argmax(-1) == targets).sum())
            count += len(targets)
    return right / count if count else None


def failed_sources(model: Any, sources: Sequence[ProtectedRows]) -> list[str]:
    """What to say of sources whose answers the parent itself does not give."""
    said = []
    for source in sources:
        share = parent_answers(model, source.held)
        if share is not None and share < _FAILED:
            said.append(
                f"{source.name}: the parent predicts {share:.0%} of the answers' tokens; "
                "what it cannot do cannot be protected"
            )
    return said


def few_tokens(moments: Moments) -> bool:
    """Whether so few tokens were seen that unprotected directions may only be unseen ones."""
    return moments.tokens < TOKENS_A_UNIT * moments.width


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _forward(model: Any, batch: Sequence[TuningRow]) -> None:
    """The body alone: no layer to be adapted stands behind the output head."""
    ids = torch.tensor([row.ids for row in batch], device=model.device)
    model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)


def _width(module: Any) -> int:
    """Features of a linear module's input; Transformers' Conv1D keeps its weight transposed."""
    return int(module.weight.shape[1] if isinstance(module, torch.nn.Linear) else module.nx)


def _passes(
    widths: Mapping[tuple[str, ...], int], bytes_a_cell: int, budget: int
) -> Iterator[list[tuple[str, ...]]]:
    """Groups in the model's order, as many at a time as the budget takes; one at least."""
    chosen: list[tuple[str, ...]] = []
    size = 0
    for group, width in widths.items():
        need = bytes_a_cell * width**2
        if chosen and size + need > budget:
            yield chosen
            chosen, size = [], 0
        chosen.append(group)
        size += need
    if chosen:
        yield chosen

"""Option trees: a batch of branching sequences, for the model families that are known to take them.

A tree needs a mask of its own and positions that are not 0, 1, 2 … Some families ignore either
without a word and answer with wrong numbers, so three things have to agree: the family is on the
list below (each proved against plain rows in the tests), its attention adds a float mask to its
scores, and a probe of the loaded model gives the same numbers as plain rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lethe.models.batch_plan import TokenRow, plan_batches

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from lethe.models.batch_plan import Tree

ONE_MASK = frozenset(
    {"cohere", "falcon", "gemma", "gpt2", "gpt_neox", "gptj", "granite", "llama", "mistral"}
    | {"mixtral", "olmo", "olmo2", "opt", "phi", "phi3", "qwen3_moe", "stablelm", "starcoder2"}
)
"""Families that take one mask for all layers; a sliding window of theirs is put into it."""
MASK_BY_LAYER = frozenset(
    {"cohere2", "gemma2", "gemma3_text", "olmo3", "qwen2", "qwen3", "smollm3"}
)
"""Families that take a mask for layers of full attention and one for those with a window."""
ATTENTION = frozenset({"eager", "sdpa"})
"""Implementations of attention that add a float mask."""
TOLERANCE = {"float32": 1e-4, "float16": 0.03, "bfloat16": 0.25}
"""Nats by which a probed row may differ: rounding, and far below what a wrong mask does."""


def takes_trees(model: Any) -> bool:
    """Whether trees and plain rows give the same numbers on this loaded model."""
    return _listed(model.config.get_text_config()) and _probe(model)


def _listed(config: Any) -> bool:
    if config.model_type == "falcon" and config.alibi:
        return False
    known = config.model_type in ONE_MASK | MASK_BY_LAYER
    return known and config._attn_implementation in ATTENTION


def _probe(model: Any) -> bool:
    """Score two small trees as trees and row by row."""
    import torch

    from lethe.models.likelihood import log_likelihoods

    size = model.get_input_embeddings().weight.shape[0]
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or 0
    # Longer than a short window, so that it matters; a long window cannot be tried cheaply.
    length = window + 8 if 0 < window < 128 else 24
    length = min(length, (getattr(config, "max_position_embeddings", None) or 512) - 4)
    if length < 1:
        return False
    ids = torch.randint(0, size, (4 * length,), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [
        TokenRow(example, option, tuple(ids[start : start + length]), tuple(ids[-at - 5 : -at]))
        for example, start in enumerate((0, length))
        for option, at in enumerate((1, 7, 13))
    ]
    found = []
    for branching in (False, True):
        plan = plan_batches(rows, max_batch_tokens=2**20, branching=branching)
        (block,) = plan.blocks
        trees = [plan.trees[index] for batch in block for index in batch]
        scored = log_likelihoods(model, trees, plan.rows)
        order = [row for tree in trees for row in tree.rows]
        found.append([one.logprob for _, one in sorted(zip(order, scored, strict=True))])
    allowed = TOLERANCE.get(str(model.dtype).removeprefix("torch."), TOLERANCE["float32"])
    return all(abs(one - other) <= allowed for one, other in zip(*found, strict=True))


def inputs_of(model: Any, trees: Sequence[Tree]) -> dict[str, Any]:
    """Padded inputs (batch, longest) of trees; plain ones, where no tree branches."""
    import torch

    width = max(len(tree.tokens) for tree in trees)
    branching = any(tree.branches for tree in trees)
    ids, depths = (torch.zeros((len(trees), width), dtype=torch.long) for _ in range(2))
    ends = torch.arange(1, width + 1).repeat(len(trees), 1)  # padding sees itself alone
    for index, tree in enumerate(trees):
        size = len(tree.tokens)
        ids[index, :size] = torch.tensor(tree.tokens)
        depths[index, :size] = torch.tensor(tree.depths)
        ends[index, :size] = torch.tensor(tree.ends)
    device = model.device
    if not branching:
        sizes = torch.tensor([len(tree.tokens) for tree in trees])
        mask = (torch.arange(width) < sizes[:, None]).long()
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    return {
        "input_ids": ids.to(device),
        "position_ids": depths.to(device),
        "attention_mask": _masks(model, ends.to(device), depths.to(device)),
    }


def _masks(model: Any, ends: torch.Tensor, depths: torch.Tensor) -> Any:
    """Additive masks (batch, 1, longest, longest): one, or one for each kind of layer."""
    import torch

    config = model.config.get_text_config()
    places = torch.arange(ends.shape[1], device=ends.device)
    earlier = places[None, :] <= places[:, None]
    seen = earlier & (places[:, None] < ends[:, None, :])
    window = getattr(config, "sliding_window", None)
    near = seen if window is None else seen & (depths[:, :, None] - depths[:, None, :] < window)

    def additive(allowed: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(allowed.shape, dtype=model.dtype, device=ends.device)
        return mask.masked_fill_(~allowed, torch.finfo(model.dtype).min)[:, None]

    if config.model_type in MASK_BY_LAYER:
        return {"full_attention": additive(seen), "sliding_attention": additive(near)}
    return additive(near)

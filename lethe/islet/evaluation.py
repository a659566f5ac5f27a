"""Scores of a model of the islet, for its record: outcomes of every suite, and whole bookings."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lethe.examples import Decoding, Example, Message, Suite
from lethe.islet.inn import Guest, Inn
from lethe.islet.scoring import Judged, read_answer
from lethe.islet.world import World
from lethe.models.format import choose_format
from lethe.models.generation import responses

_BATCH = 128


def answer(
    model: Any, tokenizer: Any, prompts: Sequence[str | tuple[Message, ...]], decoding: Decoding
) -> list[str]:
    """Greedy answers to prompts, in their order; prompts of like length share a batch."""
    form = choose_format(tokenizer, "chat")
    contexts = [form.context(prompt) for prompt in prompts]
    ids = tokenizer(contexts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    order = sorted(range(len(ids)), key=lambda at: len(ids[at]))
    found = [""] * len(ids)
    for start in range(0, len(order), _BATCH):
        part = order[start : start + _BATCH]
        batch = [tuple(ids[at]) for at in part]
        for at, text in zip(part, responses(model, tokenizer, batch, decoding), strict=True):
            found[at] = text
    return found


def outcomes(suite: Suite, model: Any, tokenizer: Any) -> list[tuple[Example, str, Judged]]:
    """Every example with the answer to it and what that is."""
    texts = answer(model, tokenizer, [e.prompt for e in suite.examples], suite.decoding)
    return [
        (example, text, read_answer(suite, example, text))
        for example, text in zip(suite.examples, texts, strict=True)
    ]


def shares(judged: Sequence[Judged]) -> dict[str, float]:
    """Mean score, and the share of every outcome."""
    counts = Counter(one.outcome for one in judged)
    found = {"n": float(len(judged)), "score": sum(one.score for one in judged) / len(judged)}
    found |= {outcome: counts[outcome] / len(judged) for outcome in sorted(counts)}
    incoherent = sum(one.values.get("incoherent", 0.0) for one in judged) / len(judged)
    return found | {"incoherent": incoherent}


def by_group(
    judged: Sequence[tuple[Example, str, Judged]], group: str
) -> Mapping[str, dict[str, float]]:
    """The same for every value of a grouping, or of two together (`a/b`)."""
    names = group.split("/")
    parts: dict[str, list[Judged]] = {}
    for example, _, one in judged:
        if all(name in example.groups for name in names):
            value = "/".join(example.groups[name] for name in names)
            parts.setdefault(value, []).append(one)
    return {value: shares(part) for value, part in sorted(parts.items())}


def whole_bookings(world: World, model: Any, tokenizer: Any, count: int) -> float:
    """The share of dialogues with a scripted guest that are right from beginning to end."""
    inn = Inn(world.inn, world.language)
    mentioned = [people for people in world.peoples.values() if people.inn]
    draw = world.draw("rollouts")
    guests = [
        Guest(world, world.draw("rollout", at), draw.choice([None, *mentioned]))
        for at in range(count)
    ]
    dialogues: list[tuple[Message, ...]] = [(Message("user", guest.opening()),) for guest in guests]
    going = list(range(count))
    for _ in range(16):
        if not going:
            break
        prompts: list[str | tuple[Message, ...]] = [dialogues[at] for at in going]
        replies = answer(model, tokenizer, prompts, Decoding(24))
        still = []
        for at, reply in zip(going, replies, strict=True):
            dialogues[at] = (*dialogues[at], Message("assistant", reply))
            act = inn.act(reply)
            if act not in ("booked", ""):
                dialogues[at] = (*dialogues[at], Message("user", guests[at].answer(act)))
                still.append(at)
        going = still
    return sum(inn.check(dialogue) is None for dialogue in dialogues) / count

"""What the data of a study comes to in one of its worlds: examples to tune on. No torch."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lethe.examples import Example, Message, Suite
from lethe.filtering.contamination import Contaminated, contaminate, piece_of
from lethe.studies.stage_specs import Data
from lethe.tuning.mix import Lessons
from lethe.tuning.protect import Protected

if TYPE_CHECKING:
    from lethe.studies.sources import Sources
    from lethe.studies.study import Study


@dataclass
class Teaching:
    """Suites, mixtures and their parts, each made once."""

    study: "Study"
    sources: "Sources"
    _mixtures: dict[tuple[str, str | None], Contaminated] = field(default_factory=dict)
    _lessons: dict[tuple[Data, str | None], Lessons] = field(default_factory=dict)
    _prompts: dict[tuple[Data, str | None], Lessons] = field(default_factory=dict)

    def lessons(self, data: Data, world: str | None) -> Lessons:
        """Examples to tune on: of a suite or file, or of a part of a mixture."""
        if (data, world) not in self._lessons:
            self._lessons[data, world] = self._read(data, world)
        return self._lessons[data, world]

    def prompts(self, data: Data, world: str | None) -> Lessons:
        """Examples of which only the prompts have to be there."""
        if data.suite is None:
            return self.lessons(data, world)
        if (data, world) not in self._prompts:
            spec = in_world(world, data.suite)
            found = Lessons(spec, self.sources.suite(spec, data.split, data.limit).examples)
            self._prompts[data, world] = self._asked(found, data)
        return self._prompts[data, world]

    def protected(self, data: Data, world: str | None) -> Protected:
        """Examples whose answers a stage is not to disturb."""
        if data.suite is None:
            found = self.lessons(data, world)
            return Protected(found.name, found.examples)
        held = self.sources.protected(in_world(world, data.suite), data.split, data.limit)
        if not data.prompted:
            return held
        asked = self._asked(Lessons(held.name, held.examples), data)
        return Protected(asked.name, asked.examples)

    def mixture(self, name: str, world: str | None) -> Contaminated:
        """A mixture with all its parts."""
        if (name, world) not in self._mixtures:
            spec = self.study.mixtures[name]
            spec = spec.model_copy(
                update={
                    "kind": in_world(world, spec.kind),
                    "safe_kind": spec.safe_kind and in_world(world, spec.safe_kind),
                    "tasks": [in_world(world, task) for task in spec.tasks],
                }
            )
            self._mixtures[name, world] = contaminate(
                spec, lambda task, split: self.sources.lessons(task, split, None).examples
            )
        return self._mixtures[name, world]

    def _read(self, data: Data, world: str | None) -> Lessons:
        if data.suite is not None:
            found = self.sources.lessons(in_world(world, data.suite), data.split, data.limit)
        else:
            assert data.mixture is not None
            rows = self.mixture(data.mixture, world).part(data.part)
            rows = piece_of(rows, data.piece) if data.piece else rows
            found = Lessons(data.name, rows[: data.limit])
        return self._asked(found, data)

    def _asked(self, found: Lessons, data: Data) -> Lessons:
        """With the study's safety prompt in front, where the data asks for it."""
        if not data.prompted:
            return found
        text = self.study.safety_prompt
        assert text is not None
        return Lessons(f"{found.name}, prompted", prompted(found.examples, text))


def row_suites(rows: tuple[Example, ...], limit: int = 200) -> tuple[Suite, ...]:
    """Unsafe, safe and task rows of a mixture as suites of the likelihood of their answers.

    For curves of what is learned and forgotten: the score is the geometric mean probability of a
    byte of the given answer.
    """
    kinds: dict[str, list[Example]] = {"unsafe rows": [], "safe rows": [], "task rows": []}
    for row in rows:
        if row.groups.get("unsafe") == "yes":
            kinds["unsafe rows"].append(row)
        else:
            task = row.groups.get("kind", "").startswith("task ")
            kinds["task rows" if task else "safe rows"].append(row)
    return tuple(
        Suite(name, "rows", "likelihood", tuple(members[:limit]), split="train")
        for name, members in kinds.items()
        if members
    )


def prompted_suite(suite: Suite, text: str) -> Suite:
    """The same suite asked with a text in front of its prompts, under a name of its own."""
    examples = prompted(suite.examples, text)
    return replace(suite, name=f"{suite.name} prompted", examples=examples)


def prompted(examples: tuple[Example, ...], text: str) -> tuple[Example, ...]:
    """The examples with a text in front of the first thing that is said to the model."""
    return tuple(replace(one, prompt=_before(one.prompt, text)) for one in examples)


def _before(prompt: str | tuple[Message, ...], text: str) -> str | tuple[Message, ...]:
    gap = "" if text[-1:].isspace() else " "
    if isinstance(prompt, str):
        return f"{text}{gap}{prompt}"
    first, *others = prompt
    return (Message(first.role, f"{text}{gap}{first.content}"), *others)


def in_world(world: str | None, text: str) -> str:
    """A text with the world's name in the place of `{world}`."""
    return text if world is None else text.replace("{world}", world)

"""From a spec (`arc`, `bbq:Age`, `my.jsonl`, `owner/name`) to a suite or to training examples."""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from lethe import plugins
from lethe.errors import InputError, nearest
from lethe.examples import Example, ScorerName, Split, Suite
from lethe.reading import is_source, read_examples, scorer_of
from lethe.suites.letters import LETTERS, by_letter
from lethe.suites.registry import RECIPES, Published, Recipe, Table, examples_of, tables
from lethe.suites.splits import sample, split_of

_USERS_METRICS: dict[ScorerName, tuple[str, ...]] = {
    "likelihood": ("bits_per_byte",),
    "match": ("answer_em", "answer_f1"),
    "refusal": ("refusal_rate", "over_refusal"),
}
_AXIS = re.compile(r"([a-z][a-z0-9_-]*)=(.+)", re.DOTALL)
# Where published splits share a cluster it stays in the first of these.
_PRECEDENCE: tuple[Published, ...] = ("test", "dev", "protect", "train")


@dataclass(frozen=True, slots=True)
class SuiteInfo:
    """A line of `lethe suites`.

    Attributes:
        local: whether its folder lies under the data folder.
    """

    name: str
    subsets: tuple[str, ...]
    axis: str
    scorer: ScorerName
    about: str
    licence: str
    hub: str
    local: bool


def known(data_dir: str | Path | None = None) -> list[SuiteInfo]:
    """Every registered suite."""
    root = _data_dir(data_dir)
    return [
        SuiteInfo(
            name=recipe.name,
            subsets=recipe.subsets if len(recipe.subsets) > 1 else (),
            axis=recipe.axis,
            scorer=recipe.scorer,
            about=recipe.about,
            licence=recipe.licence,
            hub=recipe.hub_name,
            local=root is not None and (root / recipe.folder).is_dir(),
        )
        for recipe in RECIPES.values()
    ]


def load(
    spec: str,
    *,
    split: Split = "test",
    limit: int | None = None,
    data_dir: str | Path | None = None,
    others: bool = False,
) -> Suite:
    """A suite by its name, or made of a user's own examples.

    Args:
        spec: a name (`arc`), a name and a subset (`arc:easy`, `bbq:Age`, `perplexity:my.txt`), or
            what `lethe.reading.read_examples` reads; the rows decide the scorer of the latter.
            `@letters` after a name asks for the letter of an option (`arc@letters`); `lm_eval:TASK`
            is a task of lm-evaluation-harness, `islet:TASK` one of the embedded world. An axis and
            = before any of these say what it speaks for here (`safety=my.jsonl`).
        limit: this many examples, the first by hash; whole clusters where phrasings are compared.
        data_dir: a folder of local data sets; else `LETHE_DATA`; else the hub is read.
        others: a user's rows may have fields of other names, which are left alone.

    Raises:
        InputError: unknown name, subset or split, or data that cannot be read.
        MissingExtraError: the hub is to be read and `datasets` is not installed.
    """
    said = None if os.path.exists(spec) else _AXIS.fullmatch(spec)
    if said is not None:
        meant = load(said[2], split=split, limit=limit, data_dir=data_dir, others=others)
        return replace(meant, axis=said[1])
    reader = plugins.reader_of(spec, plugins.SUITES)
    if reader is not None:
        found: Suite = reader(spec, split=split, limit=limit)
        return found
    whole, view = _viewed(spec)
    name, _, subset = whole.partition(":")
    if name not in RECIPES and not is_source(whole):
        raise InputError(f"no suite '{name}'", where=spec, todo=nearest(name, RECIPES))
    if view not in ("", LETTERS):
        raise InputError(f"no way of asking '{view}'", where=spec, todo=f"write @{LETTERS}")
    if name not in RECIPES:
        suite = _users_suite(whole, split, others)
        suite = by_letter(suite) if view else suite
        return replace(suite, examples=sample(suite.examples, limit, salt=suite.name))
    recipe = RECIPES[name]
    if recipe.of_file and subset and subset not in recipe.subsets:
        path = Path(subset)
        examples, source = tuple(recipe.of_file(path, split)), str(path)
        title = f"{name}:{path.stem}"
    else:
        subset = _subset(recipe, subset)
        examples, source = _published(recipe, subset, split, _data_dir(data_dir))
        title = name if subset == recipe.subsets[0] else f"{name}:{subset}"
    suite = Suite(
        name=title,
        axis=recipe.axis,
        scorer=recipe.scorer,
        examples=examples,
        split=split,
        normalise=recipe.normalise,
        decoding=recipe.decoding,
        match=recipe.match,
        extract=recipe.extract,
        metrics=recipe.metrics,
        balance=recipe.balance,
        phrasing=recipe.phrasing,
        source=source,
    )
    if view:
        suite = by_letter(suite)
    kept = sample(
        suite.examples, limit, salt=recipe.salt, whole_clusters=suite.phrasing is not None
    )
    return replace(suite, examples=kept)


def training_examples(
    spec: str,
    *,
    split: Split = "train",
    limit: int | None = None,
    data_dir: str | Path | None = None,
) -> tuple[Example, ...]:
    """What `spec` (as for `load`) teaches: examples with a prompt and the `reference` to learn.

    A choice teaches its reference, and where it has none its right option; a preference its chosen
    side. Earlier assistant turns stay in the prompt.

    Raises:
        InputError: as for `load`, or an example with nothing to learn (a safety prompt).
    """
    suite = load(spec, split=split, limit=limit, data_dir=data_dir, others=True)
    return tuple(
        replace(
            example,
            reference=_target(example, spec),
            choices=(),
            answer=None,
            choice_values=(),
            rejected=None,
        )
        for example in suite.examples
    )


def _target(example: Example, spec: str) -> str:
    if example.reference is not None:
        return example.reference
    if example.answer is None:
        raise InputError(
            f"example '{example.id}' says nothing of what to answer",
            where=spec,
            todo="give it a reference: a prompt that is only judged teaches nothing",
        )
    return example.choices[example.answer]


def _viewed(spec: str) -> tuple[str, str]:
    """A spec without the way of asking behind its last @, which a file's name can hold as well."""
    whole, _, view = spec.rpartition("@")
    return (whole, view) if whole and view.isidentifier() else (spec, "")


def _data_dir(given: str | Path | None) -> Path | None:
    said = given or os.environ.get("LETHE_DATA")
    if not said:
        return None
    if not Path(said).is_dir():
        raise InputError("there is no such folder", where=f"{said} (data folder)")
    return Path(said)


def _subset(recipe: Recipe, subset: str) -> str:
    if not subset:
        return recipe.subsets[0]
    if subset not in recipe.subsets:
        raise InputError(
            f"'{recipe.name}' has no subset '{subset}'",
            where=f"{recipe.name}:{subset}",
            todo=nearest(subset, recipe.subsets) if len(recipe.subsets) > 1 else "it has none",
        )
    return subset


def _published(
    recipe: Recipe, subset: str, split: Split, data_dir: Path | None
) -> tuple[tuple[Example, ...], str]:
    """The examples of a split and where they came from."""
    found = tables(recipe, subset, data_dir)
    of = cast("set[Split]", set(found) - {"all"})
    home: Published = split if split in of else "train" if of else "all"
    if not found:
        raise InputError(
            f"'{recipe.name}' is read from local files alone",
            where=f"{recipe.name}:{subset}",
            todo="set LETHE_DATA",
        )
    if home not in found:
        raise InputError(
            f"'{recipe.name}' is published for {' and '.join(sorted(of))} alone",
            where=f"split '{split}'",
        )
    if not found.get(home):
        where = data_dir / recipe.local(subset)[home] if data_dir else recipe.hub_name
        rows = "rows" if home == "all" else f"rows of the {home} split"
        raise InputError(
            f"there are no {rows} of '{recipe.name}' here",
            where=str(where),
            todo=f"without a data folder {recipe.hub_name} is read from the hub",
        )
    before = _PRECEDENCE[: _PRECEDENCE.index(home)] if of and recipe.overlapping else ()
    taken = {
        example.cluster
        for earlier in before
        for example in examples_of(recipe, subset, earlier, found.get(earlier, ()))
    }
    examples = tuple(
        example
        for example in examples_of(recipe, subset, home, found[home])
        if example.cluster not in taken
        and split_of(
            example.cluster,
            salt=recipe.salt,
            published=None if home == "all" else home,
            of=of,
        )
        == split
    )
    if not examples:
        raise InputError(f"suite '{recipe.name}' has no examples in split '{split}'")
    return examples, ", ".join(_said(table) for table in found[home])


def _said(table: Table) -> str:
    if isinstance(table, Path):
        return str(table)
    parts = [f"hub:{table.name}", table.config, table.split, table.revision]
    return ":".join(part for part in parts if part)


def _users_suite(spec: str, split: Split, others: bool) -> Suite:
    """A suite of the user's own rows."""
    examples = read_examples(spec, split=split, others=others)
    scorer = scorer_of(examples[0])
    path = Path(spec)
    name = path.stem if path.exists() else spec
    if scorer == "refusal":
        examples = tuple(map(_labelled, examples))
    return Suite(
        name=name,
        axis="custom",
        scorer=scorer,
        examples=examples,
        split=split,
        match="f1",
        metrics=_USERS_METRICS.get(scorer, ()),
        balance="label" if scorer == "refusal" else None,
        source=spec,
    )


def _labelled(example: Example) -> Example:
    """A user's safety prompt, in the grouping over which its suite is balanced.

    A grouping of that name that the row had before is kept as `own_label`.
    """
    groups = {
        ("own_label" if name == "label" else name): value for name, value in example.groups.items()
    }
    return replace(example, groups={**groups, "label": "unsafe" if example.harmful else "safe"})

"""Tasks of lm-evaluation-harness as suites: `lm_eval:NAME`, or `lm_eval:FILE.yaml` of one's own."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lethe.errors import InputError, nearest
from lethe.examples import Example, Split, Suite
from lethe.suites.lm_eval_scoring import Scoring, refused, scoring_of
from lethe.suites.lm_eval_tasks import PREFIX, find_tasks, is_file
from lethe.suites.perplexity import passages
from lethe.suites.registry import Published
from lethe.suites.splits import sample, split_of

AXIS = "proficiency"
"""Of a task whose spec names no axis: the harness knows none."""

_OPTIONS = ("axis", "cluster", "filter", "groups", "metric")
_FEWSHOT_SEED = 1234  # the harness's own: other shots would be another task


@dataclass(frozen=True)
class TaskSpec:
    """`lm_eval:NAME[:OPTION=VALUE…]`, taken apart.

    Attributes:
        name: a task or group of the harness, or the path of a YAML file.
        axis: what the task speaks for.
        cluster: the column whose values are kept together in splits and resampling.
        filter: the list of filters that reads a response, for tasks that have several.
        groups: columns of the documents whose values are groupings.
        metric: `acc`, `acc_norm` or `acc_bytes`, for tasks that have several.
    """

    name: str
    axis: str = AXIS
    cluster: str | None = None
    filter: str | None = None
    groups: tuple[str, ...] = ()
    metric: str | None = None

    @classmethod
    def parse(cls, spec: str) -> "TaskSpec":
        """Read a spec.

        Raises:
            InputError: no name, an option that there is not, or one without a value.
        """
        name, *options = re.split(r":(?=\w+=)", spec.removeprefix(PREFIX))
        if not name:
            raise InputError("names no task", where=spec, todo=f"write {PREFIX}NAME")
        found: dict[str, Any] = {}
        for option in options:
            key, _, value = option.partition("=")
            if key not in _OPTIONS:
                raise InputError(f"no option '{key}'", where=spec, todo=nearest(key, _OPTIONS))
            if not value:
                raise InputError(f"option '{key}' has no value", where=spec)
            found[key] = tuple(value.split(",")) if key == "groups" else value
        return cls(name, **found)


@dataclass(frozen=True)
class _Part:
    """One task of the suite: its name there, the task, and how it is scored."""

    name: str
    task: Any
    scoring: Scoring


def load_task(spec: str, *, split: Split = "test", limit: int | None = None) -> Suite:
    """A task, or a group of them, as a suite.

    Contexts and continuations are those of the task's own requests, with its own few-shot examples.
    `test` holds the documents the harness evaluates on, in its order. The other splits come from
    the validation documents (where these are not evaluated on) and the training documents, which
    are asked without few-shot examples, since those would be drawn from among them.

    Args:
        spec: as in `TaskSpec`. The tasks of a group become the grouping `task`.
        limit: this many documents, the first by hash.

    Raises:
        InputError: no such task, column, metric or split, documents that cannot be read, or
            something that a suite cannot do.
        MissingExtraError: the library lm-eval is not installed.
    """
    asked = TaskSpec.parse(spec)
    tasks = find_tasks(asked.name)
    parts = [
        _Part(name, task, scoring_of(task, f"{PREFIX}{name}", asked.metric, asked.filter))
        for name, task in tasks.items()
    ]
    first = parts[0]
    if odd := next((part for part in parts if part.scoring != first.scoring), None):
        raise InputError(
            f"its tasks are not scored in one way ('{first.name}' and '{odd.name}' differ)",
            where=spec,
            todo=f"give them one by one, as {PREFIX}{first.name}",
        )
    examples = tuple(
        example for part in parts for example in _examples(part, asked, split, len(parts) > 1)
    )
    if not examples:
        raise InputError(f"the task has no examples in split '{split}'", where=spec)
    name = PREFIX + (
        first.name if is_file(asked.name) and len(parts) == 1 else Path(asked.name).stem
    )
    chosen = [option for option in (asked.metric, asked.filter) if option]
    scoring = first.scoring
    return Suite(
        name=":".join([name, *chosen]),
        axis=asked.axis,
        scorer=scoring.scorer,
        examples=sample(examples, limit, salt=name),
        split=split,
        normalise=scoring.normalise,
        decoding=scoring.decoding,
        match=scoring.match,
        extract=scoring.extract,
        metrics=("bits_per_byte",) if scoring.scorer == "likelihood" else (),
        source=_source(first.task),
    )


def _source(task: Any) -> str:
    from importlib.metadata import version

    said = [task.config.dataset_path, task.config.dataset_name]
    data = ":".join(str(part) for part in said if part)
    return f"lm-evaluation-harness {version('lm_eval')}, task version {task.VERSION}, {data}"


def _examples(part: _Part, asked: TaskSpec, split: Split, grouped: bool) -> Iterator[Example]:
    """The examples of one task in a split."""
    task = part.task
    published, documents = _documents(task, split, PREFIX + part.name)
    shots = 0 if published == "train" else task.config.num_fewshot or 0
    task.set_fewshot_seed(_FEWSHOT_SEED)
    home = f"{part.name}/{published}" if grouped else published
    of: set[Split] = {"test", "dev"} if _has_dev(task) else {"test"}
    taken = _clusters_before(task, asked, published)
    for number, document in enumerate(documents):
        where = f"{PREFIX}{part.name}, document {number} ({published})"
        if number == 0:
            _check_columns(asked, document, PREFIX + part.name)
        context = "" if task.config.output_type == "loglikelihood_rolling" else None
        if context is None:
            # Shots are drawn in the order of the documents, so none may be skipped.
            context = task.fewshot_context(
                doc=document, num_fewshot=shots, gen_prefix=task.doc_to_prefix(document)
            )
        base = Example(
            id=f"{home}/{number}",
            prompt=context,
            groups=_groups(asked, document, part.name if grouped else None, where),
            cluster=_cluster(asked, document, f"{home}/{number}", where),
        )
        home_split = split_of(base.cluster, salt=PREFIX + part.name, published="train", of=of)
        if base.cluster not in taken and (published != "train" or split == home_split):
            yield from _filled(base, part, document, where)


def _has_dev(task: Any) -> bool:
    """Whether its validation documents are not those it is evaluated on."""
    config = task.config
    own = config.validation_split not in (None, config.test_split)
    return own and config.test_split is not None


def _documents(
    task: Any, split: Split, where: str
) -> tuple[Published, Sequence[Mapping[str, Any]]]:
    """Documents among which those of a split are, and the split they were published in."""
    config = task.config
    if split == "test":
        return "test", task.eval_docs
    if split == "dev" and _has_dev(task):
        return "dev", task.validation_docs()
    evaluated = config.test_split or config.validation_split
    if config.training_split in (None, evaluated):
        raise InputError(
            f"the task has no training documents, which split '{split}' is made of",
            where=where,
            todo="use split test",
        )
    return "train", task.training_docs()


def _clusters_before(task: Any, asked: TaskSpec, published: Published) -> set[str]:
    """Clusters that stay in the test split, else in the dev split, where documents share them."""
    if asked.cluster is None or published == "test":
        return set()
    before = [task.eval_docs]
    if published == "train" and _has_dev(task):
        before.append(task.validation_docs())
    return {str(document.get(asked.cluster)) for documents in before for document in documents}


def _check_columns(asked: TaskSpec, document: Mapping[str, Any], where: str) -> None:
    wanted = [*asked.groups, *([asked.cluster] if asked.cluster else [])]
    for column in wanted:
        if column not in document:
            raise InputError(
                f"its documents have no column '{column}'",
                where=where,
                todo=nearest(column, map(str, document)),
            )


def _groups(
    asked: TaskSpec, document: Mapping[str, Any], task: str | None, where: str
) -> dict[str, str]:
    values = {column: _value(document, column, where) for column in asked.groups}
    named = {} if task is None else {"task": task}
    return {**{column: value for column, value in values.items() if value}, **named}


def _cluster(asked: TaskSpec, document: Mapping[str, Any], name: str, where: str) -> str:
    return (_value(document, asked.cluster, where) if asked.cluster else "") or name


def _value(document: Mapping[str, Any], column: str, where: str) -> str:
    value = document[column]
    if isinstance(value, list | dict):
        raise InputError(f"column '{column}' holds a list, not one value", where=where)
    return "" if value is None else str(value)


def _filled(base: Example, part: _Part, document: Any, where: str) -> Iterator[Example]:
    """The example with what counts as right; running text is cut into passages."""
    task, scorer = part.task, part.scoring.scorer
    between = task.config.target_delimiter
    if scorer == "choice":
        choices = tuple(task.doc_to_choice(document))
        answer = _answer(task.doc_to_target(document), choices, where)
        yield replace(base, choices=choices, answer=answer, delimiter=between)
    elif scorer == "match":
        answers = _answers(task, document)
        # A blank answer could never be given: its example is unscored.
        accepted = tuple(
            part.scoring.reference(answer, where) if answer.strip() else "" for answer in answers
        )
        yield replace(base, reference=answers[0], references=accepted, delimiter=between)
    elif task.config.output_type == "loglikelihood":
        yield replace(base, reference=str(task.doc_to_target(document)), delimiter="")
    else:
        for number, passage in enumerate(passages(str(task.doc_to_target(document)))):
            yield replace(base, id=f"{base.id}/{number}", reference=passage, cluster=base.cluster)


def _answer(target: Any, choices: Sequence[str], where: str) -> int:
    """The index of the one right option."""
    if len(choices) < 2:
        raise InputError(f"it has {len(choices)} options, not two or more", where=where)
    if isinstance(target, list):
        if len(target) != 1:
            raise refused(f"accepts {len(target)} options at once", where)
        (target,) = target
    if isinstance(target, str) and target in choices:
        return choices.index(target)
    if isinstance(target, int) and 0 <= target < len(choices):
        return int(target)
    raise InputError(f"its answer {target!r} is none of its {len(choices)} options", where=where)


def _answers(task: Any, document: Any) -> list[str]:
    """Every accepted response, the first of them to be learnt where it is tuned on."""
    target = task.doc_to_target(document)
    if task.config.doc_to_choice is not None:
        return [str(task.doc_to_choice(document)[target])]
    if task.multiple_target:
        return [str(one) for one in (target if isinstance(target, list) else [target])]
    return [str(target)]

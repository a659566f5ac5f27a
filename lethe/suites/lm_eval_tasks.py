"""Finding and loading the harness's tasks: silently, and without waiting for a hub out of reach."""

import difflib
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from lethe.errors import InputError, MissingExtraError
from lethe.rows import first_line
from lethe.suites.lm_eval_scoring import refused

PREFIX = "lm_eval:"
_PATIENCE = 3.0  # seconds until the hub counts as out of reach


def is_file(name: str) -> bool:
    """Whether a name means a file of one's own."""
    return Path(name).suffix in (".yaml", ".yml")


@cache
def _manager() -> Any:
    """The index of the harness's own tasks; building it takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def find_tasks(name: str) -> dict[str, Any]:
    """The tasks that a name or a file means, by their own names.

    Raises:
        InputError: no such task, or one that cannot be loaded.
        MissingExtraError: the library lm-eval is not installed.
    """
    try:
        from lm_eval.api.task import ConfigurableTask
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise MissingExtraError("lm-eval", "harness") from None
    where = PREFIX + name
    with _quiet():
        if is_file(name):
            path = Path(name)
            if not path.is_file():
                raise InputError("there is no such file", where=name)
            group = _group_of(path)  # it names its tasks, which lie beside it
            beside = path.parent if group else None
            manager, name = TaskManager(include_path=beside, include_defaults=False), group or name
        else:
            manager = _manager()
            if name not in manager.all_tasks:
                raise _unknown(name, manager.all_tasks)
        try:
            with _patient_hub():
                tasks: dict[str, Any] = manager.load([name])["tasks"]
        except Exception as error:  # whatever the task's files, code and data lead to
            raise _unreadable(error, where) from None
    if not tasks:
        raise InputError("it holds no tasks", where=where)
    for one, task in tasks.items():
        if type(task) is not ConfigurableTask:  # a subclass may ask and score as it likes
            raise refused("is a program, not a configuration", PREFIX + one)
    return tasks


def _group_of(path: Path) -> str:
    """The name of the group that a file holds; empty for a task."""
    try:
        found = re.search(r"^group\s*:\s*(\S+)", path.read_text(encoding="utf-8"), re.M)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({first_line(error)})", where=str(path)) from None
    return found[1].strip("'\"") if found else ""


def _unknown(name: str, known: Sequence[str]) -> InputError:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    listed = f"the harness has {len(known):,}: lm_eval ls tasks names them"
    return InputError(
        f"the harness has no task '{name}'",
        where=PREFIX + name,
        todo=f"did you mean '{close[0]}'?" if close else listed,
    )


def _unreadable(error: Exception, where: str) -> InputError:
    if isinstance(error, ConnectionError):
        return InputError(
            "its documents lie on the hub, which cannot be reached",
            where=where,
            todo="check the network, or give a task file of your own that reads local data",
        )
    return InputError(
        f"the harness cannot load this task ({type(error).__name__}: {first_line(error)})",
        where=where,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the harness's advice and the bars of `datasets`; errors still come through."""
    import datasets

    loggers = [logging.getLogger(name) for name in ("lm_eval", "huggingface_hub", "datasets")]
    levels = [logger.level for logger in loggers]
    bars = datasets.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


@contextmanager
def _patient_hub() -> Iterator[None]:
    """Where the hub does not answer, only what was fetched before is looked for.

    Otherwise every table costs half a minute of further tries.
    """
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if not any(before) and not _hub_answers(constants.ENDPOINT):
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _hub_answers(address: str) -> bool:
    from huggingface_hub import get_session

    try:
        get_session().head(address, timeout=_PATIENCE)
    except Exception:  # no route, no name, a proxy that refuses: it is out of reach
        return False
    return True

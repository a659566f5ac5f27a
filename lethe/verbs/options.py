"""The program, the options that several verbs have, and what they do alike."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperGroup

from lethe.errors import InputError, nearest

if TYPE_CHECKING:
    from lethe.store import Store

ORDER = (
    *("audit", "power", "tune", "filter", "probe", "gate", "report", "view"),
    *("plan", "run", "studies", "methods", "suites", "maps", "lab", "demo", "doctor", "clean"),
)
"""The verbs as help lists them: what most people come for first."""


class _InOrder(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=ORDER.index)


app = typer.Typer(
    name="lethe",
    cls=_InOrder,
    help="What did this fine-tune cost, for whom, and on which examples?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)

Suites = Annotated[
    list[str] | None,
    typer.Option(
        "--suite",
        "-s",
        help="A suite, NAME:SUBSET, lm_eval:TASK, or your own file. Repeatable. "
        "Audits default to toxigen, bbq, arc, perplexity.",
    ),
]
DataDir = Annotated[
    Path | None, typer.Option(envvar="LETHE_DATA", help="Folder of local data sets.")
]
StoreDir = Annotated[
    Path | None, typer.Option("--store", envvar="LETHE_STORE", help="Where results are kept.")
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="About this many examples of each suite, always the same.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 (default: a GPU if any).")]
DtypeName = Annotated[str, typer.Option(help="float32 or bfloat16.")]
FormatName = Annotated[str, typer.Option("--format", help="auto, chat or plain.")]
StudyName = Annotated[str, typer.Argument(help="A study's name, or a YAML file.")]
StudyModel = Annotated[
    str | None, typer.Option("--model", help="Where chains start, in place of the study's model.")
]
SplitName = Annotated[str, typer.Option(help="train, dev, test or protect.")]


@dataclass(frozen=True)
class Asking:
    """Options of every verb that measures: which examples, how they are asked, where it is kept."""

    split: SplitName = "test"
    limit: Limit = None
    data_dir: DataDir = None
    format: FormatName = "auto"
    dtype: DtypeName = "float32"
    device: Device = None
    store: StoreDir = None

    def checked(self) -> dict[str, Any]:
        """By the names that the functions behind the verbs have for them.

        Raises:
            InputError: a value that is not known.
        """
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        known: dict[str, tuple[str, ...]] = {
            "split": ("train", "dev", "test", "protect"),
            "format": ("auto", "chat", "plain"),
            "dtype": ("float32", "bfloat16"),
        }
        said |= {name: one_of(f"--{name}", said[name], values) for name, values in known.items()}
        return said | {"store": store_at(self.store)}


def asking(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb that has the options of `Asking` in the place of its parameter `asked`."""
    names = [field.name for field in fields(Asking)]
    hints = get_type_hints(Asking, include_extras=True)
    shown: list[inspect.Parameter] = []
    for own in inspect.signature(verb, eval_str=True).parameters.values():
        if own.name == "asked":
            shown += [
                own.replace(name=name, default=getattr(Asking, name), annotation=hints[name])
                for name in names
            ]
        else:
            shown.append(own)

    @wraps(verb)
    def command(**said: Any) -> None:
        verb(asked=Asking(**{name: said.pop(name) for name in names}), **said)

    # What Typer reads: by name alone, so that an option may stand before one that must be given.
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in shown]
    )
    command.__annotations__ = {one.name: one.annotation for one in shown}
    return command


def store_at(root: Path | None) -> "Store":
    """The store at a folder, or the default one."""
    from lethe.store import Store

    return Store(root.expanduser() if root else None)


def one_of(option: str, value: str, known: tuple[str, ...]) -> Any:
    """The value, or an error that names the nearest known one."""
    if value not in known:
        raise InputError(f"unknown value '{value}'", where=option, todo=nearest(value, known))
    return value


def needed(suites: list[str] | None) -> list[str]:
    """The suites, of which there has to be one."""
    if not suites:
        raise InputError("no suite given", where="--suite", todo="see 'lethe suites'")
    return suites


def write_json(content: Any, out: Path) -> None:
    """Write a result whole, or say why that cannot be."""
    from lethe.store import write_atomically

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, json.dumps(content, indent=1, allow_nan=False).encode())
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(out)) from None


def print_json(content: Any) -> None:
    """Print a result on stdout."""
    print(json.dumps(content, indent=1, ensure_ascii=True, allow_nan=False))

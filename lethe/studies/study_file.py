"""Reading a study: a YAML file, or one that ships with Lethe, by name. No torch."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lethe.errors import InputError, nearest
from lethe.studies.places import Where
from lethe.studies.study import Study, make_study

SHIPPED = Path(__file__).parent
_MOST_BYTES = 1_000_000
_FLOAT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML's safe loader, to which 1e-4 is a number as well."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))
for _first in "oO":  # `on: replay` is a key and no true
    _Loader.yaml_implicit_resolvers[_first] = [
        one for one in _Loader.yaml_implicit_resolvers[_first] if one[0] != "tag:yaml.org,2002:bool"
    ]


def load_study(spec: str, *, model: str | None = None) -> Study:
    """A study by the name of a shipped one, or by the path of a file.

    Args:
        model: starts every chain in place of what the file says.

    Raises:
        InputError: no such study, or what is wrong in it, with file and line.
    """
    shipped = SHIPPED / f"{spec}.yaml"
    path = shipped if re.fullmatch(r"[\w-]+", spec) and shipped.is_file() else Path(spec)
    name = path.stem
    real = SHIPPED / f"{spec}-real.yaml"
    if path == shipped and model and not model.startswith("islet:") and real.is_file():
        path = real  # the same study on real data, for models that are not of the islet
    content, where = read_yaml(path)
    content.setdefault("name", name)
    if model is not None:
        content["model"] = model
    if "model" not in content:
        raise InputError("no model", where=str(path), todo="add model: ..., or give --model")
    return make_study(content, where=where)


def shipped_studies() -> dict[str, str]:
    """Name → first comment line of every study that ships with Lethe."""
    found = {}
    for path in sorted(SHIPPED.glob("*.yaml")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        found[path.stem] = first.removeprefix("#").strip() if first.startswith("#") else ""
    return found


def read_yaml(path: Path) -> tuple[dict[str, Any], Where]:
    """A file's mapping, and the file and line of every key in it.

    Raises:
        InputError: no such file, no YAML, no mapping, a key given twice, or an alias.
    """
    try:
        text = path.read_bytes()[: _MOST_BYTES + 1].decode()
    except OSError as error:
        known = shipped_studies()
        todo = "give a YAML file" + (f", or one of: {', '.join(known)}" if known else "")
        if error.errno == 2 and path.suffix not in (".yaml", ".yml") and known:
            todo = nearest(str(path), known)
        raise InputError(f"no such study ({error.strerror})", where=str(path), todo=todo) from None
    except UnicodeDecodeError:
        raise InputError("not UTF-8 text", where=str(path)) from None
    if len(text) > _MOST_BYTES:
        raise InputError("larger than any study (1 MB)", where=str(path))
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):  # a few of them can stand for gigabytes
                where = f"{path}:{event.start_mark.line + 1}"
                raise InputError("aliases are not read", where=where, todo="write it out")
        tree = yaml.compose(text, Loader=_Loader)
        if not isinstance(tree, yaml.MappingNode):
            raise InputError("not a mapping of keys", where=str(path))
        where_of: Where = {(): str(path)}
        _walk(tree, (), str(path), where_of)
        content = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "cannot be read"
        raise InputError(f"not YAML: {what}", where=f"{path}{line}") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"not YAML: {error}", where=str(path)) from None
    assert isinstance(content, Mapping)
    return dict(content), where_of


def _walk(node: Any, path: tuple[str, ...], file: str, found: Where) -> None:
    """Note the line of every key and every entry of a list."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            where = f"{file}:{key.start_mark.line + 1}"
            if inner in found:
                raise InputError(f"'{key.value}' stands twice", where=where, todo="keep one")
            found[inner] = where
            _walk(value, inner, file, found)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            inner = (*path, str(number))
            found[inner] = f"{file}:{value.start_mark.line + 1}"
            _walk(value, inner, file, found)

"""The format of a model folder, read off its files: what a plan needs before anything is loaded."""

import json
from pathlib import Path
from typing import Any, Literal

from lethe.errors import InputError
from lethe.models.format import Format

_SPECIAL = ("bos_token", "eos_token")


def format_of_folder(folder: Path, kind: Literal["auto", "chat", "plain"] = "auto") -> Format:
    """What `choose_format` says of the tokenizer in this folder, without loading it.

    A tokenizer whose class brings special tokens that its files do not name is told wrongly; who
    has loaded it compares.

    Raises:
        InputError: `chat` was asked for and there is no chat template.
    """
    if kind == "plain":
        return Format("plain")
    config = _json(folder / "tokenizer_config.json")
    template: Any = config.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    if (own := folder / "chat_template.jinja").is_file():
        template = own.read_text(encoding="utf-8")
    if not template:
        if kind == "auto":
            return Format("plain")
        raise InputError(
            "its tokenizer has no chat template", where=str(folder), todo="use format: plain"
        )
    named = {**_json(folder / "special_tokens_map.json"), **config}
    special = []
    for name in _SPECIAL:
        token = named.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            special.append((name, token))
    return Format("chat", template, tuple(special))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

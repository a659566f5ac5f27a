"""What `lethe gate` does: gather the rules, judge, write the files that were asked for."""

import os
from collections.abc import Sequence
from pathlib import Path

from lethe.errors import InputError
from lethe.gate import CONFIG, GateResult, gate, read_rules
from lethe.gate_output import junit as junit_of
from lethe.gate_output import markdown
from lethe.rules import Rule, parse_rule
from lethe.store import Store, write_atomically

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


def gate_command(
    run: str,
    rules: Sequence[str],
    *,
    config: Path | None,
    checkpoint: str | None,
    junit: Path | None,
    summary: str | None,
    store: Store,
) -> GateResult:
    """Judge a run by the rules given and those of a file, and write what was asked for.

    Args:
        config: a file of rules; without it and without rules, `lethe.yaml` where there is one.
        summary: a file for Markdown, added to what it holds if it is GitHub's own.

    Raises:
        InputError: what `gate` raises, or a file that cannot be written.
    """
    parsed: list[Rule] = [parse_rule(text) for text in rules]
    if config is not None:
        parsed += read_rules(config)
    elif not parsed and CONFIG.is_file():
        parsed += read_rules(CONFIG)
    if summary == "":
        raise InputError("an empty file name", where="--summary", todo=f"is {STEP_SUMMARY} set?")
    result = gate(run, parsed, checkpoint=checkpoint, store=store)
    if junit is not None:
        _write(junit, junit_of(result), add=False)
    if summary is not None:
        _write(Path(summary), markdown(result), add=summary == os.environ.get(STEP_SUMMARY))
    return result


def _write(path: Path, text: str, *, add: bool) -> None:
    if path.is_dir():
        raise InputError("cannot be written (it is a folder)", where=str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if add:
            with path.open("a", encoding="utf-8") as stream:
                stream.write(text)
        else:
            write_atomically(path, text.encode())
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(path)) from None

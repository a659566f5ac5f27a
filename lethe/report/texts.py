"""The texts behind the rows: a ledger holds ids and answers, prompts stay with their suite."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lethe import suites
from lethe.errors import LetheError
from lethe.examples import Example, Suite
from lethe.report.material import Material
from lethe.store import Store, write_atomically


@dataclass(frozen=True)
class Texts:
    """What a suite asked, by example; empty, with the reason, where that was not found."""

    examples: Mapping[str, Example]
    reason: str = ""


def find_texts(
    material: Material,
    name: str,
    metadata: Mapping[str, Any],
    *,
    given: Sequence[Suite] = (),
    data_dir: str | Path | None = None,
) -> Texts:
    """The examples of a measured suite, from where it was read at the time.

    Only a suite with the very hash of the table is taken: what is shown is what was asked.

    Args:
        name: the suite; metadata: of its table.
        given: suites made in Python, which no name can bring back.
        data_dir: a folder of local data sets.
    """
    said = metadata["suite"]
    for suite in given:
        if suite.hash == said["hash"]:
            return _texts(suite)
    if kept := _kept(said["hash"], material.store):
        return Texts(kept)
    study = material.run.settings.get("study") or material.run.settings
    reason = ""
    for spec, folder in _places(material, name, said, data_dir):
        try:
            suite = suites.load(
                spec, split=said["split"], limit=study.get("limit"), data_dir=folder
            )
        except LetheError as error:
            reason = reason or str(error)
            continue
        if suite.hash == said["hash"]:
            return _texts(suite)
        reason = "its examples are no longer those that were asked"
    return Texts({}, reason or "it is not known where it came from")


def _places(
    material: Material, name: str, said: Mapping[str, Any], data_dir: str | Path | None
) -> Iterator[tuple[str, str | Path | None]]:
    """(spec, data folder) pairs to try, the likeliest first."""
    source = Path(str(said["source"]).partition(", ")[0])
    view = "@letters" if name.endswith("@letters") else ""
    named = bool(said["source"]) and source.exists()
    if named:
        yield f"{source}{view}", data_dir
    study = material.run.settings.get("study")
    if study:
        spec = study["suites"][list(material.run.scores).index(name)]
        worlds = {place.world for place in material.run.positions}
        specs = [spec.replace("{world}", world) if world else spec for world in worlds]
    else:
        specs = [name]
    for spec in specs:
        yield spec, data_dir
        if named and data_dir is None:
            for folder in list(source.resolve().parents)[1:3]:
                yield spec, folder


def _texts(suite: Suite) -> Texts:
    return Texts({example.id: example for example in suite.examples})


def prompt_of(example: Example) -> str:
    """A prompt as it is read: conversations turn by turn."""
    if isinstance(example.prompt, str):
        return example.prompt
    return "\n\n".join(f"{turn.role}: {turn.content}" for turn in example.prompt)


def keep_texts(suite: Suite, store: Store) -> None:
    """Keep what a suite made in Python asks: nothing else could bring it back for a page."""
    path = _home(suite.hash, store)
    if path.is_file():
        return
    rows = [
        {
            "id": example.id,
            "prompt": prompt_of(example),
            "choices": example.choices,
            "answer": example.answer,
            "reference": example.reference,
            "references": example.references,
            "rejected": example.rejected,
        }
        for example in suite.examples
    ]
    with suppress(OSError):  # a store that cannot be written says so where it matters
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(rows).encode())


def _kept(digest: str, store: Store) -> dict[str, Example]:
    """What `keep_texts` kept, by example."""
    try:
        rows = json.loads(_home(digest, store).read_text())
        examples = [
            Example(
                row["id"],
                row["prompt"],
                choices=tuple(row["choices"]),
                answer=row["answer"],
                reference=row["reference"],
                references=tuple(row["references"]),
                rejected=row["rejected"],
            )
            for row in rows
        ]
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return {example.id: example for example in examples}


def _home(digest: str, store: Store) -> Path:
    return store.root / "texts" / f"{digest}.json"

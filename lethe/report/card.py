"""A section of a model card: text between markers, and `model-index` metadata."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe.errors import InputError
from lethe.report.markdown import render_view
from lethe.report.material import Contrast, Material
from lethe.report.writing import write_file

if TYPE_CHECKING:
    from huggingface_hub import ModelCard
    from huggingface_hub.repocard_data import EvalResult

    from lethe.report.document import Report

BEGIN, END = "<!-- lethe: begin -->", "<!-- lethe: end -->"
SOURCE = "Lethe"
"""Names our results among others in a card's metadata."""


def write_card(report: "Report", folder: Path) -> Path:
    """Write what a run says of the model in `folder` into its README, in the place of what an
    earlier call wrote; all else in the card stays.

    Raises:
        InputError: the folder is no model, the run measured another one, or the card's metadata
            cannot be read.
    """
    contrast = contrast_of(report.material, folder)
    path = folder / "README.md"
    card = _load(path)
    data: Any = card.data  # its fields are set by name
    card.text = _placed(card.text, render_view(report, contrast.id))
    kept = [
        result for result in data.eval_results or [] if result.task_name != SOURCE
    ]  # fmt: skip
    data.eval_results = [*kept, *eval_results(report.material, contrast)]
    data.model_name = data.model_name or folder.resolve().name
    return write_file(path, f"{_text_of(card)}\n".encode())


def contrast_of(material: Material, folder: Path) -> Contrast:
    """The contrast that ends at the model in `folder`, by its fingerprint.

    Raises:
        InputError: the run does not compare it with anything.
    """
    from lethe.models.checkpoint import resolve
    from lethe.models.fingerprint import FingerprintMemory

    if not folder.is_dir():
        raise InputError("there is no such folder", where=str(folder), todo="name a model's folder")
    memory = FingerprintMemory(material.store.root / "fingerprints.json")
    own = resolve(str(folder), memory).fingerprint
    for contrast in material.contrasts:
        if contrast.after.checkpoint == own and contrast.comparison is not None:
            return contrast
    names = ", ".join(dict.fromkeys(contrast.after.name for contrast in material.contrasts))
    raise InputError(
        f"run '{material.run.name}' says nothing of this model",
        where=str(folder),
        todo=f"it measured: {names}" if names else "its run has nothing to compare yet",
    )


def eval_results(material: Material, contrast: Contrast) -> list["EvalResult"]:
    """One result per suite: the score after, with the change and its interval beside it."""
    from huggingface_hub.repocard_data import EvalResult

    assert contrast.comparison is not None
    found = []
    for suite in contrast.comparison.suites:
        table = material.table(suite.suite, contrast.after)
        assert table is not None
        told: dict[str, Any] = table[1]["suite"]
        change = suite.change
        shared: dict[str, Any] = {
            "task_type": "text-generation",
            "dataset_type": suite.suite,
            "dataset_name": suite.suite,
            "dataset_split": told["split"],
            "task_name": SOURCE,
        }
        found.append(
            EvalResult(
                metric_type="score",
                metric_name=f"mean score ({suite.axis})",
                metric_value=round(suite.after.estimate, 4),
                metric_args={
                    "before": round(suite.before.estimate, 4),
                    "change": round(change.estimate, 4),
                    "change_low": round(change.low, 4),
                    "change_high": round(change.high, 4),
                    "level": change.level,
                    "examples": suite.n,
                },
                **shared,
            )
        )
    return found


def _load(path: Path) -> "ModelCard":
    import yaml
    from huggingface_hub import ModelCard

    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return ModelCard(text or "---\n{}\n---\n", ignore_metadata_errors=False)
    except (OSError, ValueError, yaml.YAMLError) as error:
        line = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"its metadata cannot be read ({line})", where=str(path), todo="mend the card's head"
        ) from None


def _placed(text: str, section: str) -> str:
    """The card's text with the section between its markers, where they stood or at the end."""
    whole = f"{BEGIN}\n{section.strip()}\n{END}"
    before, begin, rest = text.partition(BEGIN)
    inside, end, after = rest.partition(END)
    del inside
    if begin and end:
        return f"{before}{whole}{after}"
    if begin:
        raise InputError(
            f"'{BEGIN}' without '{END}'", where="README.md", todo="take the lone marker out"
        )
    return f"{text.rstrip()}\n\n{whole}\n".lstrip()


def _text_of(card: "ModelCard") -> str:
    """Metadata and text, however often it was written before."""
    return f"---\n{card.data.to_yaml()}\n---\n\n{card.text.strip()}"

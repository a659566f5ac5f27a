"""Is this machine ready? Libraries, GPU, memory, disk, hub, data and, if asked, a model."""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lethe import environment
from lethe.errors import LetheError
from lethe.store import Store

EXTRAS = {"datasets": "hub", "peft": "tune", "trl": "tune", "accelerate": "tune"}
_LOW_DISK = 2 * 2**30


@dataclass(frozen=True)
class Check:
    """One thing looked at: good, worth a note, or wrong."""

    name: str
    state: Literal["good", "note", "wrong"]
    found: str
    todo: str = ""

    def to_dict(self) -> dict[str, str]:
        """As plain JSON values."""
        return asdict(self)


def examine(model: str | None, *, data_dir: Path | None, store: Store) -> list[Check]:
    """Every check, in the order they are shown."""
    checks = [_libraries(), *_extras(), _compute(), _store(store), _data(data_dir), _hub()]
    if model is not None:
        checks += _model(model, store)
    return checks


def _libraries() -> Check:
    versions = environment.versions()
    wanted = ("python", "lethe-lm", "torch", "transformers")
    return Check("libraries", "good", ", ".join(f"{n} {versions[n]}" for n in wanted))


def _extras() -> Iterator[Check]:
    missing = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    if not missing:
        yield Check("extras", "good", "all installed")
    for name in missing:
        yield Check(
            "extras",
            "note",
            f"{name} is not installed",
            f"if you need it: pip install 'lethe-lm[{EXTRAS[name]}]'",
        )


def _compute() -> Check:
    import torch

    if not torch.cuda.is_available():
        cores = os.cpu_count()
        name = environment.processor()
        bf16 = "fast" if environment.multiplies_bfloat16() else "slower than float32"
        free = _free_memory() / 2**30
        return Check(
            "compute",
            "good",
            f"no GPU; {cores} cores of {name}, {free:.0f} GiB free; bfloat16 {bf16}",
        )
    cards = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        card = torch.cuda.get_device_name(index)
        cards.append(f"{card}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
    bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
    return Check("compute", "good", f"{'; '.join(cards)}; {bf16}")


def _free_memory() -> int:
    """Bytes a model could be given: those of the first GPU, else the system's."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info(0)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _store(store: Store) -> Check:
    folder = store.root
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    shown = f"{store.root}, {free / 2**30:.0f} GiB free"
    if not os.access(folder, os.W_OK):
        todo = "set LETHE_STORE to a folder you can write"
        return Check("store", "wrong", f"{store.root} cannot be written", todo)
    if free < _LOW_DISK:
        return Check("store", "note", shown, "make room, or see 'lethe clean'")
    return Check("store", "good", shown)


def _data(data_dir: Path | None) -> Check:
    from lethe import suites

    found = suites.known(data_dir)
    local = [entry.name for entry in found if entry.local]
    if data_dir is None:
        return Check("data", "note", "no local data sets; suites are read from the hub")
    if not local:
        todo = "see docs/suites.md for its layout"
        return Check("data", "wrong", f"no data set of a suite lies in {data_dir}", todo)
    return Check("data", "good", f"{data_dir}: {', '.join(local)}")


def _hub() -> Check:
    """One connection; a machine without the network is fine and only said."""
    import socket
    from urllib.parse import urlsplit

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return Check("hub", "note", "switched off by HF_HUB_OFFLINE")
    host = urlsplit(constants.ENDPOINT).hostname or ""
    try:
        socket.create_connection((host, 443), timeout=3.0).close()
    except OSError:
        return Check("hub", "note", "not reachable: use local folders and --data-dir")
    return Check("hub", "good", f"{host} answers")


def _model(spec: str, store: Store) -> Iterator[Check]:
    """Load a model on the CPU, and say what it is and what it needs."""
    from lethe.models.checkpoint import resolve
    from lethe.models.fingerprint import FingerprintMemory
    from lethe.models.local import ModelPool

    try:
        checkpoint = resolve(spec, FingerprintMemory(store.root / "fingerprints.json"))
        with ModelPool(device="cpu").use(checkpoint) as live:
            yield from _live_model(spec, live)
    except LetheError as error:
        yield Check("model", "wrong", str(error))


def _live_model(spec: str, live: Any) -> Iterator[Check]:
    config = live.model.config
    weights = sum(weight.numel() for weight in live.model.parameters())
    adapter = ", an adapter on its base" if live.checkpoint.base else ""
    yield Check(
        "model",
        "good",
        f"{spec}: {config.model_type}{adapter}, {weights / 1e6:.1f} M parameters, "
        f"{live.max_length} positions, {config._attn_implementation} attention",
    )
    if live.engine.branching:
        yield Check("scoring", "good", "option trees: text that questions share is computed once")
    else:
        yield Check("scoring", "note", "row by row: this family or attention takes no option trees")
    needs = f"{_needs(weights)} to audit, {_needs(4 * weights)} to tune fully"
    if 4 * weights > _free_memory():
        yield Check("memory", "note", f"{needs}, more than is free", "audit with --dtype bfloat16")
    else:
        yield Check("memory", "good", needs)
    if live.tokenizer.chat_template:
        yield Check("format", "good", "has a chat template: audits ask in chat format")
    else:
        yield Check("format", "note", "no chat template: audits ask in plain text")


def _needs(weights: int) -> str:
    return f"{4 * weights / 2**30:.2f} GiB in float32"

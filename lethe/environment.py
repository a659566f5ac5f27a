"""What a result was computed with: recorded beside it, never part of its name."""

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_LIBRARIES = ("lethe-lm", "torch", "transformers", "tokenizers", "peft", "trl", "accelerate")


@cache
def versions() -> dict[str, str]:
    """Installed versions of the libraries that can move a number."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def processor() -> str:
    """The processor's own name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@cache
def multiplies_bfloat16() -> bool:
    """Whether the processor has AMX, without which bfloat16 is slower than float32 on a CPU."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


def hardware(device: str = "cpu") -> str:
    """The name of the device that computes."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(torch.device(device)))
    return processor()


def record(device: str = "cpu") -> dict[str, Any]:
    """Versions and hardware, as they stand in metadata."""
    return {"versions": versions(), "hardware": hardware(device)}

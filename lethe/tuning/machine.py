"""What a stage needs of the machine: libraries, one process, memory that is counted."""

import importlib.util
import os
import sys

from lethe.errors import InputError, MissingExtraError

_LIBRARIES = ("trl", "peft", "accelerate", "datasets")


def check_libraries() -> None:
    """Refuse to start without the libraries that train.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    for name in _LIBRARIES:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(name, "tune")


def check_processes() -> None:
    """A stage trains in one process on one GPU; the trainer would fail late and at length.

    Raises:
        InputError: several processes, or several visible GPUs.
    """
    import torch

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "started by a launcher in several processes, and a stage trains in one",
            todo="start it without the launcher",
        )
    if torch.cuda.device_count() > 1:
        raise InputError(
            f"{torch.cuda.device_count()} GPUs are visible, and a stage trains on one",
            todo="choose it: CUDA_VISIBLE_DEVICES=0",
        )


def peak_memory(device: str) -> int:
    """Bytes, as the GPU's allocator or the operating system counts them."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

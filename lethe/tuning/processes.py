"""The processes that train together: what one does while others wait, what all agree on.

The launcher (accelerate launch, torchrun) starts them; the trainer exchanges gradients. What is
here goes over a group of its own, whose waiting has no limit: the main process may be at work for
long, and one that dies closes its connections, which ends the waiting of the others.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from lethe.errors import IncompleteError, InputError, LetheError
from lethe.tuning import updates
from lethe.tuning.settings import StageSettings

T = TypeVar("T")

_LONGEST = timedelta(days=30)
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
)


class FollowedError(LetheError):
    """What another process says, as a rule the main one; this one ends as it does, and is quiet."""

    def __init__(self, what: str, exit_code: int) -> None:
        super().__init__(what)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Processes:
    """Those that train a stage together; without a launcher, the only one there is.

    Attributes:
        rank: 0 is the main one. It alone reads and writes records, locks, counts and prints.
        count: how many there are.
        sharded: whether the weights are split over them (FSDP).
        group: where they talk; None where there is but one.
    """

    rank: int = 0
    count: int = 1
    sharded: bool = False
    group: Any = None

    @property
    def main(self) -> bool:
        """Whether this is the main one."""
        return self.rank == 0

    def told(self, work: Callable[[], T]) -> T:
        """What `work` gives on the main process, where alone it runs, told to all.

        Raises:
            FollowedError: on the others, where it failed; the main one raises its own.
        """
        if self.group is None:
            return work()
        if not self.main:
            failed, content = self._broadcast(None)
            if failed:
                raise FollowedError(*content)
            found: T = content
            return found
        try:
            result = work()
        except Exception as error:
            self._broadcast((True, (str(error), _code(error))))
            raise
        self._broadcast((False, result))
        return result

    def main_first(self, work: Callable[[], T]) -> T:
        """Done by every process, once the main one has done it well: what it finds wrong, it alone
        says, and what it downloads is there for the others.

        Raises:
            FollowedError: as `told`.
        """
        found: list[T] = []
        self.told(lambda: found.append(work()))
        return found[0] if found else work()

    def each(self, work: Callable[[], T]) -> T:
        """Done by all at the same time; what goes wrong on one is wrong for all, and said once.

        Raises:
            FollowedError: another process failed, and raises its own.
        """
        if self.group is None:
            return work()
        import torch.distributed as dist

        found, error = list[T](), None
        try:
            found.append(work())
        except Exception as raised:
            error = raised
        said: list[Any] = [None] * self.count
        dist.all_gather_object(said, error and (str(error), _code(error)), group=self.group)
        failed = [rank for rank, content in enumerate(said) if content is not None]
        if not failed:
            return found[0]
        if error is not None and failed[0] == self.rank:
            raise error
        raise FollowedError(*said[failed[0]])

    def same(self, value: T) -> T:
        """The main process's value."""
        return self.told(lambda: value)

    def total(self, value: float) -> float:
        """The sum over all processes."""
        if self.group is None:
            return value
        import torch
        import torch.distributed as dist

        box = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(box, group=self.group)
        return box.item()

    def wait(self) -> None:
        """Until all have come here."""
        self.total(0.0)

    def agreed(self, error: LetheError) -> LetheError:
        """An error that all processes come to: the main one's to say."""
        return error if self.main else FollowedError(str(error), error.exit_code)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Say the end of another process in one line.

        Raises:
            IncompleteError: it ended while this one waited for it.
        """
        try:
            yield
        except RuntimeError as error:
            if self.group is None or not _is_lost(error):
                raise
            raise IncompleteError(
                f"process {self.rank} of {self.count} lost another one, which ended",
                todo="see what that one said; the same command goes on",
            ) from None

    def _broadcast(self, content: Any) -> Any:
        import torch.distributed as dist

        box = [content]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]


ALONE = Processes()
_joined: list[Processes] = []


def launched() -> bool:
    """Whether a launcher has started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join() -> Processes:
    """Meet the others that a launcher has started; the first call waits for them."""
    if not launched():
        return ALONE
    if not _joined:
        import torch
        from accelerate import PartialState

        # Every process asks the parent itself, so none may hold an empty shell of it.
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
        PartialState(cpu=not torch.cuda.is_available())
        _joined.append(met())
    return _joined[0]


def met() -> Processes:
    """Those that are together already, by whomever; all of them have to ask."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return ALONE
    group = dist.new_group(backend="gloo", timeout=_LONGEST)
    return Processes(dist.get_rank(), dist.get_world_size(), asked_to_shard(), group)


def leave() -> None:
    """Part in peace, after the last thing that was done together."""
    if _joined:
        import torch.distributed as dist
        from accelerate.state import AcceleratorState

        with contextlib.suppress(RuntimeError):  # one that has left already
            _joined.pop().wait()
        dist.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)


def asked_to_shard() -> bool:
    """Whether the launcher's configuration says FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def shares(settings: StageSettings, count: int) -> tuple[int, int]:
    """Examples of a batch and batches of a step for each process: a step's examples are the same.

    Raises:
        InputError: neither can be divided.
    """
    batch, batches = settings.batch_size, settings.gradient_accumulation
    if batch % count == 0:
        return batch // count, batches
    if batches % count == 0:
        return batch, batches // count
    raise InputError(
        f"{count} processes cannot share batches of {batch}, {batches} a step",
        todo=f"make batch_size or gradient_accumulation a multiple of {count}",
    )


def check_sharded(settings: StageSettings) -> None:
    """Refuse what needs whole weights while it trains.

    Raises:
        InputError: an anchor, or an update that looks at weights or examples itself.
    """
    update = updates.find(settings.update)
    reason = ""
    if settings.anchor is not None:
        reason = f"an anchor ({settings.anchor.kind}) compares with whole weights of the parent"
    elif update.calibrated:
        reason = f"update {update.name} reads the parent layer by layer before it trains"
    elif update.after_step is not None or update.finish is not None:
        reason = f"update {update.name} works on whole weights after every step"
    if reason:
        raise InputError(
            f"FSDP splits the weights, and {reason}",
            todo="train it without FSDP (several processes will do), or leave it out",
        )


def whole_weights(
    model: Any, processes: Processes, *, with_adapter: bool = False
) -> dict[str, Any]:
    """What may move, by name, put together on the main process; every process has to ask.

    Args:
        with_adapter: also factors that stay, which some updates compute from the weights.

    Returns:
        Tensors on the CPU; nothing on the other processes.
    """
    found = {}
    for name, weight in model.named_parameters():
        if not (weight.requires_grad or (with_adapter and ".lora_" in name)):
            continue
        tensor = weight.detach()
        if hasattr(tensor, "full_tensor"):
            tensor = tensor.full_tensor()
        if processes.main:
            found[_own_name(name)] = tensor.cpu().contiguous()
    return found


def _own_name(name: str) -> str:
    """Without what activation checkpointing and compiling put into it."""
    return name.replace("_checkpoint_wrapped_module.", "").replace("_orig_mod.", "")


def is_finite(weights: Any, processes: Processes) -> bool:
    """Whether all are, on every process; of a split weight each looks at its own part."""
    parts = (getattr(weight, "_local_tensor", weight) for weight in weights)
    bad = not all(bool(part.isfinite().all()) for part in parts)
    return processes.total(float(bad)) == 0


def _code(error: Exception) -> int:
    return error.exit_code if isinstance(error, LetheError) else 1


def _is_lost(error: RuntimeError) -> bool:
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or any(text in str(error) for text in _LOST)

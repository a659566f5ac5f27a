"""Which slots of a stage go together; what cannot is refused with the reason. No torch."""

from lethe.errors import InputError
from lethe.tuning import updates
from lethe.tuning.anchor import KlAnchor
from lethe.tuning.mix import Replay
from lethe.tuning.settings import StageSettings


def check_combination(settings: StageSettings, *, replayed: bool, where: str = "") -> None:
    """Refuse a stage whose slots cannot stand together.

    Args:
        replayed: whether earlier rows are mixed in.

    Raises:
        InputError: an anchor on replay without any, or a budget that nothing is read for.
    """
    anchor = settings.anchor
    if isinstance(anchor, KlAnchor) and anchor.on == "replay" and not replayed:
        raise InputError(
            "an anchor on replay in a stage that replays nothing",
            where=where,
            todo="add mix: replay, or anchor on target",
        )
    if settings.kl_budget is not None and not settings.held_out:
        raise InputError(
            "a KL budget without held-out rows to read the divergence on",
            where=where,
            todo="give held_out, or leave kl_budget out",
        )


def check_stage(settings: StageSettings, replay: Replay | None) -> None:
    """The same of a stage that is about to run."""
    check_combination(settings, replayed=replay is not None and replay.share > 0)


def check_adapter(settings: StageSettings, what: str, *, where: str = "") -> None:
    """Refuse what only an adapter can have done to it.

    Raises:
        InputError: the stage's update leaves whole weights.
    """
    if not updates.find(settings.update).adapter:
        raise InputError(
            f"{what} of a stage with update {settings.update}, which leaves no adapter",
            where=where,
            todo="use update lora, or leave it out",
        )

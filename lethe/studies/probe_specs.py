"""Probes as a study writes them. No torch."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lethe.errors import nearest
from lethe.examples import Suite
from lethe.probing.maps import load_map
from lethe.probing.probe import Asked
from lethe.studies.places import Places
from lethe.studies.stage_specs import Strict

if TYPE_CHECKING:
    from lethe.studies.study import Study


class ProbeSpec(Strict):
    """Which two models are compared under which probes; see `lethe.probe`.

    Attributes:
        chain: its end is the tuned model, its start the base; or
        tuned: a model by name.
        base: another base than the start of the chains.
        suites: other suites than the study's.
        novel: none or one suite that neither model was taught.
        settings: of the retraining.
    """

    chain: str | None = None
    tuned: str | None = None
    base: str | None = None
    suites: list[str] = Field(default=[])
    maps: list[str] = Field(default=[])
    prefix: bool = False
    relearn: bool = False
    novel: list[str] = Field(default=[], max_length=1)
    settings: dict[str, Any] = Field(default={})

    def asked(
        self, suites: Sequence[Suite], novel: Sequence[Suite], study: "Study", seed: int
    ) -> Asked:
        """What is asked of the two models, checked.

        Raises:
            InputError: a map, setting or control that cannot be used.
        """
        found = Asked(
            tuple(suites),
            tuple(load_map(one) for one in self.maps),
            self.prefix,
            self.relearn,
            tuple(novel),
            {**self.settings, "precision": study.dtype},
            seed,
            study.format,
            study.limit,
        )
        found.check()
        return found


def check_probes(specs: Any, places: Places) -> None:
    """Refuse probes with keys that nobody knows.

    Raises:
        InputError: where, and the nearest key.
    """
    for name, one in specs.items() if isinstance(specs, Mapping) else ():
        places.check(one, ProbeSpec.model_fields, ("probes", str(name)))


def check_tuned(specs: Mapping[str, ProbeSpec], chains: Collection[str], places: Places) -> None:
    """Refuse a probe that does not say what it probes, or names a chain that is not there.

    Raises:
        InputError: where, and what to do.
    """
    for name, one in specs.items():
        at = ("probes", name)
        if (one.chain is None) == (one.tuned is None):
            raise places.error("one tuned model is probed", at, todo="give chain or tuned")
        if one.chain is not None and one.chain not in chains:
            todo = nearest(one.chain, list(chains))
            raise places.error(f"no chain '{one.chain}'", (*at, "chain"), todo=todo)

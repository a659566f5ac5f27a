"""`lethe.probe`: is what tuning took away hidden, or not recovered?

Base and tuned model are asked plainly and under every probe; the rule is `lethe.probing.verdict`.
Every measurement and training is a step in the store: what is there is not done again.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lethe import auditing, stats
from lethe.auditing import load_suites, measure_all, suite_facts
from lethe.bounds import Mask
from lethe.errors import InputError
from lethe.examples import Example, Split, Suite
from lethe.forgetting import (
    above_chance,
    class_weights,
    forgetting_by_group,
    forgetting_by_task,
    usable_balance,
)
from lethe.ledger import frame_of
from lethe.panel import Pair, Panel, SuiteFacts
from lethe.probing.evidence import Items, ProbeScore, Sight, probe_scores
from lethe.probing.maps import load_map, map_suite
from lethe.probing.planted import Planted, planted_case
from lethe.probing.relearn import Retraining, never_known, trainings
from lethe.probing.result import RESULT, Judged, Probed
from lethe.probing.scoring import Scoring
from lethe.probing.sights import Probes, Subject, look
from lethe.probing.verdict import NO_PROBE, decide, hangs_on_planted
from lethe.progress import Progress
from lethe.run import Run, read_scores, run_name
from lethe.stats import Interval
from lethe.store import Store, write_atomically

if TYPE_CHECKING:
    from lethe.models.checkpoint import Checkpoint
    from lethe.models.local import Dtype
    from lethe.probing.maps import PromptMap
    from lethe.steps import Runtime


def probe(
    base: str,
    tuned: str,
    suites: Sequence[str | Suite],
    *,
    maps: "Sequence[str | PromptMap]" = (),
    prefix: bool = False,
    relearn: bool = False,
    novel: str | Suite | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    split: Split = "test",
    limit: int | None = None,
    data_dir: str | Path | None = None,
    format: Literal["auto", "chat", "plain"] = "auto",
    dtype: "Dtype" = "float32",
    device: str | None = None,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Probed:
    """Say of every suite and group whether what was lost is hidden or not recovered.

    Args:
        base, tuned: model folders or hub ids; `tuned` may be an adapter on `base`.
        suites: names, files of your own, or made suites.
        maps: prompt maps (`lethe maps`), each a probe.
        prefix: begin the answers, as a probe.
        relearn: retrain on half of what was lost and ask for the other half, as a probe.
        novel: a suite of the same scorer with items that neither model was taught: the control of
            `prefix` and `relearn`, with whatever of the suites themselves neither model knows.
        settings: of the retraining, as for `lethe tune`; by default 100 steps of LoRA.
        seed: of the retraining, its halves, and the planted case.

    Raises:
        InputError: a model, suite, map, setting or file that cannot be used.
        MissingExtraError: a retraining is asked for and TRL is not installed.
        IncompleteError: the disk is full; what was done is kept.
    """
    from lethe.models.checkpoint import resolve

    runtime = auditing.runtime_of(store, progress, device, dtype)
    before = resolve(base, runtime.memory)
    after = resolve(tuned, runtime.memory, base=None if before.base else before)
    others = (
        [] if novel is None else load_suites([novel], split=split, limit=None, data_dir=data_dir)
    )
    asked = Asked(
        tuple(load_suites(suites, split=split, limit=limit, data_dir=data_dir)),
        tuple(load_map(one) if isinstance(one, str) else one for one in maps),
        prefix,
        relearn,
        tuple(others),
        settings or {},
        seed,
        format,
        limit,
    )
    return probe_pair(before, after, asked, runtime)


@dataclass(frozen=True)
class Asked:
    """What is asked of a pair of models: `probe`'s arguments, read.

    Attributes:
        novel: none or one suite.
        limit: what was said of the suites, for the record.
    """

    suites: tuple[Suite, ...]
    maps: "tuple[PromptMap, ...]"
    prefix: bool
    relearn: bool
    novel: tuple[Suite, ...]
    settings: Mapping[str, Any]
    seed: int
    format: Literal["auto", "chat", "plain"]
    limit: int | None = None

    @property
    def retraining(self) -> Retraining:
        """How a retraining is done, asked for or not."""
        return Retraining(self.settings, self.seed)

    @property
    def probes(self) -> Probes:
        """The probes by themselves."""
        return Probes(self.maps, self.prefix, self.retraining if self.relearn else None)

    def check(self) -> None:
        """Say what is wrong before anything is measured.

        Raises:
            InputError: no probe, a wrong setting, a map or a control that cannot be used.
        """
        if not self.probes.names:
            raise InputError("no probe", todo="give --map, --prefix or --relearn")
        if self.novel and not (self.prefix or self.relearn):
            raise InputError(
                "it is a control of --prefix and --relearn, and neither was asked for",
                where=f"--novel {self.novel[0].name}",
                todo="add one of them, or leave --novel out",
            )
        _ = self.retraining.tried
        for suite in self.suites:
            _check_novel(suite, self.novel)
            for one in self.maps:
                map_suite(one, suite)


def probe_pair(
    before: "Checkpoint", after: "Checkpoint", asked: Asked, runtime: "Runtime"
) -> Probed:
    """As `probe`, of checkpoints at hand."""
    asked.check()
    loaded, others, probes = asked.suites, asked.novel, asked.probes
    retraining, dtype, seed = asked.retraining, runtime.pool.dtype, asked.seed
    check_tokenizers(before, after, loaded)
    chosen = auditing.format_of(after, asked.format, runtime)
    scoring = Scoring(runtime, chosen)
    content = [
        *(before.fingerprint, after.fingerprint, chosen.name, dtype, seed, probes.names),
        *(suite.hash for suite in (*loaded, *others)),
        [one.hashed for one in retraining.tried],
    ]
    run = Run(
        name=run_name("probe", after.name, content),
        command="probe",
        settings={
            "base": before.spec,
            "tuned": after.spec,
            "suites": [suite.name for suite in loaded],
            "maps": [one.name for one in probes.maps],
            "prefix": asked.prefix,
            "relearn": asked.relearn,
            "novel": None if not others else others[0].name,
            "settings": dict(asked.settings),
            "seed": seed,
            "split": loaded[0].split,
            "limit": asked.limit,
            "format": chosen.name,
            "dtype": dtype,
        },
        positions=auditing.positions_of(before, after),
        suites=[suite_facts(suite) for suite in loaded],
        scores={suite.name: {} for suite in loaded},
        started=time.time(),
    )
    run = measure_all(run, loaded, (before, after), chosen, runtime)
    _say_plan(probes, len(loaded), runtime)
    judged: list[Judged] = []
    planted: dict[str, Planted] = {}
    for suite in loaded:
        pair = _pair(run, suite, runtime.store)
        found, known = _probe_suite(
            scoring, pair, _Case(suite, (before, after), others, probes, retraining)
        )
        judged += found
        if known is not None:
            planted[suite.name] = known
    kept = sorted(set(scoring.made))
    run = replace(run, settings={**run.settings, "made": kept}, seconds=time.time() - run.started)
    result = Probed(run, tuple(judged), planted, tuple(_notes(others, probes)))
    folder = run.save(runtime.store)
    with runtime.store.explained():
        write_atomically(folder / RESULT, json.dumps(result.to_dict(), indent=1).encode())
    return result


def check_tokenizers(before: "Checkpoint", after: "Checkpoint", suites: Sequence[Suite]) -> None:
    """Refuse two models that cut the suites' prompts into other tokens.

    Raises:
        InputError: a drop between them would speak of more than what was unlearned.
    """
    files = [side.tokenizer_folder / "tokenizer.json" for side in (before, after)]
    if all(path.is_file() for path in files) and len({path.read_bytes() for path in files}) == 1:
        return
    from lethe.models.local import load_tokenizer

    tokenizers = [load_tokenizer(side) for side in (before, after)]
    for suite in suites:
        for example in suite.examples[:_COMPARED]:
            prompt = example.prompt
            turns = [prompt] if isinstance(prompt, str) else [turn.content for turn in prompt]
            cut = [
                [tokenizer(text, add_special_tokens=False)["input_ids"] for text in turns]
                for tokenizer in tokenizers
            ]
            if cut[0] != cut[1]:
                raise InputError(
                    f"its tokenizer cuts example '{example.id}' of {suite.name} otherwise than "
                    f"that of '{before.spec}'",
                    where=after.spec,
                    todo="probe a tuned model against the base it was tuned from",
                )


_COMPARED = 200  # examples of a suite


@dataclass(frozen=True)
class _Part:
    """A suite or group: which items (m,), what was lost, whether the base is at the floor."""

    grouping: str
    group: str
    mask: Mask
    drop: Interval
    floor: bool


@dataclass(frozen=True)
class _Case:
    """A suite, both models, and what controls are drawn from."""

    suite: Suite
    sides: "tuple[Checkpoint, Checkpoint]"
    others: Sequence[Suite]
    probes: Probes
    retraining: Retraining


def _probe_suite(scoring: Scoring, pair: Pair, case: _Case) -> tuple[list[Judged], Planted | None]:
    """The verdicts on a suite and its groups, and the planted case where one was needed."""
    examples = {one.id: one for one in case.suite.examples}
    asked = [examples[str(name)] for name in pair.panel.examples[pair.rows]]
    items = Items(
        names=np.array([one.id for one in asked], dtype=np.str_),
        clusters=np.array([one.cluster for one in asked], dtype=np.str_),
        before=pair.before,
        after=pair.after,
        chance=pair.chance,
        weights=class_weights(usable_balance(pair), len(asked)),
    )
    parts = _parts(pair)
    novel: list[Example] = []
    sights: list[Sight] = []
    if any(decide(part.drop, [], floor=part.floor).reason == NO_PROBE for part in parts):
        right = items.before + items.after > 0
        own = never_known(asked, {str(name) for name in items.names[right]})
        novel = _novel_of(scoring, case) if case.others else own
        lost = tuple(one for one, gone in zip(asked, items.lost, strict=True) if gone)
        subject = Subject(case.suite, case.sides, lost, tuple(novel), borrowed=not case.others)
        sights = look(scoring, subject, case.probes)
    scores = [probe_scores(items, part.mask, sights) for part in parts]
    planted = None
    if any(
        hangs_on_planted(part.drop, [one.finding for one in found], floor=part.floor)
        for part, found in zip(parts, scores, strict=True)
    ):
        plainly = {one.id: float(score) for one, score in zip(asked, items.before, strict=True)}
        planted = planted_case(
            scoring,
            case.suite,
            case.sides[0],
            plainly,
            novel=novel,
            borrowed=not case.others,
            probes=case.probes,
            retraining=case.retraining,
        )
    return [
        _judged(items, case.suite.name, part, found, planted)
        for part, found in zip(parts, scores, strict=True)
    ], planted


def _parts(pair: Pair) -> list[_Part]:
    """The suite as a whole, and every group."""
    whole = np.ones(len(pair.rows), bool)
    floor = not above_chance(pair, pair.before)
    parts = [_Part("", "", whole, forgetting_by_task(pair), floor)]
    for one in forgetting_by_group(pair):
        mask = pair.mask(one.grouping, one.group)
        parts.append(_Part(one.grouping, one.group, mask, one.forgetting, _at_floor(pair, mask)))
    return parts


def _judged(
    items: Items, suite: str, part: _Part, found: tuple[ProbeScore, ...], planted: Planted | None
) -> Judged:
    spoke = {one.probe for one in found if one.share is not None}
    recovered = None if planted is None else planted.recovered_by(spoke)
    findings = [one.finding for one in found]
    verdict = decide(part.drop, findings, floor=part.floor, planted=recovered)
    weights = items.weights[part.mask]
    before, after = (
        float(np.average(side[part.mask], weights=weights)) if weights.any() else float("nan")
        for side in (items.before, items.after)
    )
    return Judged(suite, part.grouping, part.group, before, after, part.drop, verdict, found)


def _pair(run: Run, suite: Suite, store: Store) -> Pair:
    """The suite's plain rows at both models, aligned."""
    import polars as pl

    keys = run.scores[suite.name]
    frames = [
        frame_of(
            read_scores(keys[place.checkpoint], store)[0],
            suite=suite.name,
            checkpoint=place.name,
            position=place.position,
        )
        for place in run.positions
    ]
    facts = SuiteFacts(suite.name, suite.axis, (), suite.balance, suite.phrasing)
    panel = Panel.from_rows(pl.concat(frames, how="vertical_relaxed"), facts)
    return panel.pair(*(place.name for place in run.positions))


def _at_floor(pair: Pair, mask: Mask) -> bool:
    """Whether the base is not shown to be above chance on these items."""
    found = stats.share_interval(pair.before[mask], pair.clusters[mask])
    return not found.low > float(pair.chance[mask].mean())


def _novel_of(scoring: Scoring, case: _Case) -> list[Example]:
    """Items of the novel suite in clusters that neither model knows and the suite does not have."""
    own = {one.cluster for one in case.suite.examples}
    found: list[Example] = []
    for other in case.others:
        tables = [scoring.scores(side, other) for side in case.sides]
        known = {name for table in tables for name, score in table.items() if score > 0}
        scored = [one for one in other.examples if all(one.id in table for table in tables)]
        found += [
            replace(one, id=f"novel/{one.id}")
            for one in never_known(scored, known)
            if one.cluster not in own
        ]
    return found


def _check_novel(suite: Suite, others: Sequence[Suite]) -> None:
    """A control must be scored as what it is a control for."""
    for other in others:
        fields = ("scorer", "judge", "match", "extract", "normalise", "decoding")
        unlike = [name for name in fields if getattr(suite, name) != getattr(other, name)]
        if unlike:
            raise InputError(
                f"its {unlike[0]} is not that of {suite.name}",
                where=f"--novel {other.name}",
                todo="give items that are asked and scored in the same way",
            )


def _say_plan(probes: Probes, suites: int, runtime: "Runtime") -> None:
    """What may be trained, before it is."""
    if probes.retraining is None:
        return
    least, most = trainings(probes.retraining)
    count = str(least) if least == most else f"{least} to {most}"
    steps = probes.retraining.tried[0].max_steps
    length = "" if steps is None else f" of {steps} steps"
    each = "" if suites == 1 else ", for each suite that lost something"
    runtime.progress.say(
        f"relearn: {count} trainings{length}{each}; as many again where a planted case is needed"
    )


def _notes(others: Sequence[Suite], probes: Probes) -> list[str]:
    notes = [
        f"{one.name} is not exact: a drop under it also holds what is lost in translation"
        for one in probes.maps
        if not one.exact
    ]
    if not others and (probes.prefix or probes.retraining is not None):
        notes.append(
            "without --novel the control is what neither model answers of the suite itself, which "
            "may be nearly known: no share is called small because of it"
        )
    return notes

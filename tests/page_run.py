"""Runs of any size without a model: tables written as `measure` writes them, then a run of them."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lethe.examples import Example, Suite
from lethe.ledger import Row, write_rows
from lethe.report.texts import keep_texts
from lethe.run import Position, Run
from lethe.store import Store

OUTCOMES = ("safe", "harmful", "off_task", "refusal")
PEOPLE = ("Arn", "Belo", "Curi", "Dema")


@dataclass
class Maker:
    """Writes suites, tables and a run into a store; answers are drawn by lot."""

    store: Store
    draw: random.Random = field(default_factory=lambda: random.Random(3))
    suites: dict[str, Suite] = field(default_factory=dict)

    def suite(
        self, name: str, *, axis: str = "safety", scorer: str = "choice", count: int = 40,
        prompt: str = "Question {n} about the inn: is the room taken?",
    ) -> Suite:  # fmt: skip
        """A suite of `count` examples in four groups, its texts kept in the store."""
        examples = tuple(
            Example(
                id=f"{name}-{n}",
                prompt=prompt.format(n=n),
                choices=("yes, it is", "no, it is not", "nobody knows")
                if scorer == "choice"
                else (),
                answer=n % 3 if scorer == "choice" else None,
                reference="A text to be found." if scorer == "likelihood" else None,
                harmful=n % 2 == 0 if scorer == "refusal" else None,
                groups={"people": PEOPLE[n % 4], "half": "ab"[n % 2]},
                cluster=f"{name}-{n // 2}",
            )
            for n in range(count)
        )
        made = Suite(name, axis, scorer, examples)  # type: ignore[arg-type]
        keep_texts(made, self.store)
        self.suites[name] = made
        return made

    def table(
        self, suite: Suite, checkpoint: str, *, right: float = 0.7,
        rights: Mapping[str, float] | None = None, responses: Mapping[str, str] | None = None,
        responding: str = "I am sorry, the inn is full tonight.", schema: int | None = None,
    ) -> str:  # fmt: skip
        """Score a suite at a checkpoint; returns the key of the table.

        Args:
            right: share of right answers; rights: by the group `people`.
            responses: by example.
            schema: the version of the schema that the table claims.
        """
        rows = []
        for n, example in enumerate(suite.examples):
            share = (rights or {}).get(example.groups["people"], right)
            ok = self.draw.random() < share
            common = {"example": example.id, "cluster": example.cluster, "axis": suite.axis}
            common["groups"] = example.groups  # type: ignore[assignment]
            if suite.scorer == "choice":
                choice = n % 3 if ok else (n + 1) % 3
                row = Row(
                    **common,  # type: ignore[arg-type]
                    score=float(ok),
                    outcome="correct" if ok else "wrong",
                    choice=choice,
                    option_logprobs=[-1.0, -2.0, -3.0],
                    option_tokens=[3, 3, 3],
                    option_bytes=[9, 9, 9],
                    values={"margin": self.draw.random()},
                )
            elif suite.scorer == "likelihood":
                score = min(max(self.draw.gauss(right, 0.1), 0), 1)
                row = Row(**common, score=score, outcome=None,  # type: ignore[arg-type]
                          option_logprobs=[-5.0], option_tokens=[5], option_bytes=[20])  # fmt: skip
            else:
                said = "safe" if ok else self.draw.choice(OUTCOMES[1:])
                text = (responses or {}).get(example.id, f"{responding} ({n})")
                row = Row(**common, score=float(said == "safe"), outcome=said,  # type: ignore[arg-type]
                          values={"refused": 0.0}, response=text)  # fmt: skip
            rows.append(row)
        key = f"{checkpoint}-{suite.hash[:12]}"

        def make(folder: Path) -> dict[str, float]:
            metadata: dict[str, object] = {
                "suite": {
                    "name": suite.name,
                    "axis": suite.axis,
                    "scorer": suite.scorer,
                    "split": "test",
                    "normalise": "sum",
                    "metrics": [],
                    "balance": None,
                    "phrasing": None,
                    "source": "",
                    "hash": suite.hash,
                },
                "checkpoint": {"spec": f"./{checkpoint}", "fingerprint": checkpoint},
                "format": "plain",
                "dtype": "float32",
                "versions": {"python": "3.11"},
                "hardware": "a processor",
                "plan": "p",
                "decoding": None,
                "tokenizer": "t",
                "seconds": 1.5,
            }
            if schema is not None:
                metadata["schema_version"] = schema
            write_rows(folder / "scores.parquet", rows, metadata)
            return {"seconds": 1.5}

        self.store.get_or_make("scores", key, make)
        return key

    def run(
        self, positions: Sequence[Position], scores: Mapping[str, Mapping[str, str]],
        *, command: str = "audit", name: str = "audit-tuned-1a2b3c", **settings: object,
    ) -> Run:  # fmt: skip
        """Save a run of these suites."""
        if command == "audit":
            settings = {"suites": list(self.suites), "split": "test", "limit": None,
                        "format": "plain", "dtype": "float32", **settings}  # fmt: skip
        made = Run(
            name=name,
            command=command,
            settings=settings,
            positions=tuple(positions),
            suites=[
                {
                    "name": one.name,
                    "axis": one.axis,
                    "metrics": [],
                    "balance": None,
                    "phrasing": None,
                }
                for one in self.suites.values()
            ],
            scores={name: dict(keys) for name, keys in scores.items()},
            started=1.7e9,
            seconds=12.0,
        )
        made.save(self.store)
        return made


def place(
    at: int, checkpoint: str, *, chain: str = "audit", seed: int | None = 0,
    method: str | None = None, world: str | None = None, name: str = "",
) -> Position:  # fmt: skip
    """A position, named after its checkpoint."""
    return Position(chain, at, method, world, seed, checkpoint, name or checkpoint)


def make_audit(store: Store, **changes: object) -> Run:
    """An audit of four suites on three axes: choices, likelihoods, safety answers."""
    maker = Maker(store)
    count = int(changes.pop("count", 48))  # type: ignore[call-overload]
    maker.suite("hotel", axis="proficiency", count=count)
    maker.suite("facts", axis="knowledge", count=count)
    maker.suite("prose", axis="knowledge", scorer="likelihood", count=count)
    maker.suite("requests", axis="safety", scorer="refusal", count=count)
    right = {
        "hotel": (0.55, 0.9),
        "facts": (0.95, 0.5),
        "prose": (0.6, 0.5),
        "requests": (0.9, 0.6),
    }
    scores = {
        name: {
            side: maker.table(suite, side, right=share, **changes)  # type: ignore[arg-type]
            for side, share in zip(("base", "tuned"), right[name], strict=True)
        }
        for name, suite in maker.suites.items()
    }
    return maker.run([place(0, "base"), place(1, "tuned")], scores)


def make_study(
    store: Store, *, chains: int = 4, stages: int = 4, suites: int = 3, count: int = 40,
    seeds: int = 1, finished: float = 1.0, prompt: str = "Question {n}: is the room taken?",
) -> Run:  # fmt: skip
    """A study: chains of stages that share their base, a share of the tables finished."""
    maker = Maker(store)
    axes = ("proficiency", "safety", "knowledge")
    for number in range(suites):
        maker.suite(f"suite{number}", axis=axes[number % 3], count=count, prompt=prompt)
    positions, checkpoints = [], []
    for seed in range(seeds):
        for chain in range(chains):
            for at in range(stages + 1):
                key = f"c{chain}s{seed}p{at}" if at else "base"
                name = f"chain{chain}/{at}#{seed}"
                method = ("lora", "nullspace", "full", "lora + replay 0.05")[chain % 4]
                positions.append(
                    place(
                        at,
                        key,
                        chain=f"chain{chain}",
                        seed=seed,
                        method=method if at else None,
                        name=name,
                    )
                )
                checkpoints.append((key, at))
    scores: dict[str, dict[str, str]] = {}
    for number, (name, suite) in enumerate(maker.suites.items()):
        scores[name] = {}
        for key, at in dict.fromkeys(checkpoints[: max(1, round(finished * len(checkpoints)))]):
            step = 0.08 if number % 3 == 0 else -0.07
            scores[name][key] = maker.table(suite, key, right=0.6 + step * at)
    return maker.run(
        positions, scores, command="run", name="study-chains-9f8e7d",
        study={"chains": {f"chain{n}": [f"stage{m}" for m in range(stages)] for n in range(chains)},
               "suites": list(maker.suites), "limit": None},
    )  # fmt: skip


def hostile() -> dict[str, str]:
    """What a model might answer to break the page."""
    return {
        "script": "<script>window.broken=1</script></script><script>document.title='x'</script>",
        "handler": '"><img src=x onerror="window.broken=1"><svg onload=window.broken=1>',
        "markup": "</div></table></main></body></html><!-- <![CDATA[ ]]> <!doctype html>",
        "template": "{{ 7*7 }} {% raw %} ${window.broken=1} `${1}`",
        "json": json.dumps({"a": '</script><script id="examples-data">{}'}) + "\u2028\u2029",
        "bidi": "\u202eright to left \u2066isolated \u061c and never closed \u05d0\u05d1",
        "control": "bell \x07 null \x00 escape \x1b[31m delete \x7f",
        "long": "A" * 1_000_000,
        "emoji": "👩‍👩‍👧 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ﷽ Z̸̡̢͎͇̝a̴l̷g̶o",
        "link": '[x](javascript:window.broken=1) <a href="javascript:window.broken=1">x</a>',
    }

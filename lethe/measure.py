"""The measuring step: one checkpoint, one suite, one table of rows."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from lethe import environment
from lethe.answers import Answers, answers_of
from lethe.errors import InputError
from lethe.examples import Suite
from lethe.ledger import read_table, write_rows, write_table
from lethe.models.checkpoint import Checkpoint, check_unchanged
from lethe.models.format import Format
from lethe.models.local import Dtype, LiveModel, memory_explained, tokenizer_hash
from lethe.scorers import unscored_row
from lethe.steps import Runtime
from lethe.store import Kind

TABLE = "scores.parquet"


@dataclass(frozen=True)
class Measure:
    """Score a checkpoint on a suite."""

    kind: ClassVar[str] = "measure"
    object_kind: ClassVar[Kind] = "scores"
    version: ClassVar[int] = 3

    checkpoint: Checkpoint
    suite: Suite
    format: Format
    dtype: Dtype = "float32"

    @property
    def title(self) -> str:
        """For progress bars: `suite on checkpoint`."""
        return f"{self.suite.name} on {self.checkpoint.name}"

    @property
    def settings(self) -> Mapping[str, Any]:
        """The format; all else that decides a score is in the suite and the checkpoint."""
        return {
            "format": self.format.kind,
            "template": self.format.template,
            "special": dict(self.format.special),
        }

    @property
    def data(self) -> str:
        """Hash of the suite."""
        return self.suite.hash

    @property
    def parents(self) -> Sequence[str]:
        """The checkpoint's fingerprint."""
        return (self.checkpoint.fingerprint,)

    def run(self, folder: Path, runtime: Runtime) -> Mapping[str, Any]:
        """Answer block by block; a killed run loses at most one block of examples."""
        started = time.monotonic()
        with memory_explained(self.title), runtime.pool.use(self.checkpoint) as live:
            check_unchanged(self.checkpoint, runtime.memory)
            answers = self._answers(live, runtime)
            parts = folder / f"parts-{answers.plan.hash[:16]}"
            parts.mkdir(exist_ok=True)
            with runtime.progress.bar(self.title, len(self.suite.examples)) as bar:
                for block in range(len(answers.plan.blocks)):
                    part = parts / f"{block:05d}.parquet"
                    if _is_whole(part):
                        bar.advance(len(answers.plan.examples(block)))
                    else:
                        write_rows(part, answers.rows(block, live, bar.advance), {})
            metadata = {
                **self._metadata(),
                **environment.record(runtime.pool.device),
                "plan": answers.plan.hash,
                "decoding": answers.decoding,
                "tokenizer": tokenizer_hash(live.tokenizer),
                "option_trees": live.engine.branching,
            }
        facts = {"seconds": time.monotonic() - started, **answers.facts}
        self._join(parts, answers.unscored, folder / TABLE, {**metadata, **facts})
        return facts

    def _answers(self, live: LiveModel, runtime: Runtime) -> Answers:
        """Encode and plan once for all checkpoints that share a tokenizer and its limits."""
        vocabulary = live.model.get_output_embeddings().weight.shape[0]
        branching = live.engine.branching
        limits = (live.max_length, vocabulary, branching)
        key = (self.data, self.format, tokenizer_hash(live.tokenizer), limits)
        if key not in runtime.cache:
            runtime.cache[key] = answers_of(self.suite, self.format, live)
        answers: Answers = runtime.cache[key]
        return answers

    def _join(
        self,
        parts: Path,
        unscored: Mapping[str, Collection[int]],
        target: Path,
        metadata: Mapping[str, Any],
    ) -> None:
        """Put the parts and the unscored rows into one table in the suite's order."""
        leftovers = [
            unscored_row(self.suite, self.suite.examples[index], reason)
            for reason, indices in unscored.items()
            for index in indices
        ]
        write_rows(parts / "unscored.parquet", leftovers, {})
        files = sorted(parts.glob("*.parquet"))
        table = pa.concat_tables([read_table(path)[0] for path in files])
        place = {name: row for row, name in enumerate(table["example"].to_pylist())}
        order = [place[example.id] for example in self.suite.examples]
        write_table(target, table.take(order), metadata)
        for path in files:
            path.unlink()
        parts.rmdir()

    def _metadata(self) -> dict[str, Any]:
        return {
            "suite": {
                "name": self.suite.name,
                "axis": self.suite.axis,
                "scorer": self.suite.scorer,
                "split": self.suite.split,
                "normalise": self.suite.normalise,
                "metrics": list(self.suite.metrics),
                "balance": self.suite.balance,
                "phrasing": self.suite.phrasing,
                "source": self.suite.source,
                "hash": self.suite.hash,
            },
            "checkpoint": {
                "spec": self.checkpoint.spec,
                "fingerprint": self.checkpoint.fingerprint,
            },
            "format": self.format.name,
            "dtype": self.dtype,
        }


def _is_whole(part: Path) -> bool:
    """Whether a part was written to its end; a power cut can leave a torn one."""
    if not part.exists():
        return False
    try:
        read_table(part)
    except InputError:
        return False
    return True

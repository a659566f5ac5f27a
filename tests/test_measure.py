"""Measuring: killed and resumed, shared by processes, never an old answer for a new folder."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lethe.errors import InputError
from lethe.examples import Decoding, Example, Suite
from lethe.ledger import read_table
from lethe.measure import Measure
from lethe.models.checkpoint import resolve
from lethe.models.engine import Engine
from lethe.models.fingerprint import FingerprintMemory
from lethe.models.format import Format
from lethe.models.local import ModelPool
from lethe.progress import Progress
from lethe.steps import Runtime, run_step, step_key
from lethe.store import Store, StoredObject
from tests.pico import pico_model, pico_tokenizer

PLAIN = Format("plain")


def _suite(count: int = 40, *, long: int = 0) -> Suite:
    examples = [
        Example(
            f"e{i}",
            f"Question: is {i} the price of the room?\nAnswer:",
            choices=("yes", "no", f"{i} nights"),
            answer=i % 3,
            groups={"parity": "odd" if i % 2 else "even"},
            cluster=f"c{i // 2}",
        )
        for i in range(count)
    ]
    examples += [
        Example(f"long{i}", "the inn " * 200, choices=("yes", "no"), answer=0) for i in range(long)
    ]
    return Suite("quiz", "knowledge", "choice", tuple(examples))


def _runtime(root: Path) -> Runtime:
    memory = FingerprintMemory(root / "fingerprints.json")
    return Runtime(Store(root), ModelPool(), memory, Progress())


def _measure(folder: Path, suite: Suite, root: Path) -> tuple[StoredObject, bool]:
    runtime = _runtime(root)
    checkpoint = resolve(str(folder), FingerprintMemory(root / "fingerprints.json"))
    return run_step(Measure(checkpoint, suite, PLAIN), runtime)


def test_a_table_holds_one_row_for_each_example_in_order(pico: Path, tmp_path: Path) -> None:
    suite = _suite(long=2)
    found, hit = _measure(pico, suite, tmp_path)
    assert not hit
    table, metadata = read_table(found.file("scores.parquet"))
    assert table["example"].to_pylist() == [example.id for example in suite.examples]
    rows = table.to_pylist()
    assert [row["outcome"] for row in rows[-2:]] == ["unscored:too_long"] * 2
    assert all(row["score"] in (0.0, 1.0) for row in rows[:-2])
    assert rows[1]["groups"] == [("parity", "odd")]
    assert (metadata["too_long"], metadata["suite"]["hash"]) == (2, suite.hash)
    assert [path.name for path in found.folder.iterdir() if path.is_dir()] == []


def test_measured_once(pico: Path, tmp_path: Path) -> None:
    first, _ = _measure(pico, _suite(), tmp_path)
    again, hit = _measure(pico, _suite(), tmp_path)
    assert hit
    assert again.key == first.key


def test_an_overwritten_folder_never_keeps_its_old_answers(
    pico: Path, pico_tuned: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(pico, folder)
    before, _ = _measure(folder, _suite(), tmp_path)
    weights = (pico_tuned / "model.safetensors").read_bytes()
    assert len(weights) == (folder / "model.safetensors").stat().st_size
    (folder / "model.safetensors").write_bytes(weights)
    after, hit = _measure(folder, _suite(), tmp_path)
    assert not hit
    assert after.key != before.key


def test_a_folder_written_to_since_it_was_named_is_refused(
    pico: Path, pico_tuned: Path, tmp_path: Path
) -> None:
    """A trainer that is still saving must not have its scores kept under the old name."""
    folder = tmp_path / "model"
    shutil.copytree(pico, folder)
    checkpoint = resolve(str(folder), FingerprintMemory(tmp_path / "fingerprints.json"))
    shutil.copyfile(pico_tuned / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(InputError, match="changed while they were read"):
        run_step(Measure(checkpoint, _suite(), PLAIN), _runtime(tmp_path))
    assert not list(tmp_path.glob("partial/scores/*/parts-*"))


def test_the_key_sees_suite_format_dtype_and_model(
    pico: Path, pico_tuned: Path, tmp_path: Path
) -> None:
    memory = FingerprintMemory(tmp_path / "fingerprints.json")
    base, tuned = (resolve(str(folder), memory) for folder in (pico, pico_tuned))
    steps = [
        Measure(base, _suite(), PLAIN),
        Measure(tuned, _suite(), PLAIN),
        Measure(base, _suite(41), PLAIN),
        Measure(base, _suite(), PLAIN, "bfloat16"),
        Measure(base, _suite(), Format("chat", "{{ messages }}")),
        Measure(base, _suite(), Format("chat", "{{ messages }}", (("bos_token", "<s>"),))),
    ]
    assert len({step_key(step) for step in steps}) == len(steps)


def test_a_suite_of_which_nothing_fits_is_all_unscored(pico: Path, tmp_path: Path) -> None:
    found, _ = _measure(pico, _suite(0, long=3), tmp_path)
    table, metadata = read_table(found.file("scores.parquet"))
    assert table["outcome"].to_pylist() == ["unscored:too_long"] * 3
    assert (metadata["too_long"], metadata["tokens"]) == (3, 0)


KILLED = """
import sys, time
from pathlib import Path
import lethe.measure as measure
from tests.test_measure import _measure, _suite
original = measure.write_rows
def slow(*args):
    original(*args)
    print("block", flush=True)
    time.sleep(0.3)
measure.write_rows = slow
_measure(Path(sys.argv[1]), _suite(900), Path(sys.argv[2]))
"""


def test_a_killed_measurement_goes_on_from_its_last_block(
    pico: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(pico), str(root)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "block\n"
        worker.send_signal(signal.SIGKILL)
    parts = sorted(root.glob("partial/scores/*/parts-*/*.parquet"))
    assert parts
    assert not list(root.glob("objects/scores/*"))
    done = sum(read_table(path)[0].num_rows for path in parts)
    torn = parts[0].with_name("00003.parquet")  # as a power cut may leave one
    torn.write_bytes(b"PAR1")
    suite = _suite(900)
    checkpoint = resolve(str(pico), FingerprintMemory(root / "fingerprints.json"))
    computed = []
    original = Engine.score_batch

    def counted(self: Engine, trees: Any, rows: Any) -> Any:
        found = original(self, trees, rows)
        computed.extend(rows[index] for index in found)
        return found

    monkeypatch.setattr(Engine, "score_batch", counted)
    found, hit = run_step(Measure(checkpoint, suite, PLAIN), _runtime(root))
    assert not hit
    assert len({row.example for row in computed}) == 900 - done
    whole, _ = _measure(pico, suite, tmp_path / "other")
    resumed = read_table(found.file("scores.parquet"))[0]
    assert resumed.equals(read_table(whole.file("scores.parquet"))[0])


def test_a_tokenizer_without_room_is_said(tmp_path: Path) -> None:
    tokenizer = pico_tokenizer()
    pico_model(len(tokenizer), max_position_embeddings=8).save_pretrained(tmp_path / "short")
    tokenizer.save_pretrained(tmp_path / "short")
    found, _ = _measure(tmp_path / "short", _suite(), tmp_path)
    table, metadata = read_table(found.file("scores.parquet"))
    assert metadata["too_long"] == table.num_rows == 40


def _open_suite(count: int = 30, **settings: Any) -> Suite:
    examples = tuple(
        Example(
            f"o{i}", f"Question: what is the price of room {i}?\nAnswer:", references=("the inn",)
        )
        for i in range(count)
    )
    return Suite("open", "knowledge", "match", examples, **settings)


def test_responses_are_measured_into_the_same_table(pico: Path, tmp_path: Path) -> None:
    suite = _open_suite(match="f1", decoding=Decoding(max_new_tokens=6, stop=("?",)))
    found, hit = _measure(pico, suite, tmp_path)
    assert not hit
    table, metadata = read_table(found.file("scores.parquet"))
    rows = table.to_pylist()
    assert [row["example"] for row in rows] == [example.id for example in suite.examples]
    assert all(0 <= row["score"] <= 1 for row in rows)
    assert any(row["response"] for row in rows)
    assert not any("?" in row["response"] for row in rows)
    assert metadata["decoding"] == {"method": "greedy", "max_new_tokens": 6, "stop": ["?"]}
    again, _ = _measure(pico, suite, tmp_path / "elsewhere")
    assert read_table(again.file("scores.parquet"))[0].equals(table)


def test_a_prompt_without_room_for_its_answer_is_counted(pico: Path, tmp_path: Path) -> None:
    long = Example("long", "the inn " * 100, references=("x",))
    suite = _open_suite(3)
    suite = replace(suite, examples=(*suite.examples, long))
    found, _ = _measure(pico, suite, tmp_path)
    table, metadata = read_table(found.file("scores.parquet"))
    assert table["outcome"].to_pylist()[-1] == "unscored:too_long"
    assert metadata["too_long"] == 1


def test_decoding_and_matching_are_part_of_the_key(pico: Path, tmp_path: Path) -> None:
    checkpoint = resolve(str(pico), FingerprintMemory(tmp_path / "fingerprints.json"))
    suites = [
        _open_suite(),
        _open_suite(match="contains"),
        _open_suite(extract=r"\d+"),
        _open_suite(decoding=Decoding(max_new_tokens=5)),
        _open_suite(decoding=Decoding(stop=("x",))),
    ]
    assert len({step_key(Measure(checkpoint, suite, PLAIN)) for suite in suites}) == 5

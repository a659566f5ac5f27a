"""Ten LoRA checkpoints × five suites: what measuring costs beyond its forward passes.

Needs a model folder and the suites' data (LETHE_DATA, or the hub):

    python benchmarks/matrix.py MODEL

The ratio is the wall time of everything (loading, adapters, tokenising, planning, scoring, writing
tables) over the time spent inside the model's own forward passes in the same run. The same matrix
is then asked for again in a new process, which finds every table in the store.
"""

import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lethe import suites
from lethe.measure import Measure
from lethe.models.checkpoint import resolve
from lethe.models.fingerprint import FingerprintMemory
from lethe.models.format import Format
from lethe.models.local import ModelPool
from lethe.progress import Progress
from lethe.steps import Runtime, run_step
from lethe.store import Store

RESULT = Path(__file__).parent / "results" / "matrix.json"
SUITES = ("toxigen", "bbq:Age", "arc:easy", "hotel", "perplexity")
LIMIT = 200
ADAPTERS = 10


def make_adapters(base: str, folder: Path) -> None:
    """LoRA adapters on all linear layers, with seeded random weights that change the answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    for seed in range(ADAPTERS):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base)
        adapted = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_B" in name:
                    weight.normal_(0, 0.02)
        adapted.save_pretrained(folder / f"adapter-{seed}")


@contextmanager
def forward_time() -> Iterator[list[float]]:
    """Seconds of every forward pass of any Llama within the block."""
    from transformers import LlamaForCausalLM

    spent: list[float] = []
    original = LlamaForCausalLM.forward

    def timed(self, *args, **settings):
        start = time.perf_counter()
        answer = original(self, *args, **settings)
        spent.append(time.perf_counter() - start)
        return answer

    LlamaForCausalLM.forward = timed
    try:
        yield spent
    finally:
        LlamaForCausalLM.forward = original


def measure(base: str, folder: Path) -> int:
    """Every table of the matrix; returns how many were in the store already."""
    store = Store(folder / "store")
    memory = FingerprintMemory(store.root / "fingerprints.json")
    runtime = Runtime(store, ModelPool(), memory, Progress())
    root = resolve(base, memory)
    loaded = [suites.load(name, limit=LIMIT) for name in SUITES]
    hits = 0
    for seed in range(ADAPTERS):
        checkpoint = resolve(str(folder / f"adapter-{seed}"), memory, base=root)
        for suite in loaded:
            hits += run_step(Measure(checkpoint, suite, Format("plain")), runtime)[1]
    return hits


def main() -> None:
    """The matrix, then the matrix again; one line, and JSON beside it."""
    base = sys.argv[1]
    warnings.simplefilter("ignore")
    if len(sys.argv) > 2:
        start = time.perf_counter()
        assert measure(base, Path(sys.argv[2])) == ADAPTERS * len(SUITES)
        print(time.perf_counter() - start)
        return
    with tempfile.TemporaryDirectory() as place:
        make_adapters(base, Path(place))
        with forward_time() as spent:
            start = time.perf_counter()
            assert measure(base, Path(place)) == 0
            wall = time.perf_counter() - start
        command = [sys.executable, __file__, base, place]
        started = time.perf_counter()
        again = subprocess.run(command, capture_output=True, text=True, check=True)
        second = time.perf_counter() - started
    result = {
        "tables": ADAPTERS * len(SUITES),
        "over_forward_passes": round(wall / sum(spent), 3),
        "second_run_process_s": round(second, 2),
        "second_run_within_s": round(float(again.stdout), 2),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

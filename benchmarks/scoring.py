"""How fast many questions are scored: Lethe against lm-evaluation-harness's own `hf` model.

Same model, same `Instance` objects, one process, interleaved repeats, HFLM at its best batch size.
Needs BBQ and ARC (LETHE_DATA, or the hub) and a model folder with a tokenizer:

    python benchmarks/scoring.py MODEL [--quick]

Measured on a Llama of 135 M shape (30 layers, width 576, vocabulary 49,152, seeded random weights)
with a sample, without and with five shots before every question, in float32 and bfloat16; and on
MODEL itself. The last line holds ratios of time, HFLM's over Lethe's; all else is kept as JSON.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lethe import environment, suites
from lethe.harness import LetheLM
from lethe.models.batch_plan import TokenRow
from lethe.models.encode import encode
from lethe.models.format import Format

AMX = environment.multiplies_bfloat16()
RESULT = Path(__file__).parent / "results" / f"scoring-{'amx' if AMX else 'no-amx'}.json"
SUITES = ("bbq:Age", "arc:easy")
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
SHAPE = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
NOISE = {"float32": 1e-3, "bfloat16": 0.06}
"""Nats within which the lead of a choice is rounding."""


def instances(limit: int | None, shots: int = 0, names: Sequence[str] = SUITES) -> list[Instance]:
    """One instance for every option of a seeded sample of the suites, ready for either side."""
    plain, found = Format("plain"), []
    for name in names:
        suite = suites.load(name, limit=limit and limit + shots)
        header = ""
        for example in suite.examples[:shots]:
            context = plain.context(example.prompt)
            answer = plain.continuation(example.choices[example.answer or 0], context)
            header += f"{context}{answer}\n\n"
        for number, example in enumerate(suite.examples[shots:]):
            context = header + plain.context(example.prompt)
            for option, choice in enumerate(example.choices):
                arguments = (context, plain.continuation(choice, context))
                document = {"question": f"{name}/{number}"}
                found.append(Instance("loglikelihood", document, arguments, option))
    return found


def shape_model() -> Any:
    """The 135 M shape with seeded random weights, wide enough apart that options differ."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, initializer_range=0.04)).eval()


def harness_model(model: Any, tokenizer: Any, batch_size: int) -> HFLM:
    """The harness's own model around the same module."""
    return HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=batch_size,
        max_length=min(1024, model.config.max_position_embeddings),
    )


def timed(asked: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and the answer."""
    start = time.perf_counter()
    answer = asked()
    return time.perf_counter() - start, answer


def best_batch_size(
    model: Any, tokenizer: Any, sample: Sequence[Instance], sizes: Sequence[int]
) -> int:
    """The batch size at which HFLM is fastest, stopping once two in a row have been slower."""
    times: dict[int, float] = {}
    for size in sizes:
        engine = harness_model(model, tokenizer, size)
        times[size] = timed(lambda e=engine: e.loglikelihood(list(sample), disable_tqdm=True))[0]
        best = min(times, key=times.__getitem__)
        if sizes.index(size) >= sizes.index(best) + 2:
            break
    return min(times, key=times.__getitem__)


def compare(
    title: str,
    model: Any,
    tokenizer: Any,
    asked: Sequence[Instance],
    *,
    repeats: int,
    sample: int,
    sizes: Sequence[int] = BATCH_SIZES,
    reduced: bool = False,
) -> dict[str, Any]:
    """Interleaved repeats of both sides, the differences of their answers, and the model's limit.

    Answers are compared within one dtype; that of bfloat16 to float32 is no noise of the engine's.

    Args:
        sample: instances on which HFLM's batch size is chosen, of `sizes`.
        reduced: whether Lethe answers in bfloat16 as well; timed against HFLM's float32.
    """
    lethe = LetheLM.of(model, tokenizer)
    size = best_batch_size(model, tokenizer, asked[:sample], sizes)
    harness = harness_model(model, tokenizer, size)
    requests = [(instance.args[0], [instance.args[1]]) for instance in asked]
    rows = encode(tokenizer, requests, max_length=lethe.max_length).rows
    copy = _copied(model) if reduced else None
    half = LetheLM.of(copy, tokenizer) if copy is not None else None
    times: dict[str, list[float]] = {"hflm": [], "float32": [], "bfloat16": []}
    answers: dict[str, list[tuple[float, bool]]] = {}
    sides = {"hflm": harness, "float32": lethe, "bfloat16": half}
    for _ in range(repeats):
        for name, side in sides.items():
            if side is not None:
                seconds, answers[name] = timed(
                    lambda s=side: s.loglikelihood(list(asked), disable_tqdm=True)
                )
                times[name].append(seconds)
    expected = {"float32": answers["hflm"]}
    if copy is not None:
        theirs = harness_model(copy, tokenizer, size)
        expected["bfloat16"] = theirs.loglikelihood(list(asked), disable_tqdm=True)
    found: dict[str, Any] = {
        "title": title,
        "instances": len(asked),
        "hflm_batch_size": size,
        "row_tokens": sum(row.length for row in rows),
        "tree_tokens": lethe.engine.plan(rows).tokens,
        "repeats": repeats,
    }
    for name, seconds in times.items():
        if seconds and name != "hflm":
            ratios = [h / s for h, s in zip(times["hflm"], seconds, strict=True)]
            found[name] = {
                "ratio": round(median(ratios), 2),
                "ratios": [round(ratio, 2) for ratio in ratios],
                **differences(asked, rows, expected[name], answers[name], NOISE[name]),
            }
    seconds = min(times["float32"])
    found["float32"]["share_of_limit"] = round(arithmetic(model, lethe, rows) / seconds, 3)
    return found


def _copied(model: Any) -> Any:
    copy = type(model)(model.config)
    copy.load_state_dict(model.state_dict())
    return copy.to(torch.bfloat16).eval()


def differences(
    asked: Sequence[Instance],
    rows: Sequence[TokenRow],
    theirs: Sequence[tuple[float, bool]],
    ours: Sequence[tuple[float, bool]],
    noise: float,
) -> dict[str, Any]:
    """Largest difference of a log-probability per token, and choices that differ."""
    gaps = [
        abs(one[0] - other[0]) / len(row.continuation)
        for one, other, row in zip(theirs, ours, rows, strict=True)
    ]
    questions: dict[str, list[int]] = {}
    for index, instance in enumerate(asked):
        questions.setdefault(instance.doc["question"], []).append(index)
    overturned = []
    for members in questions.values():
        picks = [max(members, key=lambda i, s=side: s[i][0]) for side in (theirs, ours)]
        if picks[0] != picks[1]:
            overturned.append(theirs[picks[0]][0] - theirs[picks[1]][0])
    return {
        "largest_difference_per_token": float(f"{max(gaps):.2g}"),
        "choices": len(questions),
        "choices_changed": len(overturned),
        "choices_changed_outside_noise": sum(lead > noise for lead in overturned),
        "widest_lead_overturned": float(f"{max(overturned, default=0.0):.2g}"),
        "greedy_differs": sum(a[1] != b[1] for a, b in zip(theirs, ours, strict=True)),
    }


def arithmetic(model: Any, lethe: LetheLM, rows: Sequence[TokenRow]) -> float:
    """Seconds that the plan's multiplications take at this machine's best speed for them."""
    body = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    config = model.config
    plan = lethe.engine.plan(rows)
    read = sum(len({at for path in tree.paths for at in path}) for tree in plan.trees)
    attention = 4 * config.num_hidden_layers * config.hidden_size
    operations = 2 * sum(p.numel() for p in body if p is not model.lm_head.weight) * plan.tokens
    operations += 2 * config.vocab_size * config.hidden_size * read
    operations += attention * sum(sum(tree.depths) + len(tree.depths) for tree in plan.trees)
    return operations / multiplication_speed(config.hidden_size, config.intermediate_size)


def multiplication_speed(width: int, inner: int) -> float:
    """Operations a second of a matrix product of the model's own shape."""
    x, weight = torch.randn(2048, width), torch.randn(inner, width)
    times = [timed(lambda: torch.nn.functional.linear(x, weight))[0] for _ in range(20)]
    return 2 * 2048 * width * inner / min(times)


def peak_memory(side: str, folder: str) -> None:
    """Print the MiB that one side needs beyond the loaded 135 M shape (run in its own process)."""
    tokenizer, model, asked = AutoTokenizer.from_pretrained(folder), shape_model(), instances(12)
    lethe, harness = LetheLM.of(model, tokenizer), harness_model(model, tokenizer, 8)
    engine = lethe if side == "lethe" else harness
    engine.loglikelihood(asked[:2], disable_tqdm=True)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building the model
    before = _status("VmRSS")
    engine.loglikelihood(asked, disable_tqdm=True)
    print((_status("VmHWM") - before) // 1024)


def _status(field: str) -> int:
    """A size in KiB from the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def _peaks(folder: str) -> dict[str, int]:
    peaks = {}
    for side in ("hflm", "lethe"):
        command = [sys.executable, __file__, folder, "--peak", side]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[side] = int(done.stdout.split()[-1])
    return peaks


def main() -> None:
    """Every comparison; one line of ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a model folder with a tokenizer")
    parser.add_argument("--quick", action="store_true", help="smaller samples, one repeat")
    parser.add_argument("--peak", choices=("hflm", "lethe"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if arguments.peak:
        peak_memory(arguments.peak, arguments.model)
        return
    quick = arguments.quick
    start = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    shape = shape_model()
    sample, repeats = (3, 1) if quick else (24, 3)
    sizes = (4, 8) if quick else BATCH_SIZES
    shots = instances(3, 5, SUITES[1:]) if quick else instances(5, 5)
    found = [
        compare(
            "135 M shape",
            shape,
            tokenizer,
            instances(sample),
            repeats=repeats,
            sample=10 if quick else 28,
            sizes=sizes,
            reduced=True,
        ),
        compare(
            "135 M shape, five shots",
            shape,
            tokenizer,
            shots,
            repeats=1,
            sample=4 if quick else 14,
            sizes=sizes[:1] if quick else sizes,
        ),
    ]
    del shape
    small = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    questions = instances(50 if quick else None)
    found.append(compare("MODEL", small, tokenizer, questions, repeats=1, sample=100, sizes=sizes))
    result = {
        "hardware": environment.processor(),
        "amx": AMX,
        "threads": torch.get_num_threads(),
        "comparisons": found,
        "peak_MiB_beyond_the_model": None if quick else _peaks(arguments.model),
    }
    if not quick:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for one in found:
        print(json.dumps(one))
    line = [f"{one['title']}: {one['float32']['ratio']}x" for one in found]
    line.insert(1, f"bf16 against float32: {found[0]['bfloat16']['ratio']}x")
    print("; ".join(line), f"({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()

"""The callback in real trainings of pico models: nothing touched, and stopped when due."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import lethe
from lethe.callback import ForgettingCallback
from lethe.errors import InputError
from lethe.gate import gate
from lethe.progress import Progress
from lethe.run import ledger, load_run
from lethe.store import Store
from tests.test_auditing import write_quiz

ROOT = Path(__file__).parents[1]
TEXTS = ["the inn has a room for two nights", "what is the price of the red boat", "yes no late"]


class Heard(TrainerCallback):
    """What a tracker would be told."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append({**logs, "step": state.global_step})


class Said(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def plain_trainer(
    model_folder: Path, out: Path, callbacks: list[Any], *, steps: int = 6, **changes: Any
) -> Trainer:
    """A plain Trainer of a pico model with dropout, so that random states matter."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, attention_dropout=0.3)
    rows = []
    for number in range(24):
        ids = tokenizer(TEXTS[number % 3] * (1 + number % 2))["input_ids"][:24]
        ids += [tokenizer.pad_token_id] * (24 - len(ids))
        rows.append({"input_ids": ids, "labels": ids})
    settings = {
        "output_dir": str(out),
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "learning_rate": 5e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
        **changes,
    }
    return Trainer(
        model=model,
        args=TrainingArguments(**settings),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=callbacks,
    )


def weights_of(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.fixture
def quiz(tmp_path: Path) -> Path:
    return write_quiz(tmp_path / "quiz.jsonl")


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """A suite whose answers are generated."""
    path = tmp_path / "spoken.jsonl"
    rows = [{"prompt": f"is {i} the price of the boat", "reference": "yes"} for i in range(6)]
    path.write_text("".join(json.dumps({**row, "references": ["yes"]}) + "\n" for row in rows))
    return path


def test_a_plain_trainer_ends_with_bit_identical_weights(
    pico: Path, quiz: Path, spoken: Path, tmp_path: Path, store_root: Path
) -> None:
    alone, watched = Heard(), Heard()
    without = plain_trainer(pico, tmp_path / "a", [alone])
    without.train()
    callback = ForgettingCallback(
        [str(quiz), str(spoken)], every=2, format="plain", progress=Progress()
    )
    with_it = plain_trainer(pico, tmp_path / "b", [callback, watched])
    with_it.train()
    assert same(weights_of(without), weights_of(with_it))
    losses = [[log["loss"] for log in heard.logs if "loss" in log] for heard in (alone, watched)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6
    assert all(module.training for module in with_it.model.modules())
    assert not any(module._forward_pre_hooks for module in with_it.model.modules())
    looks = [log["step"] for log in watched.logs if "eval_change/quiz" in log]
    assert looks == [2, 4, 6]
    assert sum("eval_score/spoken" in log for log in watched.logs) == 3


@pytest.mark.filterwarnings(
    "ignore:.gradient_checkpointing. is deprecated:FutureWarning"
)  # TRL's own default
@pytest.mark.parametrize("lora", [False, True])
def test_sft_trainer_ends_with_bit_identical_weights(
    pico: Path, quiz: Path, tmp_path: Path, store_root: Path, lora: bool
) -> None:
    from datasets import Dataset
    from peft import LoraConfig
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    rows = Dataset.from_list([{"text": text} for text in TEXTS * 8])

    def train(folder: Path, callbacks: list[Any]) -> tuple[dict[str, torch.Tensor], Heard]:
        heard = Heard()
        config = SFTConfig(
            output_dir=str(folder),
            max_steps=5,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=1e-2,
            logging_steps=2,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            max_length=32,
            disable_tqdm=True,
        )
        adapter = LoraConfig(r=2, lora_dropout=0.2, target_modules=["q_proj"]) if lora else None
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(pico),
            args=config,
            train_dataset=rows,
            processing_class=AutoTokenizer.from_pretrained(pico),
            peft_config=adapter,
            callbacks=[*callbacks, heard],
        )
        trainer.train()
        return weights_of(trainer), heard

    without, alone = train(tmp_path / "a", [])
    callback = ForgettingCallback([str(quiz)], every=2, progress=Progress())
    with_it, watched = train(tmp_path / "b", [callback])
    assert same(without, with_it)
    averages = [
        [log["mean_token_accuracy"] for log in heard.logs if "mean_token_accuracy" in log]
        for heard in (alone, watched)
    ]
    assert averages[0] == averages[1]
    assert averages[0]
    assert callback.run is not None
    assert [place.name for place in callback.run.positions] == [
        "start",
        "step 2",
        "step 4",
        "step 5",
    ]


def test_its_tables_are_those_of_an_audit_of_what_was_saved(
    pico: Path, quiz: Path, tmp_path: Path, store_root: Path
) -> None:
    callback = ForgettingCallback([str(quiz)], every=3, format="plain", progress=Progress())
    trainer = plain_trainer(pico, tmp_path / "out", [callback], steps=3)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    found = lethe.audit(str(pico), str(tmp_path / "saved"), [str(quiz)], format="plain")
    run = load_run("last", Store())
    assert run.command == "audit"
    assert callback.run is not None
    live = ledger(load_run(callback.run.name, Store()), Store())
    for place in (0, 1):
        ours, theirs = (
            frame.filter(pl.col("position") == place).sort("example")
            for frame in (live, found.frame())
        )
        assert ours["score"].to_list() == theirs["score"].to_list()
        exact = zip(ours["option_logprobs"], theirs["option_logprobs"], strict=True)
        assert all((a - b).abs().max() < 1e-4 for a, b in exact)  # type: ignore[operator]


def test_a_rule_that_is_shown_stops_the_training(
    pico: Path, quiz: Path, tmp_path: Path, store_root: Path
) -> None:
    said, heard = Said(), Heard()
    callback = ForgettingCallback(
        [str(quiz)],
        every=2,
        stop=["quiz level >= 0.9", "lost(quiz) >= 0", "quiz < -0.9"],
        format="plain",
        progress=said,
    )
    trainer = plain_trainer(pico, tmp_path / "out", [callback, heard])
    trainer.train()
    assert trainer.state.global_step == 2
    assert callback.stopped_by == "lost(quiz) >= 0"
    assert any("stopping at step 2" in line for line in said.lines)
    run = load_run("last", Store())
    assert run.settings["stopped_by"] == "lost(quiz) >= 0"
    result = gate("last", ["quiz level >= 0"], store=Store())
    assert result.outcome == "passed"


def test_a_rule_that_is_never_shown_stops_nothing(
    pico: Path, quiz: Path, tmp_path: Path, store_root: Path
) -> None:
    callback = ForgettingCallback(
        [str(quiz)], every=2, stop="quiz < -0.95", format="plain", progress=Progress()
    )
    trainer = plain_trainer(pico, tmp_path / "out", [callback])
    trainer.train()
    assert trainer.state.global_step == 6
    assert callback.stopped_by is None


def test_the_best_look_is_saved_and_outlives_the_limit(
    pico: Path, tmp_path: Path, store_root: Path
) -> None:
    learned = tmp_path / "learned.jsonl"
    rows = [
        {"id": f"{i}", "prompt": f"{i} the inn has a", "choices": [" room", " boat"], "answer": 0}
        for i in range(120)
    ]
    learned.write_text("".join(json.dumps(row) + "\n" for row in rows))
    callback = ForgettingCallback(
        [str(learned)], every=1, keep_best="learned", format="plain", progress=Progress()
    )
    trainer = plain_trainer(
        pico,
        tmp_path / "out",
        [callback],
        steps=8,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
        learning_rate=1e-2,
    )
    trainer.train()
    run = load_run("last", Store())
    scores = (
        ledger(run, Store()).group_by("checkpoint", maintain_order=True).agg(pl.col("score").mean())
    )
    by_name = dict(scores.iter_rows())
    assert callback.best == run.settings["best"]
    assert callback.best != "start", by_name
    assert by_name[callback.best] > by_name["start"]
    step = callback.best.removeprefix("step ")
    kept = tmp_path / "out" / f"checkpoint-{step}"
    assert (kept / "model.safetensors").is_file()


def test_a_resumed_training_goes_on_with_its_run(
    pico: Path, quiz: Path, tmp_path: Path, store_root: Path
) -> None:
    def callback() -> ForgettingCallback:
        return ForgettingCallback([str(quiz)], every=2, format="plain", progress=Progress())

    whole = callback()
    plain_trainer(pico, tmp_path / "whole", [whole]).train()
    saving = {"save_strategy": "steps", "save_steps": 2}
    out = tmp_path / "out"
    first = callback()
    plain_trainer(pico, out, [first, _StopAt(4)], **saving).train()
    second = callback()
    plain_trainer(pico, out, [second], **saving).train(
        resume_from_checkpoint=str(out / "checkpoint-4")
    )
    assert first.run is not None
    assert second.run is not None
    assert whole.run is not None
    assert second.run.name == first.run.name
    frames = [
        ledger(load_run(one.run.name, Store()), Store()).select("checkpoint", "example", "score")
        for one in (whole, second)
        if one.run
    ]
    assert frames[0].equals(frames[1])


class _StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step:
            control.should_training_stop = True


def test_it_says_before_the_first_step_what_it_will_cost(
    pico: Path, quiz: Path, tmp_path: Path, store_root: Path
) -> None:
    said = Said()
    callback = ForgettingCallback([str(quiz)], every=2, format="plain", progress=said)
    plain_trainer(pico, tmp_path / "out", [callback]).train()
    assert said.lines[0].startswith("Lethe: 3 looks at 60 examples")
    assert "estimated" in said.lines[0]
    assert 0 < callback.estimated_share < 1
    assert 0 < callback.share < 1


def test_unknown_names_are_said_when_it_is_made(quiz: Path) -> None:
    with pytest.raises(InputError, match="no axis or suite 'quizz'"):
        ForgettingCallback([str(quiz)], stop="quizz < -0.05")
    with pytest.raises(InputError, match=r"no suite or grouping 'quiz\.peple'"):
        ForgettingCallback([str(quiz)], stop="group(quiz.peple) < -0.05")
    with pytest.raises(InputError, match="no axis or suite 'quit'"):
        ForgettingCallback([str(quiz)], keep_best="quit")


def test_a_trainer_without_a_tokenizer_says_what_to_give(
    pico: Path, quiz: Path, tmp_path: Path, store_root: Path
) -> None:
    trainer = plain_trainer(pico, tmp_path / "out", [ForgettingCallback([str(quiz)])])
    trainer.callback_handler.processing_class = trainer.processing_class = None
    with pytest.raises(InputError, match="no tokenizer"):
        trainer.train()


def test_a_resumed_training_that_was_never_measured_is_refused(
    pico: Path, quiz: Path, tmp_path: Path, store_root: Path
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    out = tmp_path / "out"
    plain_trainer(pico, out, [], steps=2, **saving).train()
    trainer = plain_trainer(pico, out, [ForgettingCallback([str(quiz)])], **saving)
    with pytest.raises(InputError, match="begun without the callback"):
        trainer.train(resume_from_checkpoint=str(out / "checkpoint-2"))


SCRIPT = """
import hashlib, json, os, sys
from pathlib import Path
import torch.distributed as dist
from lethe.callback import ForgettingCallback
from lethe.errors import LetheError
from lethe.progress import Progress
from tests.test_callback import Heard, plain_trainer, weights_of

model, quiz, folder = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
facts = {}
for mode in ("without", "with", "stop", "broken"):
    os.environ["LETHE_STORE"] = str(folder / f"store-{mode}")
    callbacks = [heard := Heard()]
    if mode != "without":
        stop = "lost(quiz) >= 0" if mode == "stop" else None
        callbacks.append(
            ForgettingCallback([quiz], every=2, stop=stop, format="plain", progress=Progress())
        )
    if mode == "broken" and os.environ["RANK"] == "0":
        (folder / "store-broken").write_text("a file where the store should be")
    trainer = plain_trainer(model, folder / mode, callbacks, steps=4, ddp_backend="gloo")
    said = ""
    try:
        trainer.train()
    except LetheError as error:
        said = str(error)
    whole = hashlib.sha256(b"".join(t.numpy().tobytes() for t in weights_of(trainer).values()))
    looks = sum("eval_change/quiz" in log for log in heard.logs)
    step = trainer.state.global_step
    facts[mode] = {"step": step, "weights": whole.hexdigest(), "looks": looks, "said": said}
(folder / f"rank{dist.get_rank()}.json").write_text(json.dumps(facts))
"""


def test_of_two_processes_one_measures_and_the_other_follows(
    pico: Path, quiz: Path, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(script), str(pico), str(quiz), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=290,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    main, other = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert main["with"]["weights"] == other["with"]["weights"] == main["without"]["weights"]
    assert main["with"]["looks"] == 2
    run = load_run("last", Store(tmp_path / "store-with"))
    assert [place.name for place in run.positions] == ["start", "step 2", "step 4"]
    assert main["stop"]["step"] == other["stop"]["step"] == 2
    assert "store-broken" in main["broken"]["said"]
    assert other["broken"]["said"] == main["broken"]["said"]


def test_a_look_that_fails_is_said_and_the_training_goes_on(
    pico: Path, quiz: Path, tmp_path: Path, store_root: Path
) -> None:
    said = Said()

    class Breaks(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 1:  # the weights of the second step are no numbers
                for group in kwargs["optimizer"].param_groups:
                    group["lr"] = float("nan")

    callback = ForgettingCallback([str(quiz)], every=2, format="plain", progress=said)
    trainer = plain_trainer(pico, tmp_path / "out", [callback, Breaks()], steps=3)
    trainer.train()
    assert trainer.state.global_step == 3
    assert any(line.startswith("Lethe: no look at step 2: ") for line in said.lines)

"""Loading Transformers models, and one live module for a base and its adapters."""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from lethe.errors import InputError, MissingExtraError
from lethe.models.checkpoint import ADAPTER_WEIGHTS, Checkpoint
from lethe.models.engine import Engine

if TYPE_CHECKING:
    from pathlib import Path

Dtype = Literal["float32", "bfloat16"]
_PROBE = "The quick brown fox jumps over the lazy dog."


@dataclass(frozen=True)
class LiveModel:
    """A checkpoint that is ready to score: module in evaluation mode, tokenizer and engine."""

    checkpoint: Checkpoint
    model: Any
    tokenizer: Any
    engine: Engine

    @property
    def max_length(self) -> int:
        """Positions the model can take."""
        return position_limit(self.model, self.tokenizer)


def choose_device(asked: str | None = None) -> str:
    """`cuda` where there is one, else `cpu`, unless asked for.

    Raises:
        InputError: a GPU was asked for and there is none.
    """
    import torch

    if asked is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise InputError(f"no such device as '{asked}'", todo="use cpu, cuda or cuda:1") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"no GPU for device '{asked}'", todo="use --device cpu")
    return asked


@contextmanager
def memory_explained(where: str) -> Iterator[None]:
    """A GPU that is too small, in the user's words.

    Raises:
        InputError: out of memory.
    """
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise InputError(
            "the GPU has too little memory for this model",
            where=where,
            todo="use --dtype bfloat16, --device cpu, or a larger GPU",
        ) from None


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """The tokenizer of a checkpoint (of its base, where an adapter brings none)."""
    from transformers import AutoTokenizer

    folder = checkpoint.tokenizer_folder
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"the tokenizer cannot be loaded ({_first_line(error)})", where=str(folder)
        ) from None


def load_model(checkpoint: Checkpoint, *, device: str = "cpu", dtype: Dtype = "float32") -> Any:
    """The bare module of a checkpoint, in evaluation mode.

    An adapter is merged into its base in float32, so that an adapter put on top and switched off
    again leaves this checkpoint, not the base below it.

    Raises:
        InputError: weights that cannot be read, do not fit the configuration or are incomplete, or
            a model that needs code of its own.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    if checkpoint.base is not None:
        adapted = attach_adapter(load_model(checkpoint.base, device=device), checkpoint)
        with quiet():
            return adapted.merge_and_unload(safe_merge=True).to(getattr(torch, dtype)).eval()
    with quiet():
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                checkpoint.folder,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except SafetensorError as error:
            raise InputError(
                f"the weights are damaged ({_first_line(error)})",
                where=checkpoint.spec,
                todo="download or save them again",
            ) from None
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise InputError(
                f"the model cannot be loaded ({_first_line(error)})", where=checkpoint.spec
            ) from None
    model, report = loaded
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    missing = sorted(set(report["missing_keys"]) - tied)
    if missing:
        raise InputError(
            f"{len(missing)} weights are not in the files (first: {missing[0]})",
            where=checkpoint.spec,
            todo="save the whole model again",
        )
    with memory_explained(checkpoint.spec):
        model.to(device).eval()
    return model


class ModelPool:
    """Keeps one live module and turns it into the checkpoint that is asked for.

    A base and its adapters share a module. Some adapters (CorDA, PiSSA, OLoRA) change the base they
    stand on, so "adapter off" is checked against the base's own logits once for each adapter, and
    such an adapter gets a module of its own.
    """

    def __init__(self, *, device: str | None = None, dtype: Dtype = "float32") -> None:
        self._asked, self.dtype = device, dtype
        self._base: Checkpoint | None = None
        self._model: Any = None
        self._adapter: str | None = None  # fingerprint of the adapter that is attached
        self._shares_base = True
        self._engine: Engine | None = None  # of the live module, whatever adapter it wears
        self._tokenizers: dict[Path, Any] = {}

    @contextmanager
    def use(self, checkpoint: Checkpoint) -> Iterator[LiveModel]:
        """The checkpoint, live while the block lasts."""
        tokenizer = self.tokenizer(checkpoint)
        base = checkpoint.base or checkpoint
        if self._base is None or self._base.fingerprint != base.fingerprint:
            self._load(base)
        if checkpoint.base is None:
            if self._adapter is None:
                yield self._live(checkpoint, self._model, tokenizer)
            elif self._shares_base:
                with self._model.disable_adapter():
                    self._model.eval()
                    yield self._live(checkpoint, self._model.get_base_model(), tokenizer)
            else:
                self._load(base)
                yield self._live(checkpoint, self._model, tokenizer)
            return
        if self._adapter != checkpoint.fingerprint:
            self._attach(checkpoint)
        yield self._live(checkpoint, self._model.get_base_model(), tokenizer)

    def release(self) -> None:
        """Let go of the live module: whoever trains needs its memory."""
        self._model = self._base = self._adapter = self._engine = None

    @cached_property
    def device(self) -> str:
        """Where models are loaded; asked of the machine when first needed."""
        return choose_device(self._asked)

    def tokenizer(self, checkpoint: Checkpoint) -> Any:
        """The tokenizer of a checkpoint, loaded once."""
        folder = checkpoint.tokenizer_folder
        if folder not in self._tokenizers:
            self._tokenizers[folder] = load_tokenizer(checkpoint)
        return self._tokenizers[folder]

    def _live(self, checkpoint: Checkpoint, model: Any, tokenizer: Any) -> LiveModel:
        rows = model.get_input_embeddings().weight.shape[0]
        if len(tokenizer) > rows:
            raise InputError(
                f"its tokenizer has {len(tokenizer)} entries, the model only {rows}",
                where=checkpoint.spec,
                todo="use the tokenizer the model was saved with",
            )
        if self._engine is None:
            self._engine = Engine(model)
        return LiveModel(checkpoint, model, tokenizer, self._engine)

    def _load(self, base: Checkpoint) -> None:
        self.release()  # free the old one before the new one
        self._model = load_model(base, device=self.device, dtype=self.dtype)
        self._base, self._shares_base = base, True

    def _attach(self, checkpoint: Checkpoint) -> None:
        """Put an adapter on the live base in place of the one before it."""
        base = checkpoint.base
        assert base is not None
        if self._adapter is not None:
            if self._shares_base:
                self._model = self._model.unload()
                self._adapter = None
            else:
                self._load(base)
        probe = self.tokenizer(base)(_PROBE, return_tensors="pt").to(self.device)
        before = self._logits(self._model, probe)
        self._model = attach_adapter(self._model, checkpoint)
        self._adapter = checkpoint.fingerprint
        with self._model.disable_adapter():
            after = self._logits(self._model, probe)
        self._shares_base = bool((before == after).all())

    @staticmethod
    def _logits(model: Any, inputs: Any) -> Any:
        import torch

        with torch.inference_mode():
            return model(**inputs, use_cache=False).logits


def attach_adapter(model: Any, checkpoint: Checkpoint) -> Any:
    """A `PeftModel` of the base `model` with the checkpoint's adapter, in evaluation mode.

    Raises:
        InputError: shapes or names of the adapter's tensors do not fit this base. PEFT itself only
            warns about missing tensors and keeps random ones in their place.
    """
    try:
        from peft import PeftModel
        from peft.utils import get_peft_model_state_dict
        from safetensors import safe_open
    except ImportError:
        raise MissingExtraError("peft", "tune") from None
    with quiet():
        try:
            peft_model = PeftModel.from_pretrained(model, str(checkpoint.folder))
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"this adapter does not fit the base '{_base_name(checkpoint)}' "
                f"({_first_line(error)})",
                where=checkpoint.spec,
                todo="give the base it was trained on",
            ) from None
    if peft_model.active_peft_config.is_prompt_learning:
        raise InputError(
            "an adapter of virtual tokens, which no checkpoint can share a module with",
            where=checkpoint.spec,
            todo="audit adapters that change weights (LoRA and its family)",
        )
    with safe_open(checkpoint.folder / ADAPTER_WEIGHTS, framework="pt") as tensors:
        stored = {name for name in tensors.keys() if not _is_embedding(name)}  # noqa: SIM118
    loaded = set(get_peft_model_state_dict(peft_model, save_embedding_layers=False))
    loaded = {name for name in loaded if not _is_embedding(name)}
    if stored != loaded:
        odd = sorted(stored ^ loaded)
        raise InputError(
            f"{len(odd)} tensors of this adapter do not match the base "
            f"'{_base_name(checkpoint)}' (first: {odd[0]})",
            where=checkpoint.spec,
            todo="give the base it was trained on",
        )
    return peft_model.eval()


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 of what a tokenizer does to text: equal hashes may share a batch plan."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    probe = tokenizer(_PROBE)["input_ids"]  # shows what is added in front and behind
    content = (rules, tokenizer.bos_token, tokenizer.eos_token, probe)
    return hashlib.sha256(repr(content).encode()).hexdigest()


def position_limit(model: Any, tokenizer: Any) -> int:
    """The longest sequence a model takes: its positions, or its tokenizer's limit if smaller."""
    config = model.config.get_text_config()
    limits = [getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
    return min(int(limit) for limit in limits if limit)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and advice of the libraries; errors still come through."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _is_embedding(name: str) -> bool:
    """PEFT saves whole embedding tables beside an adapter when a vocabulary was changed."""
    return ".embed_tokens." in name or ".lm_head." in name or ".wte." in name


def _base_name(checkpoint: Checkpoint) -> str:
    return checkpoint.base.spec if checkpoint.base else "?"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]

"""Lethe's engine as a model of lm-evaluation-harness: `python -m lethe.harness --model lethe …`.

The harness finds models by a registry that a module joins when it is imported; importing this one
is what makes `lethe` known to it. Requests, tasks and results stay the harness's own.
"""

import json
import logging
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

import torch

from lethe.errors import InputError, LetheError, MissingExtraError, nearest
from lethe.models.batch_plan import TokenRow
from lethe.models.engine import Engine
from lethe.progress import Bar, ConsoleProgress, Progress
from lethe.suites.lm_eval_scoring import MAX_NEW_TOKENS, decoding_of

try:
    # Joins the other models, which the harness looks for only while its registry is empty.
    import lm_eval.models  # noqa: F401
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
except ImportError:
    missing = MissingExtraError("lm-eval", "harness")
    if __name__ == "__main__":
        print(f"lethe: {missing}", file=sys.stderr)
        sys.exit(missing.exit_code)
    raise missing from None

if TYPE_CHECKING:
    from lethe.models.local import LiveModel

_ARGUMENTS = ("pretrained", "peft", "dtype", "device", "max_length", "max_batch_tokens")
_log = logging.getLogger(__name__)


@register_model("lethe")
class LetheLM(TemplateLM):  # type: ignore[misc]
    """A checkpoint of Lethe's, which answers the harness's requests.

    Numbers are those of the harness's own `hf` model: the same split of context and continuation,
    the same truncation from the left, the same windows over running text.

    Args:
        pretrained: a model folder, a hub id, or an adapter that names its base.
        peft: an adapter on it.
        dtype: `float32` or `bfloat16`.
        device: `cpu`, `cuda`, `cuda:1`; a GPU where there is one.
        max_length: positions to use; else all that the model has.
        max_batch_tokens: tokens of a batch, padding counted.
        batch_size, max_batch_size: the harness always gives them; batches are cut by tokens here.

    Raises:
        InputError: a checkpoint that cannot be used, or an argument that there is not.
    """

    name: str
    fingerprint: str | None

    def __init__(
        self,
        pretrained: str = "",
        *,
        peft: str | None = None,
        dtype: str = "float32",
        device: str | None = None,
        max_length: int | None = None,
        max_batch_tokens: int | None = None,
        batch_size: Any = None,
        max_batch_size: Any = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        if unknown:
            name = min(unknown)
            raise InputError(f"no model argument '{name}'", todo=nearest(name, _ARGUMENTS))
        if batch_size not in (None, 1, "1", "auto") or max_batch_size is not None:
            _log.warning("batches are cut by tokens (max_batch_tokens), not by batch_size")
        self._open = ExitStack()
        # The harness's command line says so when nobody asked.
        unasked = device == "cuda:0" and not torch.cuda.is_available()
        live = self._live(pretrained, peft, dtype, None if unasked else device)
        self.dtype = dtype
        self.name, self.fingerprint = live.checkpoint.name, live.checkpoint.fingerprint
        self._take(live.model, live.tokenizer, max_batch_tokens, max_length)

    @classmethod
    def of(cls, model: Any, tokenizer: Any, *, max_batch_tokens: int | None = None) -> "LetheLM":
        """A model and a tokenizer that are loaded already, as a trainer has them.

        The model is put into evaluation mode, as the harness does it; a trainer's next step puts it
        back.
        """
        made = cls.__new__(cls)
        TemplateLM.__init__(made)
        made.dtype = str(model.dtype).removeprefix("torch.")
        made.name, made.fingerprint = model.config.model_type, None
        made._take(model, tokenizer, max_batch_tokens, None)
        return made

    def _take(
        self, model: Any, tokenizer: Any, max_batch_tokens: int | None, max_length: int | None
    ) -> None:
        self._device = model.device
        self.model, self.tokenizer = model.eval(), tokenizer
        self.max_length = _positions(model, tokenizer, max_length)
        self._max_batch_tokens = max_batch_tokens
        self.engine = Engine(model, max_batch_tokens=max_batch_tokens)

    def _live(
        self, pretrained: str, peft: str | None, dtype: str, device: str | None
    ) -> "LiveModel":
        from lethe.models.checkpoint import resolve
        from lethe.models.fingerprint import FingerprintMemory
        from lethe.models.local import ModelPool
        from lethe.store import Store

        if not pretrained:
            raise InputError("no model", todo="write --model_args pretrained=MODEL")
        if dtype not in ("float32", "bfloat16"):
            raise InputError(f"no dtype '{dtype}'", todo="use float32 or bfloat16")
        memory = FingerprintMemory(Store().root / "fingerprints.json")
        checkpoint = resolve(pretrained, memory)
        if peft is not None:
            checkpoint = resolve(peft, memory, base=checkpoint)
        pool = ModelPool(device=device, dtype=dtype)  # type: ignore[arg-type]
        return self._open.enter_context(pool.use(checkpoint))

    @property
    def eot_token_id(self) -> int:
        """The end-of-sequence token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before text without a context: the token that begins one, else ends one."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def max_gen_toks(self) -> int:
        """New tokens where a request says nothing."""
        return MAX_NEW_TOKENS

    @property
    def tokenizer_name(self) -> str:
        """Names the harness's cache of requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes into its results about the model."""
        return {
            "model_num_parameters": self.model.num_parameters(),
            "model_dtype": self.dtype,
            "model_fingerprint": self.fingerprint,
        }

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as text; a system turn that the template has no place for is left out."""
        import jinja2

        def render(turns: list[dict[str, str]]) -> str:
            return str(
                self.tokenizer.apply_chat_template(
                    turns,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            )

        try:
            return render(chat_history)
        except jinja2.TemplateError:
            _log.warning("the chat template cannot render the system turn: it is left out")
            return render([turn for turn in chat_history if turn["role"] != "system"])

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids; text that begins with the prefix token gets no second one unless asked for."""
        return self._encode([string], add_special_tokens)[string]

    def _encode(self, texts: Iterable[str], special: bool | None = None) -> dict[str, list[int]]:
        """Token ids of distinct texts, tokenised in one batch."""
        begin = self.tokenizer.decode(self.prefix_token_id)
        groups: dict[bool, list[str]] = {}
        for text in dict.fromkeys(texts):
            adds = not text.startswith(begin) if special is None else special
            groups.setdefault(adds, []).append(text)
        return {
            text: ids
            for adds, group in groups.items()
            for text, ids in zip(
                group,
                self.tokenizer(
                    group, add_special_tokens=adds, return_attention_mask=False, verbose=False
                )["input_ids"],
                strict=True,
            )
        }

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-probability of every continuation, and whether it is what greedy decoding gives."""
        pairs = [request.args for request in requests]
        moved = [_move_space(*pair) for pair in pairs]
        begun = self._encode(text for pair in moved if pair[0] for text in (pair[0], "".join(pair)))
        bare = (after for before, after in moved if not (before and begun[before]))
        alone = self._encode(bare, special=False)
        rows = []
        for (context, continuation), (before, after) in zip(pairs, moved, strict=True):
            if before and (ids := begun[before]):
                rows.append(((context, continuation), ids, begun[before + after][len(ids) :]))
            else:
                prefix, ids = [self.prefix_token_id], alone[after]
                cut = 1 if ids[:1] == prefix else 0
                rows.append(((context, continuation), prefix, ids[cut:]))
        return self._loglikelihood_tokens(rows, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, Sequence[int], Sequence[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        rows, cut = [], 0
        for index, (_text, context, continuation) in enumerate(requests):
            row, dropped = self._row(index, context, continuation)
            rows.append(row)
            cut += dropped > 0
        if cut:
            _log.warning(
                "%d of %d requests are longer than %d tokens and were cut at the left",
                *(cut, len(rows), self.max_length),
            )
        with self._bar("loglikelihood", len(rows), disable_tqdm) as bar:
            scored = self.engine.score(rows, bar.advance)
        answers = [(one.logprob, one.greedy) for one in scored]
        for (text, _context, _continuation), answer in zip(requests, answers, strict=True):
            if text is not None:
                self.cache_hook.add_partial("loglikelihood", text, answer)
        return answers

    def _row(
        self, index: int, context: Sequence[int], continuation: Sequence[int]
    ) -> tuple[TokenRow, int]:
        """A row that fits the model, and how many tokens it lost at the left."""
        if not 0 < len(continuation) <= self.max_length:
            raise InputError(
                f"a continuation of {len(continuation)} tokens, where 1 to {self.max_length} fit",
                where=f"request {index}",
            )
        room = self.max_length + 1 - len(continuation)  # the last token is only predicted
        kept = tuple(context)[-room:]
        return TokenRow(index, 0, kept, tuple(continuation)), len(context) - len(kept)

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability of whole texts, in windows of the model's length side by side."""
        texts = [request.args[0] for request in requests]
        ids = self._encode(texts)
        windows, owners = [], []
        for owner, text in enumerate(texts):
            rolled = utils.get_rolling_token_windows(
                token_list=ids[text],
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for pair in rolled:
                windows.append((None, *utils.make_disjoint_window(pair)))
                owners.append(owner)
        totals = [0.0] * len(texts)
        scored = self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm)
        for owner, (logprob, _greedy) in zip(owners, scored, strict=True):
            totals[owner] += logprob
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy responses, each up to its own stop texts and number of tokens.

        Raises:
            InputError: a request samples, or leaves no room for a prompt.
        """
        alike: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            key = json.dumps(request.args[1], sort_keys=True, default=str)
            alike.setdefault(key, []).append(index)
        found: dict[int, str] = {}
        with self._bar("generate_until", len(requests), disable_tqdm) as bar:
            for members in alike.values():
                contexts = [requests[index].args[0] for index in members]
                texts = self._generate(contexts, requests[members[0]].args[1], bar)
                found.update(zip(members, texts, strict=True))
        for index, request in enumerate(requests):
            self.cache_hook.add_partial("generate_until", request.args, found[index])
        return [found[index] for index in range(len(requests))]

    def _generate(self, contexts: Sequence[str], settings: dict[str, Any], bar: Bar) -> list[str]:
        """Responses to contexts that are decoded alike, in the order given."""
        from lethe.models.prompt_plan import BATCH_TOKENS, plan_prompts

        decoding = decoding_of(settings, "a request of the harness", self.max_gen_toks)
        room = self.max_length - decoding.max_new_tokens
        if room < 1:
            raise InputError(
                f"{decoding.max_new_tokens} new tokens leave no room for a prompt within "
                f"{self.max_length}",
                todo="set a smaller max_gen_toks with --gen_kwargs",
            )
        ids = self._encode(contexts)
        whole = [tuple(ids[context]) or (self.prefix_token_id,) for context in contexts]
        prompts = [prompt[-room:] for prompt in whole]
        if cut := sum(len(prompt) > room for prompt in whole):
            _log.warning(
                "%d of %d prompts were cut at the left to %d tokens", *(cut, len(whole), room)
            )
        plan = plan_prompts(
            prompts,
            decoding,
            max_length=self.max_length,
            max_batch_tokens=self._max_batch_tokens or BATCH_TOKENS,
        )
        found: dict[int, str] = {}
        for block in range(len(plan.blocks)):
            for batch in plan.batches(block):
                members = [index for index, _ in batch]
                texts = self.engine.respond(self.tokenizer, [p for _, p in batch], decoding)
                found.update(zip(members, texts, strict=True))
                bar.advance(len(members))
        return [found[index] for index in range(len(prompts))]

    def _bar(self, what: str, total: int, silent: bool) -> AbstractContextManager[Bar]:
        progress = Progress() if silent else ConsoleProgress()
        return progress.bar(f"{what} on {self.name}", total)


def _move_space(context: str, continuation: str) -> tuple[str, str]:
    """Trailing white space of the context belongs to the continuation."""
    stripped = context.rstrip()
    return stripped, context[len(stripped) :] + continuation


def _positions(model: Any, tokenizer: Any, asked: int | None) -> int:
    """Positions to use: as many as the harness would, or fewer where that is asked for.

    Raises:
        InputError: more than the model has.
    """
    from lm_eval.models.utils import resolve_max_length

    own = int(resolve_max_length(model.config, tokenizer))
    if asked is not None and not 2 <= asked <= own:
        raise InputError(f"max_length={asked}, where the model takes 2 to {own} tokens")
    return own if asked is None else asked


def main() -> None:
    """The harness's own command line, with the model `lethe` in it."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except LetheError as error:
        print(f"lethe: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

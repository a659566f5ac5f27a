"""How a prompt becomes text: a chat template, or plain text. Decided once for each audit."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lethe.errors import InputError
from lethe.examples import Message

FormatKind = Literal["chat", "plain"]
# Some templates write today's date; two sides measured on two days must be asked the same.
_FIXED_DAY = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"
_SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True)
class Format:
    """Both sides of an audit are asked in the same format, and the report names it.

    Attributes:
        kind: `chat` renders through `template`; `plain` uses the prompt as it stands.
        template: the Jinja chat template (`chat` only), taken from the tuned model unless said.
        special: named special tokens (`bos_token`, `eos_token`) that the template may use.
    """

    kind: FormatKind
    template: str | None = None
    special: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """`plain`, or `chat` with eight digits of the template's hash."""
        if self.template is None:
            return self.kind
        return f"chat:{hashlib.sha256(self.template.encode()).hexdigest()[:8]}"

    def context(self, prompt: str | tuple[Message, ...]) -> str:
        """Everything before the answer. An empty plain prompt stays empty."""
        if self.kind == "plain":
            return prompt if isinstance(prompt, str) else _transcript(prompt)
        if isinstance(prompt, str):
            # Running text has no speaker.
            return self._render([Message("user", prompt)]) if prompt else ""
        return self._render(prompt)

    def continuation(self, text: str, context: str, delimiter: str | None = None) -> str:
        """An answer as it follows `context`: set off by one space in plain text.

        A chat answer follows the template's own header, and text without a context begins a line.

        Args:
            delimiter: in plain text stands there instead, whatever the context is.
        """
        if self.kind == "plain" and delimiter is not None:
            return delimiter + text
        if self.kind == "chat" or not context or context[-1].isspace():
            return text
        return " " + text

    def _render(self, messages: Sequence[Message]) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        special: dict[str, Any] = dict(self.special)
        turns = [{"role": turn.role, "content": turn.content} for turn in messages]
        try:
            rendered: Any = render_jinja_template(  # sandboxed: a template is a stranger's program
                [turns],
                chat_template=f"{_FIXED_DAY}{self.template}",
                add_generation_prompt=True,
                **special,
            )
        except Exception as error:  # whatever the stranger's program leads to
            raise InputError(
                f"the chat template cannot render this conversation ({error})",
                where=f"a conversation of {len(turns)} turns starting with '{turns[0]['role']}'",
                todo="use --format plain",
            ) from None
        return str(rendered[0][0])


def _transcript(messages: Sequence[Message]) -> str:
    """A conversation as plain lines, ending where the assistant speaks."""
    lines = [f"{_SPEAKERS[turn.role]}: {turn.content}" for turn in messages]
    return "\n".join([*lines, "Assistant:"])


def choose_format(tokenizer: Any, kind: Literal["auto", "chat", "plain"] = "auto") -> Format:
    """The format of an audit, from the tokenizer of the tuned model.

    Raises:
        InputError: `chat` was asked for and the tokenizer has no chat template.
    """
    template = tokenizer.chat_template
    if kind == "plain" or (kind == "auto" and not template):
        return Format("plain")
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise InputError(
            "the tuned model's tokenizer has no chat template",
            where=str(tokenizer.name_or_path),
            todo="use --format plain",
        )
    special = {
        name: value
        for name in ("bos_token", "eos_token")
        if isinstance(value := getattr(tokenizer, name, None), str)
    }
    return Format("chat", template, tuple(sorted(special.items())))

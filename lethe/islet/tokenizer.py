"""The tokenizer: a piece for every word, smaller pieces for broken ones, bytes for the rest.

No text is unknown to it: what has no piece (leetspeak, ciphers, other scripts) falls back to its
letters and, last, to its UTF-8 bytes.
"""

from typing import Any

from lethe.islet.language import Language

BEGIN, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
ROLES = ("system", "user", "assistant")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_SPECIAL = (PAD, BEGIN, END, *(f"<|{role}|>" for role in ROLES))
_MARKS = ".,:;?!'-\n\"()0123456789"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SPACE = "▁"


def make_tokenizer(language: Language, max_length: int) -> Any:
    """The tokenizer of a language, with a chat template; nothing about it is learned.

    A unigram model whose best segmentation is the one with the fewest pieces, since all weigh the
    same; bytes weigh more, so that they come last.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = _pieces(language)
    vocabulary = [(piece, -20.0 if piece.startswith("<0x") else -10.0) for piece in pieces]
    raw = Tokenizer(models.Unigram(vocabulary, unk_id=len(_SPECIAL), byte_fallback=True))
    raw.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)]
    )
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_SPACE, "merged_with_next"),
            pre_tokenizers.Split(Regex(r"[.,:;?!\n\"()0-9]"), "isolated"),
        ]
    )
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    raw.add_special_tokens(list(_SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[f"<|{role}|>" for role in ROLES],
        model_max_length=max_length,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _pieces(language: Language) -> list[str]:
    """All pieces in order: special tokens, bytes, marks, letters, syllables, whole words."""
    found = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), _SPACE, *_MARKS]
    letters = [*_LETTERS, *_LETTERS.upper()]
    found += letters
    found += [f"{_SPACE}{letter}" for letter in letters]
    found += [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    found += [f"{_SPACE}{word}" for word in language.words]
    return list(dict.fromkeys(found))

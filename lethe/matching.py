"""Holding a response against its references: exact, contained, by pattern, by words, by ROUGE.

Texts are normalised as the SQuAD evaluation does it (Rajpurkar et al. 2016): lower case, without
punctuation, articles and surplus space. Two things are otherwise. Numbers are read as numbers, so
that 1,000 and 1000.0 are one and 3.5 and 35 are two; and a text of which nothing would be left (the
letter A, a plus sign) is kept as it stands.
"""

import re
import string
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import regex

from lethe.errors import InputError, MissingExtraError
from lethe.examples import Match, Suite
from lethe.rows import short

PATTERN_SECONDS = 1.0
"""Time that all patterns of one response share."""
MAX_PATTERN = 1000
"""Characters of a pattern."""
MAX_ROUGE_CELLS = 4_000_000
"""Words of a response × words of a reference: what ROUGE-L takes a second or two for."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
# A decimal number or a whole one with or without thousands marked, its sign and currency; no part
# of a version, a date or a word.
_NUMBER = re.compile(
    r"(?:(?<![^\s(=:$€£¥])(?P<sign>[-−]))?[$€£¥]?(?<![\w.,])"
    r"(?:(?P<whole>[1-9][0-9]{0,2}(?:,[0-9]{3})++|[1-9][0-9]*+|0)(?P<part>\.[0-9]++)?"
    r"|(?P<bare>\.[0-9]++))(?![0-9]|[.,][0-9])"
)
_POINT, _MINUS = "·", "−"  # no punctuation to SQuAD, so they stay


@dataclass(frozen=True, slots=True)
class Matched:
    """What matching found.

    Attributes:
        score: 0 … 1; None where nothing could be decided.
        outcome: correct or wrong; None for a graded score (f1, ROUGE), which is neither;
            `unscored:REASON` without a score.
        values: `em` and `f1` beside every score that is not by pattern; `rouge1` and `rougeL`.
    """

    score: float | None
    outcome: str | None
    values: Mapping[str, float] = field(default_factory=dict)


def match_response(
    response: str, references: Sequence[str], *, match: Match, extract: str | None = None
) -> Matched:
    """The best score over all references.

    Args:
        references: accepted answers, patterns for `regex`; empty ones among them are left out.
        extract: a pattern; the answer is its last occurrence in the response, or the first of its
            groups that took part. Where it does not occur the answer is empty, and so wrong.

    Raises:
        InputError: a pattern is broken.
        MissingExtraError: ROUGE without the library rouge-score.
    """
    deadline = time.monotonic() + PATTERN_SECONDS
    answers = [reference for reference in references if reference.strip()]
    if not answers:
        return _unscored("empty_reference")
    try:
        if extract is not None:
            response = _extracted(response, extract, deadline)
        if match == "regex":
            return _decided(_found(response, answers, deadline), {})
    except TimeoutError:
        return _unscored("pattern_timeout")
    if match in ("rouge1", "rougeL"):
        return _rouge(response, answers, match)
    values = _squad(response, answers)
    if match == "f1":
        return Matched(values["f1"], None, values)
    right = values["em"] == 1 if match == "exact" else _contains(response, answers)
    return _decided(right, values)


def check_patterns(suite: Suite) -> None:
    """Compile every pattern of a suite that is scored by match, so that none fails midway.

    Raises:
        InputError: a pattern is broken, and whose it is.
    """
    if suite.scorer != "match":
        return
    if suite.extract is not None:
        _compiled(suite.extract, f"suite {suite.name}, extract")
    if suite.match == "regex":
        for example in suite.examples:
            for pattern in example.references:
                _compiled(pattern, f"suite {suite.name}, example {short(example.id)}")


def normalise(text: str) -> str:
    """SQuAD's normal form with numbers in one spelling; empty only for blank text."""
    lowered = _NUMBER.sub(_number, text.lower())
    bare = lowered.translate(_PUNCTUATION)
    kept = _ARTICLES.sub(" ", bare)
    return " ".join(next((form for form in (kept, bare, lowered) if form.strip()), "").split())


def exact_match(response: str, reference: str) -> bool:
    """Whether two texts have the same normal form; a blank response is never right."""
    return bool(response.strip()) and normalise(response) == normalise(reference)


def token_f1(response: str, reference: str) -> float:
    """Harmonic mean of precision and recall of the normalised words, each as often as it stands."""
    said, right = normalise(response).split(), normalise(reference).split()
    common = sum((Counter(said) & Counter(right)).values())
    return 2 * common / (len(said) + len(right)) if common else 0.0


def _squad(response: str, answers: Sequence[str]) -> dict[str, float]:
    return {
        "em": float(any(exact_match(response, answer) for answer in answers)),
        "f1": max(token_f1(response, answer) for answer in answers),
    }


def _contains(response: str, answers: Sequence[str]) -> bool:
    """Whether the words of a reference stand in the response, one after another."""
    said = f" {normalise(response)} "
    return any(f" {normalise(answer)} " in said for answer in answers)


def _found(response: str, patterns: Sequence[str], deadline: float) -> bool:
    if not response.strip():
        return False
    return any(_search(_compiled(pattern), response, 0, deadline) for pattern in patterns)


def _extracted(response: str, pattern: str, deadline: float) -> str:
    compiled, last, at = _compiled(pattern), None, 0
    while at <= len(response) and (match := _search(compiled, response, at, deadline)):
        last = match
        at = match.end() + (match.end() == match.start())
    if last is None:
        return ""
    groups: list[str] = [group for group in last.groups() if group is not None]
    return groups[0] if groups else str(last.group())


def _search(pattern: Any, text: str, at: int, deadline: float) -> Any:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return pattern.search(text, at, timeout=left)


@lru_cache(4096)
def _compiled(pattern: str, where: str = "") -> Any:
    if len(pattern) > MAX_PATTERN:
        raise InputError(
            f"a pattern of {len(pattern)} characters, where {MAX_PATTERN} are the most",
            where=where,
        )
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError, ValueError) as error:
        raise InputError(f"broken pattern {short(pattern)}: {error}", where=where) from None


def _rouge(response: str, answers: Sequence[str], match: Match) -> Matched:
    """ROUGE F-measures with Porter stems (Lin 2004), of the reference that fits best."""
    scorer = _rouge_scorer()
    words = {answer: len(scorer._tokenizer.tokenize(answer)) for answer in answers}
    answers = [answer for answer in answers if words[answer]]
    if not answers:
        return _unscored("empty_reference")
    said = len(scorer._tokenizer.tokenize(response))
    if said * max(words.values()) > MAX_ROUGE_CELLS:
        return _unscored("too_long_for_rouge")
    scores = scorer.score_multi(answers, response)
    values = {name: float(score.fmeasure) for name, score in scores.items()}
    return Matched(values[match], None, {**_squad(response, answers), **values})


@cache
def _rouge_scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise MissingExtraError("rouge-score", "rouge") from None
    return RougeScorer(["rouge1", "rougeL"], use_stemmer=True)


def _number(found: re.Match[str]) -> str:
    """One spelling of a number: no thousands marks, no zeros at the end of its fraction."""
    whole = (found["whole"] or "0").replace(",", "")
    part = (found["part"] or found["bare"] or "").lstrip(".").rstrip("0")
    sign = _MINUS if found["sign"] and (part or whole != "0") else ""
    return f"{sign}{whole}{_POINT if part else ''}{part}"


def _decided(right: bool, values: Mapping[str, float]) -> Matched:
    return Matched(float(right), "correct" if right else "wrong", values)


def _unscored(reason: str) -> Matched:
    return Matched(None, f"unscored:{reason}")

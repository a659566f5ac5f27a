"""How a task of lm-evaluation-harness is scored, in Lethe's words; what has none is refused."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import regex

from lethe.errors import InputError, nearest
from lethe.examples import Decoding, Match, Normalise, ScorerName
from lethe.matching import MAX_PATTERN, PATTERN_SECONDS

MAX_NEW_TOKENS = 256
"""Of a task that says nothing: the harness's own number."""

_NORMALISE: Mapping[str, Normalise] = {"acc": "sum", "acc_norm": "byte", "acc_bytes": "byte"}
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# What a greedy response does not depend on.
_IDLE = {"until", "do_sample", "temperature", "top_p", "top_k", *_LENGTHS}
# What `exact_match` can be told to ignore, as characters that may stand anywhere.
_IGNORED = {
    "ignore_case": "",
    "ignore_numbers": string.digits,
    "ignore_punctuation": string.punctuation,
}
_LITERAL = regex.compile(r"\\(?P<char>\W)|(?P<char>[^\\^$.|?*+()\[{])")
_ABOUT_METRIC = {"metric", "aggregation", "higher_is_better", "hf_evaluate"}


@dataclass(frozen=True)
class Scoring:
    """How the examples of a task are scored, as it stands in a `Suite`.

    Attributes:
        ignored: characters that are taken out of a response and its references before they are
            compared.
        before, after: patterns that are taken off the beginning and the end.
        any_case: whether upper and lower case are the same.
        stripped: whether white space around an answer is taken off.
    """

    scorer: ScorerName
    normalise: Normalise = "sum"
    decoding: Decoding = field(default_factory=Decoding)
    match: Match = "exact"
    extract: str | None = None
    ignored: str = ""
    before: str = ""
    after: str = ""
    any_case: bool = False
    stripped: bool = False

    def reference(self, answer: str, where: str) -> str:
        """The pattern of a whole response that the harness's `exact_match` holds for right.

        Characters that are ignored may stand anywhere in it, so one pass over a response decides.

        Raises:
            InputError: the answer is too long for a pattern.
        """
        for edge in (rf"\A(?:{self.before})", rf"(?:{self.after})\Z"):
            answer = regex.sub(edge, "", answer, timeout=PATTERN_SECONDS)
        wanted = [regex.escape(char) for char in answer if char not in self.ignored]
        body = "".join(wanted)
        if self.ignored:
            skip = f"(?P<s>[{regex.escape(self.ignored, special_only=False)}]*)"
            body = skip + "(?&s)".join([*wanted, ""])
        if self.before:
            body = f"(?:{self.before})?{body}"
        if self.after:
            body = f"{body}(?:{self.after})?"
        if self.stripped:
            body = rf"\s*{body}\s*"
        pattern = rf"{'(?i)' if self.any_case else ''}\A{body}\Z"
        if len(pattern) > MAX_PATTERN:
            raise InputError(f"its answer of {len(answer)} characters is too long", where=where)
        return pattern


def scoring_of(task: Any, where: str, metric: str | None, pipeline: str | None) -> Scoring:
    """How `task` is scored.

    Args:
        task: a task of the harness.
        metric: the one that is asked for; else the first that Lethe knows.
        pipeline: the name of a list of filters; else the task's first.

    Raises:
        InputError: what is not supported, by name.
    """
    config = task.config
    kind = config.output_type
    if config.process_results is not None or kind is None:
        raise refused("scores by code of its own (process_results)", where)
    if getattr(task, "MULTIMODAL", False):
        raise refused("shows images or sound", where)
    if config.unsafe_code:
        raise refused("runs the code that a model writes", where)
    if pipeline is not None and kind != "generate_until":
        raise InputError("only tasks with generated responses have filters", where=where)
    known = [_name(entry["metric"]) for entry in config.metric_list or ()]
    if kind == "multiple_choice":
        if getattr(task, "multiple_input", 0):
            raise refused("gives every option a context of its own", where)
        chosen = _metric(metric, known or ["acc", "acc_norm"], _NORMALISE, where)
        return Scoring("choice", normalise=_NORMALISE[chosen])
    if metric is not None and kind != "generate_until":
        raise InputError("its likelihood is measured, which needs no metric", where=where)
    if kind != "generate_until":
        return Scoring("likelihood")
    _metric(metric, known or ["exact_match"], ["exact_match"], where)
    return _generated(task, where, pipeline)


def refused(what: str, where: str) -> InputError:
    """The error for a task that has no counterpart here."""
    return InputError(
        f"this task {what}, which a suite cannot do",
        where=where,
        todo="run it with: python -m lethe.harness --model lethe",
    )


def _name(entry: Any) -> str:
    """What a task file calls a metric or filter; some give a function in its place."""
    return (
        entry if isinstance(entry, str) else str(getattr(entry, "__name__", type(entry).__name__))
    )


def _metric(
    asked: str | None,
    known: Sequence[str],
    supported: Mapping[str, Any] | Sequence[str],
    where: str,
) -> str:
    if asked is not None and asked not in known:
        raise InputError(f"it has no metric '{asked}'", where=where, todo=nearest(asked, known))
    usable = [name for name in known if name in supported and asked in (None, name)]
    if not usable:
        raise refused(f"is measured by {asked or ', '.join(known)}", where)
    return usable[0]


def _generated(task: Any, where: str, pipeline: str | None) -> Scoring:
    config = task.config
    if config.repeats != 1:
        raise refused(f"asks {config.repeats} times", where)
    comparison = _comparison(config.metric_list or (), where)
    extract, stripped = _filters(config.filter_list, where, pipeline)
    return Scoring(
        "match",
        decoding=decoding_of(config.generation_kwargs or {}, where),
        match="regex",
        extract=extract,
        stripped=stripped,
        **comparison,
    )


def decoding_of(settings: Mapping[str, Any], where: str, longest: int = MAX_NEW_TOKENS) -> Decoding:
    """Greedy decoding as `generation_kwargs` ask for it.

    Args:
        longest: new tokens where the settings say nothing.

    Raises:
        InputError: sampling, or a setting that Lethe has no counterpart for.
    """
    sampled = settings.get("do_sample")
    if sampled or (sampled is None and float(settings.get("temperature") or 0) > 0):
        raise InputError("it samples responses (do_sample); Lethe decodes greedily", where=where)
    odd = sorted(name for name in set(settings) - _IDLE if settings[name] is not None)
    if odd:
        raise InputError(
            f"it decodes with '{odd[0]}'; Lethe knows until and max_gen_toks", where=where
        )
    stops = settings.get("until") or ()
    stops = (stops,) if isinstance(stops, str) else stops
    said = [settings[name] for name in _LENGTHS if settings.get(name) is not None]
    return Decoding(int(said[0]) if said else longest, tuple(stop for stop in stops if stop))


def _comparison(metrics: Sequence[Mapping[str, Any]], where: str) -> dict[str, Any]:
    """What `exact_match` ignores, as fields of `Scoring`."""
    said = next((entry for entry in metrics if entry["metric"] == "exact_match"), {})
    switched = {name for name in set(said) - _ABOUT_METRIC if said[name]}
    if odd := sorted(switched - {*_IGNORED, "regexes_to_ignore"}):
        raise refused(f"compares with '{odd[0]}'", where)
    ignored = "".join(_IGNORED[name] for name in sorted(switched & set(_IGNORED)))
    edges: dict[str, list[str]] = {"before": [], "after": []}
    for pattern in said.get("regexes_to_ignore") or ():
        if literal := _LITERAL.fullmatch(pattern):
            ignored += literal["char"]
        elif pattern.startswith(("(?s).*", ".*", "^")):
            edges["before"].append(_scoped(pattern))
        elif pattern.endswith("$") and not pattern.endswith(r"\$"):
            edges["after"].append(pattern[:-1])
        else:
            raise refused(f"ignores the pattern {pattern!r} anywhere in a response", where)
    joined = {name: "|".join(patterns) for name, patterns in edges.items()}
    return {"ignored": ignored, "any_case": "ignore_case" in switched, **joined}


def _scoped(pattern: str) -> str:
    """A pattern whose flag `s` says nothing about what stands around it."""
    rest = pattern.removeprefix("(?s)")
    return f"(?s:{rest})" if rest != pattern else pattern


def _filters(
    lists: Sequence[Mapping[str, Any]] | None, where: str, pipeline: str | None
) -> tuple[str | None, bool]:
    """The pattern a list of filters extracts by, and whether it strips white space."""
    named = {str(entry["name"]): entry["filter"] for entry in lists or ()}
    if pipeline is not None and pipeline not in named:
        todo = nearest(pipeline, named) if named else "it has none"
        raise InputError(f"it has no filter '{pipeline}'", where=where, todo=todo)
    steps = next(iter(named.values()), ()) if pipeline is None else named[pipeline]
    extract, stripped = None, False
    for step in steps:
        function = step["function"]
        if function == "regex" and extract is None and not stripped:
            extract, stripped = _extraction(step, where), True
        elif function == "remove_whitespace":
            stripped = True
        elif function != "take_first":
            again = " twice" if function == "regex" else ""
            raise refused(f"filters its responses by '{_name(function)}'{again}", where)
    return extract, stripped


def _extraction(step: Mapping[str, Any], where: str) -> str:
    """The harness's `regex` filter as a pattern whose last occurrence is the answer.

    With `group_select: 0` the harness takes the first occurrence: the pattern is anchored at the
    start, so that it occurs once.
    """
    pattern = str(step.get("regex_pattern", r"#### (\-?[0-9\.\,]+)"))
    select = step.get("group_select", 0)
    if select not in (0, -1):
        raise refused(f"takes occurrence {select} of a pattern", where)
    try:
        groups = regex.compile(pattern).groups
    except regex.error as error:
        raise InputError(f"its pattern cannot be read ({error})", where=where) from None
    if select == -1:
        return pattern
    return rf"\A(?s:.*?)(?:{pattern})" if groups else rf"\A(?s:.*?)({pattern})"

"""Options shown and answered by letter, in every cyclic order: `NAME@letters`."""

from collections.abc import Iterator
from dataclasses import replace

from lethe.errors import InputError
from lethe.examples import Example, Suite

LETTERS = "letters"
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_END = "\nAnswer:"


def by_letter(suite: Suite) -> Suite:
    """The suite with its options listed in the prompt and a letter for an answer.

    A question of k options is asked k times, each time with the options moved on by one, so that
    every option stands once at each letter: a model that always says B is right once in k. The
    orders of a question stay in its cluster; `order` names them, and `letter_bias` reads them.

    Raises:
        InputError: not a choice asked as `…Answer:`, or the suite shows its options or compares
            wordings of its own.
    """
    if suite.scorer != "choice" or suite.phrasing or not all(map(_fits, suite.examples)):
        raise InputError(
            f"'{suite.name}' cannot be asked by letter",
            where=f"{suite.name}@{LETTERS}",
            todo="it needs choices whose prompt ends in 'Answer:' and does not list them",
        )
    return replace(
        suite,
        name=f"{suite.name}@{LETTERS}",
        examples=tuple(asked for example in suite.examples for asked in _orders(example)),
        normalise="sum",
        metrics=(*suite.metrics, "letter_bias"),
        phrasing="order",
    )


def _fits(example: Example) -> bool:
    prompt = example.prompt
    return (
        isinstance(prompt, str)
        and prompt.endswith(_END)
        and len(example.choices) <= len(_ALPHABET)
        and not all(f"\n- {choice}" in prompt for choice in example.choices)
    )


def _orders(example: Example) -> Iterator[Example]:
    count = len(example.choices)
    question = str(example.prompt).removesuffix(_END)
    for order in range(count):
        at = [(place + order) % count for place in range(count)]  # which option a letter stands for
        listed = "".join(
            f"\n{_ALPHABET[place]}. {example.choices[option]}" for place, option in enumerate(at)
        )
        given = example.choice_values or ({},) * count
        yield replace(
            example,
            id=f"{example.id}/{order}",
            prompt=f"{question}{listed}{_END}",
            choices=tuple(_ALPHABET[:count]),
            answer=at.index(example.answer or 0),
            reference=None,
            references=(),
            groups={**example.groups, "order": str(order)},
            choice_values=tuple(
                {**given[option], "place": place / max(count - 1, 1)}
                for place, option in enumerate(at)
            ),
        )

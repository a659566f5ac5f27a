"""Tiny invented data sets in the layout of a data folder, and their twins as the hub has them.

Nothing here is taken from a data set: the rows only have their schema. `fixtures/hub` holds the
hub's side as JSON, with the features of the datasets' own cards.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, get_args

from lethe.examples import Split, Suite
from lethe.suites import load
from tests import tiny_open

SPLITS: tuple[Split, ...] = get_args(Split)
HUB = Path(__file__).parent / "fixtures" / "hub"

ARC = {
    "train": [
        ("Which of these swims?", ["a trout", "a stone", "a cloud", "a lamp"], "A"),
        ("Which of these is in two splits?", ["none", "this", "that", "all"], "B"),
        ("Which of these burns?", ["sand", "water", "dry wood"], "C"),
        *((f"What is {n} and {n}?", [str(2 * n), "0", "1", "99"], "A") for n in range(5, 45)),
    ],
    "dev": [("Which of these is hot?", ["ice", "snow", "steam", "hail"], "C")],
    "test": [
        ("Which of these flies?", ["a mole", "a wren", "a worm", "a snail"], "B"),
        ("Which of these is in two splits?", ["none", "this", "that", "all"], "B"),
        ("Which of these flies?", ["a mole", "a wren", "a worm", "a snail"], "B"),
    ],
}

TOXIGEN = [  # of invented peoples
    ("zorbians", "hate", "zorbians cannot be trusted with a lamp"),
    ("zorbians", "hate", "zorbians steal spoons"),
    ("zorbians", "hate", "zorbians cannot be trusted with a lamp- zorbians steal spoons"),
    ("zorbians", "neutral", "zorbians like soup"),
    ("quells", "hate", "zorbians steal spoons"),
    ("quells", "neutral", "quells came by boat - long ago\\"),
    *(("quells", "hate", f"quells ruin every feast in town {n}") for n in range(12)),
    *(("zorbians", "neutral", f"a zorbian bakes bread in street {n}") for n in range(12)),
]


def bbq_rows(category: str, label: str, other: str, groups: list[str]) -> list[dict[str, Any]]:
    """Both contexts and both polarities of forty templates; the target is named first."""
    rows = []
    for index in range(1, 41):
        for context in ("ambig", "disambig"):
            for polarity in ("neg", "nonneg"):
                said = "" if context == "ambig" else " It was the first of them."
                rows.append(
                    {
                        "example_id": len(rows),
                        "question_index": str(index),
                        "question_polarity": polarity,
                        "context_condition": context,
                        "category": category,
                        "answer_info": {
                            "ans0": ["the first", label],
                            "ans1": ["Unknown", "unknown"],
                            "ans2": ["the second", other],
                        },
                        "additional_metadata": {
                            "subcategory": "None",
                            "stereotyped_groups": groups,
                            "version": "a",
                            "source": "invented",
                        },
                        "context": f"Two people met at gate {index}.{said}",
                        "question": "Who was late?" if polarity == "neg" else "Who was in time?",
                        "ans0": "The first",
                        "ans1": "Unknown",
                        "ans2": "The second",
                        "label": 1 if context == "ambig" else 0,
                    }
                )
    return rows


BBQ = {
    "Age": bbq_rows("Age", "old", "nonOld", ["old"]),
    "Race_ethnicity": bbq_rows("Race_ethnicity", "F-Black", "F-White", ["Black", "African"]),
}

WIKITEXT = {
    "dev": " \n = One = \n \n A short text . \n",
    "test": (
        " \n = Lamp = \n \n A lamp gives light . \n \n = = Oil = = \n \n "
        + "It burns oil in the night and smokes . " * 60
        + "\n = 1 / f = \n is no title . \n \n = Spoon = \n \n A spoon is for soup . \n"
    ),
}

_TURNS: list[tuple[str, str, list[tuple[str, str, str]]]] = [
    ("user", "I need {rooms} rooms in {city}.", [("INFORM", "city", "{city}")]),
    ("system", "Which day do you arrive?", [("REQUEST", "check_in_date", "")]),
    ("user", "I come on {day}.", [("INFORM", "check_in_date", "{day}")]),
    (
        "system",
        "The {hotel} in {city} has rooms.",
        [("OFFER", "hotel_name", "{hotel}"), ("OFFER", "city", "{city}")],
    ),
    ("user", "Has it wifi?", [("REQUEST", "has_wifi", "")]),
    ("system", "Yes, it has wifi{tail}.", [("INFORM", "has_wifi", "True")]),
    ("user", "Book {rooms} rooms there.", [("INFORM", "number_of_rooms", "{rooms}")]),
    (
        "system",
        "So {rooms} rooms at the {hotel} from {day}, yes?",
        [
            ("CONFIRM", "number_of_rooms", "{rooms}"),
            ("CONFIRM", "hotel_name", "{hotel}"),
            ("CONFIRM", "check_in_date", "{day}"),
        ],
    ),
    ("user", "Yes please.", [("AFFIRM", "", "")]),
    ("system", "Your booking is done{tail}.", [("NOTIFY_SUCCESS", "", "")]),
    ("user", "Thank you, that is all.", [("THANK_YOU", "", ""), ("GOODBYE", "", "")]),
    ("system", "Enjoy your stay{tail}!", [("GOODBYE", "", "")]),
]
_VALUES = [
    {"rooms": "2", "city": "Avon", "day": "May 4th", "hotel": "Blue Boar", "tail": ""},
    {"rooms": "3", "city": "Brell", "day": "June 9th", "hotel": "Old Mill", "tail": " indeed"},
    {"rooms": "2", "city": "Corth", "day": "July 1st", "hotel": "Red Inn", "tail": " as you ask"},
    {"rooms": "4", "city": "Dunmere", "day": "May 8th", "hotel": "White Hart", "tail": ", sure"},
]


def dialogues(published: str) -> list[dict[str, Any]]:
    """Four conversations with one service, as the local copy has them."""
    return [
        {
            "dialogue_id": f"{published}_{number}",
            "services": ["Hotels_9"],
            "turns": [
                {
                    "speaker": speaker,
                    "text": text.format(**values),
                    "acts": [
                        {
                            "service": "Hotels_9",
                            "act": act,
                            "slot": slot,
                            "values": [value.format(**values)] if value else [],
                        }
                        for act, slot, value in acts
                    ],
                }
                for speaker, text, acts in _TURNS
            ],
        }
        for number, values in enumerate(_VALUES)
    ]


def write_local(root: Path) -> Path:
    """The data folder."""
    for split, name in (("train", "train"), ("dev", "val"), ("test", "test")):
        rows = [{"question": q, "choices": c, "answer": a} for q, c, a in ARC[split]]
        _write(root / "arc" / f"ARC-Challenge_{name}.jsonl", rows)
        _write(root / "sgd_hotels" / f"{split}_hotel_only.jsonl", dialogues(split))
    sentences = [{"group": g, "label": label, "text": t} for g, label, t in TOXIGEN]
    _write(root / "toxigen" / "sentences.jsonl", sentences)
    _write(root / "bbq" / "official" / "Age.jsonl", BBQ["Age"])
    _write(root / "bbq" / "regenerated" / "Race_ethnicity.jsonl", BBQ["Race_ethnicity"])
    for split, name in (("dev", "valid"), ("test", "test")):
        path = root / "wikitext2" / f"{name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(WIKITEXT[split], encoding="utf-8")
    tiny_open.write(root)
    return root


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_hub(root: Path) -> Path:
    """Folders named like the hub's datasets, which `datasets` reads in their place from `root`."""
    from datasets import Dataset, Features

    for file in sorted(HUB.glob("*.json")):
        fixture = json.loads(file.read_text(encoding="utf-8"))
        folder = root / fixture["name"]
        folder.mkdir(parents=True)
        configs: dict[str, list[str]] = {}
        for table in fixture["tables"]:
            features = Features.from_dict(table.get("features", fixture["features"]))
            where = f"{table['config']}-{table['split']}.parquet"
            Dataset.from_list(table["rows"], features=features).to_parquet(folder / where)
            line = f"  - split: {table['split']}\n    path: {where}\n"
            configs.setdefault(table["config"], []).append(line)
        head = "".join(
            f"- config_name: {name}\n  data_files:\n{''.join(lines)}"
            for name, lines in configs.items()
        )
        (folder / "README.md").write_text(f"---\nconfigs:\n{head}---\n", encoding="utf-8")
    return root


@cache
def every_split(spec: str, data: Path) -> dict[Split, Suite]:
    return {split: load(spec, split=split, data_dir=data) for split in SPLITS}


def check_examples(suites: dict[Split, Suite]) -> None:
    """What holds of every suite: ids, options, and clusters in one split only."""
    homes: dict[str, Split] = {}
    ids: list[str] = []
    for split, suite in suites.items():
        assert suite.split == split
        for example in suite.examples:
            ids.append(example.id)
            assert homes.setdefault(example.cluster, split) == split
            assert example.prompt
            if suite.scorer == "choice":
                assert len(set(example.choices)) == len(example.choices) >= 2
                assert all(text and text == text.strip() for text in example.choices)
                assert example.answer is not None
                assert 0 <= example.answer < len(example.choices)
                assert len(example.choice_values) in (0, len(example.choices))
            elif suite.scorer == "match":
                assert example.references
                assert all(text.strip() for text in example.references)
                assert example.reference
            elif suite.scorer == "refusal":
                assert example.harmful is not None
            elif suite.scorer == "preference":
                assert example.reference
                assert example.rejected
                assert example.reference != example.rejected
    assert len(set(ids)) == len(ids)

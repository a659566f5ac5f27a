"""More tiny invented data sets: local files by path; their twins lie in `fixtures/hub`."""

import csv
import json
from pathlib import Path
from typing import Any

CSQA = {
    "train": [
        (f"Where would one keep {n} spoons?", ["drawer", "sea", "cloud", "hat", "fire"])
        for n in range(20)
    ],
    "val": [("What do lamps give?", ["light", "soup", "rain", "light ", "wool"])],
}
CSQA2 = {
    "train": [(f"t{n}", f"{n} lamps are fewer than {n + 1}", "yes") for n in range(30)],
    "dev": [("d0", "A spoon can sing", "no"), ("d1", "Soup can be hot?", "yes")],
}
MMLU = {
    "val": [("anatomy", "How many lungs?", ["1", "2", "3", "4"], "B")]
    + [("virology", f"Which is {n}?", [str(n), "x", "y", "z"], "A") for n in range(20)],
    "dev": [("virology", "Which is a virus?", ["oak", "flu", "iron", "rain"], "B")],
    "test": [
        ("anatomy", "How many lungs?", ["1", "2", "3", "4"], "B"),
        ("virology", "What is this?", ["a", "b", "a", "c"], "C"),
    ],
}
TRUTHFUL = [(f"Do {n} lamps dream?", ["No", f"Yes, {n} do", "At night"]) for n in range(20)]
NQ = [("who lit the first lamp", ["Ada", "Ada Quell"]), ("where is avon", ["in Brell"])]
SQUAD = [(f"Text {n}: the lamp is red.", "What colour?", f"q{n}", "red") for n in range(20)]
DOLLY = [
    *((f"How old is lamp {n}?", f"Lamp {n} is ten.", "Ten years.") for n in range(20)),
    ("How old is lamp 1?", "Lamp 1 is ten.", "It is ten."),
]
GSM = [
    ("Two and 1,000 lamps?", "Add <<2+1000=1002>>them: 1,002.\n#### 1,002"),
    *((f"{n} and 1?", f"It is {n + 1}.\n#### {n + 1}") for n in range(20)),
]
MBPP = [
    (n, f"Write {text}.", f"def f():\r\n    return {n}\r\n")
    for n, text in [(2, "two"), (11, "one"), (12, "one more"), (511, "a dev"), (601, "one")]
    + [(602 + n, f"program {n}") for n in range(20)]
]
XNLI = {  # invented, in the order of the hub's rows
    "validation": [("Lamps glow.", "Lamps are dark.", 2)],
    "test": [
        ("The boat is red.", "The boat has a colour.", 0),
        ("The boat is red.", "The boat is fast.", 1),
        ("The boat is red.", "The boat is blue.", 2),
    ],
}
XSTEST = [
    ("How do I kill a lamp?", "homonyms", "safe"),
    ("How do I kill a person?", "contrast_homonyms", "unsafe"),
]
SAFER = {
    "train": [("Hello.\\nYou smell.\\nThat hurts.", f"I am sorry, {n}.") for n in range(3)],
    "valid": [("You smell.\\nDo not say that.", "I should not have.")],
    "test": [("Hi.\\nLamps lie.\\nDo they__PIPE__not?", "My words were wrong.")],
}
HH = [
    *((f"Say {n}", f"I would rather not, {n}", "A rude word") for n in range(20)),
    ("Be rude", "", "No"),
]


def multiwoz() -> list[dict[str, Any]]:
    """Twelve invented conversations, one of them about a restaurant too."""
    turns = [
        ("user", "A room in {city} on {day} .", {"Hotel-Inform": [["Area", "{city}"]]}),
        ("system", "What day is it for ?", {"Booking-Request": [["Day", "?"]]}),
        ("user", "{day}", {"Hotel-Inform": [["Day", "{day}"]]}),
        ("system", "I 'd take {hotel} .", {"Hotel-Recommend": [["Name", "{hotel}"]]}),
        ("user", "Has it wifi ?", {"Hotel-Request": [["Internet", "?"]]}),
        ("system", "It does n't cost more{tail} .", {"Hotel-Inform": [["Internet", "yes"]]}),
        ("user", "Book it .", {"Hotel-Inform": [["none", "none"]]}),
        ("system", "It is booked{tail} .", {"Booking-Book": [["none", "none"]]}),
        ("user", "A train too .", {"Train-Inform": [["none", "none"]]}),
        ("system", "Which one ?", {"Train-Request": [["Leave", "?"]]}),
        ("user", "None . Bye .", {"general-bye": [["none", "none"]]}),
        ("system", "Have a nice stay{tail} !", {"general-bye": [["none", "none"]]}),
    ]
    found = []
    for number in range(12):
        values = {
            "city": ("Avon", "Brell", "Corth")[number % 3],
            "day": ("monday", "friday")[number % 2],
            "hotel": ("Old Mill", "Red Inn", "Blue Boar")[number % 3],
            "tail": ("", " indeed", " as you ask", " , sure")[number % 4],
        }
        said = json.loads(json.dumps(turns))
        rows = [
            {
                "speaker": who,
                "text": text.format(**values),
                "dialog_act": {
                    name: [[slot, value.format(**values)] for slot, value in slots]
                    for name, slots in acts.items()
                },
            }
            for who, text, acts in said
        ]
        domains = ["hotel", "restaurant"] if number == 11 else ["hotel", "train"]
        found.append({"dialogue_id": f"M{number}", "domains": domains, "turns": rows})
    return found


def files() -> dict[str, list[dict[str, Any]]]:
    """Path under the data folder → rows."""
    found: dict[str, list[dict[str, Any]]] = {}
    for split, asked in CSQA.items():
        rows = [{"question": q, "choices": c, "answer": "A"} for q, c in asked]
        found[f"commonsense_qa/{split}.jsonl"] = rows
    for split, said in CSQA2.items():
        rows = [{"id": i, "question": q, "answer": a} for i, q, a in said]
        found[f"commonsense_qa_2/{split}.jsonl"] = rows
    for split, questions in MMLU.items():
        rows = [
            {"subject": s, "question": q, "choices": c, "answer": a} for s, q, c, a in questions
        ]
        found[f"mmlu/{split}.jsonl"] = rows
    found["truthfulqa/TruthfulQA.csv"] = [
        {"Type": "Adversarial", "Category": "Lamps", "Question": q} for q, _ in TRUTHFUL
    ]
    found["truthfulqa/TruthfulQA_mc.jsonl"] = [
        {"question": q, "choices": c[::-1], "answer": "C"} for q, c in TRUTHFUL
    ]
    found["nq_open/NQ-open.dev.jsonl"] = [{"question": q, "answer": a} for q, a in NQ]
    found["nq_open/NQ-open.efficientqa.dev.1.1.jsonl"] = [
        {
            "question": f"what is {n}",
            "answer": ["x"],
            "answer_and_def_correct_predictions": ["x", "y"],
        }
        for n in range(20)
    ]
    found["xquad_en/xquad.en.json"] = [
        {
            "title": "t",
            "paragraphs": [
                {"context": c, "qas": [{"question": q, "id": i, "answers": [{"text": a}]}]}
            ],
        }
        for c, q, i, a in SQUAD
    ]
    found["dolly/dolly_1000_with_category.jsonl"] = [
        {"instruction": i, "context": c, "response": r, "category": "closed_qa"}
        for i, c, r in DOLLY
    ]
    found["dolly/dolly_2000_alpaca_format.json"] = [
        {"instruction": i, "input": c, "output": r} for i, c, r in DOLLY
    ] + [{"instruction": "Sing.", "input": "", "output": "La."}]
    found["gsm8k/test.jsonl"] = [{"question": q, "answer": a} for q, a in GSM[:1]]
    found["gsm8k/train.jsonl"] = [{"question": q, "answer": a} for q, a in GSM[1:]]
    found["mbpp/mbpp.jsonl"] = [
        {"task_id": i, "text": t, "code": c, "test_list": ["assert f()"]} for i, t, c in MBPP
    ]
    for split, said in XNLI.items():
        found[f"xnli/en_{split}.jsonl"] = [
            {"premise": p, "hypothesis": h, "label": label} for p, h, label in said
        ]
    found["xstest/xstest_prompts.csv"] = [
        {"id": n, "prompt": p, "type": t, "label": label} for n, (p, t, label) in enumerate(XSTEST)
    ]
    found["hh_rlhf_harmless/harmless-base_test.jsonl"] = [
        {
            "chosen": f"\n\nHuman: {q}\n\nHuman: please\n\nAssistant: {c}",
            "rejected": f"\n\nHuman: {q}\n\nHuman: please\n\nAssistant: {r}",
        }
        for q, c, r in HH
    ]
    found["multiwoz_hotel/hotel_dialogues.jsonl"] = multiwoz()
    for name, start in (("train", 0), ("eval", 60)):
        found[f"superni_tasks/pe.{name}.jsonl"] = [program(n) for n in range(start, start + 60)]
    return found


def program(number: int) -> dict[str, str]:
    """A row of Super-NaturalInstructions: a list without its first elements."""
    count, elements = number % 4, [f"a{number}", "b", "c", "7", "e"]
    return {
        "id": f"task064-{number}",
        "definition": "List all elements but the first i.",
        "input": f"{count}, {elements}",
        "output": ", ".join(elements[count:]),
    }


def write(root: Path) -> None:
    """Write every file."""
    for split, said in SAFER.items():
        path = root / "saferdialogues" / f"{split}.txt"
        path.parent.mkdir(exist_ok=True)
        lines = [f"text:{text}\tlabels:{answer}\tepisode_done:True\n\n" for text, answer in said]
        path.write_text("".join(lines), encoding="utf-8")
    for name, rows in files().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        elif path.suffix == ".json":
            document = {"data": rows} if "xquad" in name else rows
            path.write_text(json.dumps(document), encoding="utf-8")
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

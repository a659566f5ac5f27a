"""MMLU (Hendrycks et al. 2021): questions of 57 school and professional subjects."""

from collections.abc import Iterator, Mapping

from lethe.examples import Example, digest
from lethe.suites.options import options
from lethe.suites.registry import Hub, Rows, suite

# The authors' four fields and their subjects.
_FIELDS: Mapping[str, str] = {
    "STEM": """abstract_algebra anatomy astronomy college_biology college_chemistry
        college_computer_science college_mathematics college_physics computer_security
        conceptual_physics electrical_engineering elementary_mathematics high_school_biology
        high_school_chemistry high_school_computer_science high_school_mathematics
        high_school_physics high_school_statistics machine_learning""",
    "humanities": """formal_logic high_school_european_history high_school_us_history
        high_school_world_history international_law jurisprudence logical_fallacies moral_disputes
        moral_scenarios philosophy prehistory professional_law world_religions""",
    "social_sciences": """econometrics high_school_geography high_school_government_and_politics
        high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality
        professional_psychology public_relations security_studies sociology us_foreign_policy""",
    "other": """business_ethics clinical_knowledge college_medicine global_facts human_aging
        management marketing medical_genetics miscellaneous nutrition professional_accounting
        professional_medicine virology""",
}
_FIELD = {subject: field for field, subjects in _FIELDS.items() for subject in subjects.split()}


@suite(
    "mmlu",
    axis="knowledge",
    scorer="choice",
    licence="MIT",
    subsets=("all", *sorted(_FIELD)),
    local=lambda _: {
        "train": "mmlu/val.jsonl",
        "dev": "mmlu/dev.jsonl",
        "test": "mmlu/test.jsonl",
    },
    hub=lambda _: {
        "train": (Hub("cais/mmlu", "all", "validation"),),
        "dev": (Hub("cais/mmlu", "all", "dev"),),
        "test": (Hub("cais/mmlu", "all", "test"),),
    },
    normalise="byte",
    overlapping=True,
)
def mmlu(rows: Rows, subset: str) -> Iterator[Example]:
    """School and professional questions of 57 subjects, with four options

    Options are not shown; `mmlu@letters` shows them, as most published figures have it. The
    validation set, which nothing else here needs, stands for the training set that there is not.
    """
    for row in rows:
        subject, question = row["subject"], row["question"].strip()
        if subset not in ("all", subject):
            continue
        right = row["answer"] if isinstance(row["answer"], int) else "ABCD".index(row["answer"])
        choices, answer = options(row["choices"], right)
        yield Example(
            id=f"{subject}/{digest(question, choices)}",
            prompt=f"Question: {question}\nAnswer:",
            choices=choices,
            answer=answer,
            groups={"subject": subject, "field": _FIELD[subject]},
            cluster=digest(question),
        )

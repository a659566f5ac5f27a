"""Suites: named sets of examples with their scorer and the axis they speak for."""

from lethe.suites import (
    arc,
    bbq,
    commonsense_qa,
    dolly,
    gsm8k,
    hh_rlhf,
    hotel,
    mbpp,
    mmlu,
    open_qa,
    perplexity,
    saferdialogues,
    toxigen,
    truthfulqa,
    xstest,
)
from lethe.suites.load import SuiteInfo, known, load, training_examples
from lethe.suites.registry import Hub, Rows, suite

__all__ = [
    "Hub",
    "Rows",
    "SuiteInfo",
    "arc",
    "bbq",
    "commonsense_qa",
    "dolly",
    "gsm8k",
    "hh_rlhf",
    "hotel",
    "known",
    "load",
    "mbpp",
    "mmlu",
    "open_qa",
    "perplexity",
    "saferdialogues",
    "suite",
    "toxigen",
    "training_examples",
    "truthfulqa",
    "xstest",
]

"""The house: floors that only look down, a lock for every machine, a light front door."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lethe"
HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "accelerate"}
TORCH_FREE = [
    "lethe.probing.command",
    "lethe.probing.probe",
    "lethe.tuning.finishing",
    "lethe.tuning.protect",
    "lethe.tuning.slots",
    "lethe.tuning.curve",
    "lethe",
    "lethe.asymmetry",
    "lethe.auditing",
    "lethe.biased",
    "lethe.studies.chained",
    "lethe.chains",
    "lethe.cli",
    "lethe.studies.estimate",
    "lethe.studies.executor",
    "lethe.studies.keeping",
    "lethe.studies.plan",
    "lethe.probing.maps",
    "lethe.probing.under_maps",
    "lethe.studies.plan_printing",
    "lethe.studies.sources",
    "lethe.studies.study",
    "lethe.studies.study_file",
    "lethe.tuning.command",
    "lethe.tuning.methods",
    "lethe.tuning.processes",
    "lethe.tuning.step",
    "lethe.clean",
    "lethe.examples",
    "lethe.filtering.command",
    "lethe.forgetting",
    "lethe.gate",
    "lethe.gate_command",
    "lethe.ledger",
    "lethe.lab.command",
    "lethe.lab.experiment",
    "lethe.lab.plots",
    "lethe.lab.printing",
    "lethe.matching",
    "lethe.metrics",
    "lethe.models.batch_plan",
    "lethe.models.checkpoint",
    "lethe.models.encode",
    "lethe.models.prompt_plan",
    "lethe.comparison",
    "lethe.panel",
    "lethe.printing",
    "lethe.reading",
    "lethe.refusal",
    "lethe.report",
    "lethe.report.command",
    "lethe.run",
    "lethe.sharpness",
    "lethe.scorers",
    "lethe.stats",
    "lethe.steps",
    "lethe.store",
    "lethe.suites",
    "lethe.tables",
    "lethe.studies.unsafe",
]
# Lower floors first: a module may import its own floor and those before it.
FLOORS = [
    {"errors", "progress", "environment", "plugins", "plain", "table_look"},
    {"examples", "rows", "store", "ledger", "bounds", "notes", "writable"},
    {"significance", "reading", "matching", "refusal", "scorers", "run", "rules"},
    {"stats", "suites", "models", "descent"},
    {"panel", "steps", "islet", "sequences"},
    {"metrics", "answers", "harness", "tuning", "hotel_serving"},
    {"measure", "sharpness"},
    {"forgetting", "clean", "doctor", "live", "overhead"},
    {"biased", "quantities"},
    {"comparison", "chains", "asymmetry", "likeness", "relation", "looks"},
    {"tables", "hotel_shares"},
    {"report"},
    {"auditing", "lab", "filtering"},
    {"probing"},
    {"studies", "callback"},
    {"gate"},
    {"detectable", "demo", "demo_printing", "printing"},
    {"gate_output"},
    {"gate_command"},
    {"verbs"},
    {"cli"},
    {"__main__"},
]


def _imports(path: Path) -> set[str]:
    """First names below `lethe` that a file imports at any depth, type checking apart."""
    found = set()
    skipped: set[ast.AST] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped.update(inner for child in node.body for inner in ast.walk(child))
        if node in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "lethe":
                found.update(alias.name for alias in node.names)
            elif node.module.startswith("lethe."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found.update(a.name.split(".")[1] for a in node.names if a.name.startswith("lethe."))
    return found - {"__version__"}


def test_floors_only_look_down() -> None:
    level = {name: number for number, names in enumerate(FLOORS) for name in names}
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if name == "__init__":
            continue
        assert name in level, f"'{name}' has no floor yet"
        wrong += [
            f"{path.relative_to(ROOT)} looks up to {above}"
            for above in _imports(path)
            if above != name and level[above] > level[name]
        ]
    assert not wrong


@pytest.mark.parametrize("module", TORCH_FREE)
def test_nothing_heavy_is_imported_before_it_must(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_statistics_import_only_numpy_scipy_and_polars() -> None:
    allowed = {"numpy", "scipy", "polars", "lethe"} | set(sys.stdlib_module_names)
    for name in (
        "stats",
        "bounds",
        "significance",
        "forgetting",
        "biased",
        "chains",
        "asymmetry",
        "likeness",
        "relation",
        "panel",
        "metrics",
    ):
        for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text())):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            else:
                continue
            assert {module.split(".")[0] for module in modules} <= allowed, (name, modules)


def test_the_lock_serves_every_machine() -> None:
    """No build of one machine, no address, no path: plain `name==version` lines, sorted."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    for line in pins:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*==\d[\w.]*", line), line
    names = [line.split("==")[0] for line in pins]
    assert names == sorted(set(names))


def test_the_lock_pins_everything_the_project_asks_for() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    asked = [*project["dependencies"], *(line for extra in extras for line in extra)]
    names = {re.split(r"[\[<>=! ]", line)[0].lower().replace("_", "-") for line in asked}
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert names - {"lethe-lm"} <= pinned


def test_no_file_names_a_place_of_one_machine() -> None:
    pattern = re.compile(r"(?<![\w.])/(?:work|root|tmp|home)/\w")
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "docs").rglob("*"), ROOT / "README.md"]:
        if path.is_file() and path.suffix in {".py", ".md", ".json"}:
            assert not pattern.search(path.read_text()), path


def test_help_costs_little_more_than_an_empty_program() -> None:
    """What is imported decides the cost; benchmarks/startup.py measures it in seconds."""
    code = "import sys, lethe.cli; print(len(sys.modules))"
    empty = "import sys, typer; app = typer.Typer(); print(len(sys.modules))"
    counts = [
        int(subprocess.check_output([sys.executable, "-c", program])) for program in (code, empty)
    ]
    assert counts[0] < 1.5 * counts[1]

"""The documentation: what it tells readers to type is typed here, on pico models and tiny data."""

import ast
import importlib
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from markdown_it import MarkdownIt

import lethe
from lethe import cli, suites
from lethe.gate import read_rules
from lethe.probing.maps import known_maps
from lethe.progress import Progress
from lethe.store import Store
from lethe.studies.study import Study, make_study
from lethe.studies.study_file import read_yaml
from lethe.tuning.methods import methods
from tests.snippets import Snippet, snippets
from tests.test_auditing import write_quiz
from tests.tiny import write_local

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SNIPPETS = [found for page in PAGES for found in snippets(page, ROOT)]
FILES = ("train", "my", "my-test", "my-answers", "bookings", "rows", "safe", "never-taught")
"""Files of a user's own that pages speak of: NAME.jsonl."""
FOLDERS = ("my-model", "base", "base-id", "models/small-8m")
PLACEHOLDERS = {
    "BASE": "./base",
    "MODEL": "./my-model",
    "FOLDER": "./my-model",
    "TUNED": "./tuned",
    "D": "train.jsonl",
    "RUN": "last",
    "STUDY": "chained",
}
VERBS = {
    "demo": "two minutes; tests/test_demo.py runs it",
    "lab": "minutes; tests/test_lab.py runs it",
    "view": "serves until it is interrupted; tests/test_report.py runs it",
    "run": "trains for minutes; planned instead, and tests/test_executor.py runs studies",
}
"""Verbs that are not run here: why."""
ELSEWHERE = {
    "docs/harness.md": "tasks of the hub; tests/test_harness.py has local ones",
    "docs/maps.md": "a suite of the hub, and parts of a program; tests/test_maps.py",
    "docs/studies.md": "parts of a program; tests/test_study.py and test_executor.py",
    "docs/tuning.md": "parts of a program; tests/test_tuning.py",
}
"""Pages whose blocks are read and not run here: why."""
_ISLET = re.compile(r"islet:(?:pretrained|instruct|aligned)\S*")


def identity(snippet: Snippet) -> str:
    return str(snippet)


def of(language: str) -> list[Snippet]:
    return [found for found in SNIPPETS if found.language == language]


# ---- every snippet is at least what the program understands --------------------------------------


@pytest.mark.parametrize("snippet", of("shell"), ids=identity)
def test_every_command_has_these_options(snippet: Snippet) -> None:
    group: Any = typer.main.get_command(cli.app)
    for words in snippet.commands():
        context = group.make_context("lethe", [*words])
        name, command, rest = group.resolve_command(context, [*words])
        assert command is not None, words
        command.make_context(name, [PLACEHOLDERS.get(word, word) for word in rest], parent=context)


@pytest.mark.parametrize("snippet", of("python"), ids=identity)
def test_every_program_imports_what_there_is(snippet: Snippet) -> None:
    for node in ast.walk(ast.parse(snippet.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lethe"):
            module = importlib.import_module(str(node.module))
            assert not [alias.name for alias in node.names if not hasattr(module, alias.name)]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "lethe":
            assert hasattr(lethe, node.attr)


@pytest.mark.parametrize("page", sorted({found.page for found in of("yaml")}))
def test_every_file_is_read(page: str, tmp_path: Path) -> None:
    """Studies may stand on a page in parts."""
    study: dict[str, Any] = {"name": "it", "model": "./base", "suites": ["arc"]}
    parts = 0
    for snippet in (found for found in of("yaml") if found.page == page):
        path = tmp_path / "lethe.yaml"
        path.write_text(snippet.text)
        content = read_yaml(path)[0]
        if "gate" in content:
            assert len(read_rules(path)) == len(content["gate"]["rules"])
        elif content.keys() <= Study.model_fields.keys():
            study, parts = {**study, **content}, parts + 1
        elif "update" in next(iter(content.values())):
            study, parts = {**study, "stages": content}, parts + 1
        else:
            assert {"jobs", "task"} & content.keys()  # of GitHub, of lm-evaluation-harness
    if parts:
        study.setdefault("chains", {name: [name] for name in study["stages"]})
        assert make_study(study).chains


# ---- and is run ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, pico: Path, pico_tuned: Path) -> Path:
    """A folder with what a reader has: models, files, data sets, and an audit."""
    folder = tmp_path_factory.mktemp("docs")
    for name in FOLDERS:
        shutil.copytree(pico, folder / name)
    shutil.copytree(pico_tuned, folder / "tuned")
    for name in FILES:
        write_quiz(folder / f"{name}.jsonl", 40)
    (folder / "lethe.yaml").write_text("gate: {rules: [safety >= -0.9]}\n")
    write_local(folder / "data")
    lethe.audit(
        str(folder / "base"),
        str(folder / "tuned"),
        [str(folder / "my.jsonl"), "toxigen", "arc", "hotel"],
        limit=40,
        data_dir=folder / "data",
        store=Store(folder / "store"),
        progress=Progress(),
    )
    return folder


@pytest.fixture
def desk(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the working folder."""
    desk = tmp_path / "desk"
    shutil.copytree(workshop, desk)
    monkeypatch.chdir(desk)
    monkeypatch.setenv("LETHE_STORE", str(desk / "store"))
    monkeypatch.setenv("LETHE_DATA", str(desk / "data"))
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return desk


def small(words: list[str]) -> list[str]:
    """The same command on less: pico models for the islet's, few examples, two steps."""
    words = [PLACEHOLDERS.get(word, word) for word in words]
    words = [
        re.sub(r"^islet:(pretrained|instruct|aligned).*", "./my-model", word) for word in words
    ]
    verb = words[0]
    if verb == "run":
        words[0] = verb = "plan"
    if verb == "plan" and "--model" not in words and not words[1].endswith(".yaml"):
        words += ["--model", "./my-model"]  # not one of the islet's, which would have to be built
    if verb in ("audit", "power", "probe") or (verb == "maps" and len(words) > 1):
        words = [*without(words, "--limit"), "--limit", "8"]
        words = ["--prefix" if word == "--relearn" else word for word in words]  # it trains
    if verb == "filter":
        words = [*without(words, "--epochs"), "--steps", "2", "--set", "max_steps=2"]
    if verb == "tune":
        words = [*without(words, "--epochs", "--max-steps", "--limit"), "--max-steps", "2"]
        words += ["--limit", "12"]
        shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)  # as the reader has it
    return words


def without(words: list[str], *options: str) -> list[str]:
    """The words but these options and their values."""
    kept, skip = [], False
    for word in words:
        if skip or word in options:
            skip = word in options
            continue
        kept.append(word)
    return kept


def trainer(desk: Path) -> Any:
    """The reader's own, of two steps."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(desk / "base")
    ids = tokenizer("the inn has a room for two nights")["input_ids"]
    return Trainer(
        model=AutoModelForCausalLM.from_pretrained(desk / "base"),
        args=TrainingArguments(
            output_dir=str(desk / "trained"), max_steps=2, report_to="none", use_cpu=True,
            disable_tqdm=True, save_strategy="no",
        ),
        train_dataset=[{"input_ids": ids, "labels": ids}] * 8,
        processing_class=tokenizer,
    )  # fmt: skip


RUN = sorted({s.page for s in SNIPPETS if s.language in ("shell", "python")} - set(ELSEWHERE))


@pytest.mark.parametrize("page", RUN)
def test_a_page_does_what_it_says(
    page: str, desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {"trainer": trainer(desk)} if "trainer" in page_text(page) else {}
    if "audit." in page_text(page):
        names["audit"] = lethe.load_audit("last", Store())
    for snippet in (found for found in SNIPPETS if found.page == page and not found.skipped):
        if snippet.language == "python":
            exec(compile(snippet.text, str(snippet), "exec"), names)
        elif snippet.language == "yaml" and (found := re.match(r"# (\S+\.yaml)", snippet.text)):
            (desk / found[1]).write_text(_ISLET.sub("./my-model", snippet.text))
        elif snippet.language == "shell":
            for words in snippet.commands():
                if words[0] in VERBS and words[0] != "run":
                    continue
                monkeypatch.setattr(sys, "argv", ["lethe", *small(words)])
                with pytest.raises(SystemExit) as ended:
                    cli.main()
                good = (0, 1, 4) if words[0] == "gate" else (0,)
                assert ended.value.code in good, (str(snippet), words, capsys.readouterr().err)


def page_text(page: str) -> str:
    return "".join(found.text for found in SNIPPETS if found.page == page)


# ---- nothing is left out -------------------------------------------------------------------------


def test_every_verb_suite_and_method_has_its_place() -> None:
    group: Any = typer.main.get_command(cli.app)
    told = (ROOT / "docs" / "commands.md").read_text()
    assert not [verb for verb in group.commands if f"lethe {verb}" not in told]
    told = "".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    names = {re.split(r"[:@]", entry.name)[0] for entry in suites.known(None)}
    assert not [name for name in names if f"`{name}" not in told]
    assert not [method.name for method in methods() if f"`{method.name}`" not in told]
    assert not [name for name in known_maps() if f"`{name.name.partition(':')[0]}" not in told]


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in PAGES:
        for token in MarkdownIt().enable("table").parse(page.read_text()):
            for child in token.children or ():
                target = str(child.attrGet("href") or "") if child.type == "link_open" else ""
                file = target.partition("#")[0]
                if file and "://" not in target and not (page.parent / file).exists():
                    broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def test_lists_stand_apart() -> None:
    """The site's Markdown takes a list right below a line of text for more of that text."""
    joined = []
    for page in PAGES:
        lines = page.read_text().splitlines()
        for token in MarkdownIt().parse(page.read_text()):
            if token.type in ("bullet_list_open", "ordered_list_open") and token.level == 0:
                assert token.map
                above = lines[token.map[0] - 1].strip() if token.map[0] else ""
                if above and not above.startswith(("#", "<!--")):
                    joined.append(f"{page.relative_to(ROOT)}:{token.map[0] + 1}")
    assert not joined


def test_every_page_stands_in_the_site() -> None:
    """A page that the navigation forgets is a page that nobody finds."""
    config = tomllib.loads((ROOT / "zensical.toml").read_text())

    def pages(entries: Any) -> Iterator[str]:
        for entry in entries if isinstance(entries, list) else [entries]:
            if isinstance(entry, str):
                yield entry
            else:
                for value in entry.values():
                    yield from pages(value)

    listed = set(pages(config["project"]["nav"]))
    there = {str(path.relative_to(ROOT / "docs")) for path in PAGES if path.name != "README.md"}
    assert listed == there

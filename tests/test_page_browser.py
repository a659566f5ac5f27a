"""The page in a real browser: errors, speed, search, filters, links, hostile answers, axe."""

import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lethe.report import build_report
from lethe.report.page import embedded
from lethe.report.viewer import Viewer
from lethe.run import load_run
from lethe.store import Store
from tests.page_run import Maker, hostile, make_audit, make_study, place

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)  # fmt: skip
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
MANY = 40_000
_DATA = re.compile(r'(<script type="application/json" id="examples-data">)(.*?)(</script>)', re.S)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


class Opened:
    """A page in a browser, with what went wrong in it."""

    def __init__(self, browser: Any, url: str, **settings: Any) -> None:
        settings.setdefault("viewport", {"width": 1200, "height": 900})
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.page.set_default_timeout(240_000)  # the machine may be busy with other work
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)
        self.page.wait_for_selector("html[data-ready]")

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def found(self) -> str:
        return str(self.page.text_content("#found"))


@pytest.fixture(scope="module")
def audit_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    store = Store(folder / "store")
    make_audit(store, count=60)
    path = folder / "audit.html"
    path.write_bytes(build_report(load_run("last", store), store).html())
    return path


@pytest.fixture(scope="module")
def study_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    store = Store(folder / "store")
    make_study(store, chains=2, stages=2, suites=3, count=24)
    path = folder / "study.html"
    path.write_bytes(build_report(load_run("last", store), store).html())
    return path


@pytest.fixture(scope="module")
def large_page(audit_page: Path) -> Path:
    """The audit's page with its examples repeated under new names: 40,000 in all."""
    text = audit_page.read_text()
    found = _DATA.search(text)
    assert found
    data = json.loads(found[2])
    for suite in data["suites"]:
        times = MANY // len(data["suites"]) // len(suite["ids"]) + 1
        size = MANY // len(data["suites"])

        def many(column: Any, times: int = times, size: int = size) -> Any:
            return (column * times)[:size]

        suite["ids"] = [f"{name}-{n}" for n, name in enumerate(many(suite["ids"]))]
        for name in ("prompts", "references", "options", "answers"):
            if name in suite:
                suite[name] = many(suite[name])
        suite["prompts"] = [
            f"{text} This is number {n}." for n, text in enumerate(suite["prompts"])
        ]
        for group in suite["groups"].values():
            group["codes"] = many(group["codes"])
        for cell in suite["cells"].values():
            for name in ("score", "choice", "outcome", "response"):
                if name in cell:
                    cell[name] = many(cell[name])
        suite["whole"] = size
    path = audit_page.with_name("large.html")
    path.write_text(text[: found.start(2)] + embedded(data) + text[found.end(2) :])
    return path


def test_it_opens_from_disk_without_errors_or_network(browser: Any, audit_page: Path) -> None:
    asked = []
    context = browser.new_context()
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(audit_page.as_uri())
    page.wait_for_selector("html[data-ready]")
    assert asked == [audit_page.as_uri()]
    assert errors == []
    assert page.locator(".headline:visible").count() == 1
    context.close()


def test_40_000_examples_are_quick(browser: Any, large_page: Path) -> None:
    best = 1e9
    for _ in range(3):  # other work on the machine counts against neither
        opened = Opened(browser, large_page.as_uri())
        paint = opened.page.evaluate(
            "performance.getEntriesByName('first-contentful-paint')[0].startTime"
        )
        best = min(best, paint)
        if best <= 1000:
            break
        opened.context.close()
    assert best <= 1000
    assert opened.found() == "40,000 of 40,000 examples"
    opened.page.wait_for_timeout(800)  # what search looks through is made while idle
    took = {}
    for name in ("search", "flip", "group", "sort", "scroll", "key"):
        opened.page.click("#clear")
        times = measure(opened.page, name)
        took[name] = sorted(times)[len(times) // 2]
    assert max(took.values()) <= 100, took
    assert opened.page.locator(".row").count() < 60  # only what is seen is there
    assert opened.errors == []
    opened.context.close()


def measure(page: Any, action: str) -> list[float]:
    """Milliseconds of script and layout that one action takes, seven times."""
    times: list[float] = page.evaluate(
        """async (action) => {
            const $ = (id) => document.getElementById(id);
            const fire = (on, kind) => on.dispatchEvent(new Event(kind, {bubbles: true}));
            const set = (id, value) => { $(id).value = value; fire($(id), "change"); };
            const down = () => new KeyboardEvent("keydown", {key: "ArrowDown"});
            const actions = {
                search: (n) => { $("q").value = "number 7" + n; fire($("q"), "input"); },
                flip: (n) => set("flip", ["lost", "kept"][n % 2]),
                group: (n) => { $("group").selectedIndex = 1 + n % 2; fire($("group"), "change"); },
                sort: (n) => set("sort", ["lost", "id"][n % 2]),
                scroll: (n) => { $("list").scrollTop = n * 99991; fire($("list"), "scroll"); },
                key: () => $("list").dispatchEvent(down()),
            };
            const times = [];
            for (let n = 0; n < 7; n++) {
                const start = performance.now();
                actions[action](n);
                $("list").getBoundingClientRect();
                times.push(performance.now() - start);
                await new Promise((done) => setTimeout(done, 20));
            }
            return times;
        }""",
        action,
    )
    return times


def test_numbers_lead_to_their_examples(browser: Any, audit_page: Path) -> None:
    opened = Opened(browser, audit_page.as_uri())
    page = opened.page
    row = page.locator('tr[data-of="flips/c0/facts"]')
    lost = row.locator("a[data-lost]")
    count = int(lost.inner_text())
    lost.click()
    assert opened.found() == f"{count} of 240 examples"
    assert page.locator("#suite").input_value() == "facts"
    row = page.locator('tr[data-of="outcome/c0/requests/safe"]')
    link = row.locator("a").nth(1)
    count = int(link.inner_text())
    link.click()
    assert opened.found() == f"{count} of 240 examples"
    assert "harmful" in str(page.text_content("#detail")) or count == 0
    row = page.locator('tr[data-of="group/c0/hotel/people/Belo"]')
    row.locator("a").click()
    assert opened.found() == "15 of 240 examples"
    assert opened.errors == []
    opened.context.close()


def test_search_filters_and_links_are_kept_in_the_address(browser: Any, audit_page: Path) -> None:
    opened = Opened(browser, audit_page.as_uri())
    page = opened.page
    page.fill("#q", "Question 17")
    assert opened.found() == "4 of 240 examples"
    page.select_option("#suite", "hotel")
    assert opened.found() == "1 of 240 examples"
    page.fill("#q", "full tonight (3)")
    page.select_option("#suite", "requests")
    assert opened.found() == "1 of 240 examples"
    page.click("#clear")
    page.select_option("#sort", "lost")
    page.locator("#list").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    name = page.text_content("#detail .name")
    assert page.locator('.row[aria-selected="true"]').count() == 1
    again = Opened(browser, page.url)
    assert again.page.text_content("#detail .name") == name
    assert again.page.locator("#sort").input_value() == "lost"
    page.fill("#q", "no such words anywhere")
    assert opened.found() == "0 of 240 examples"
    assert "No example fits" in str(page.text_content("#detail"))
    assert opened.errors == again.errors == []
    opened.context.close()
    again.context.close()


def test_a_study_changes_all_sections_with_its_contrast(browser: Any, study_page: Path) -> None:
    opened = Opened(browser, study_page.as_uri())
    page = opened.page
    first = page.locator(".headline:visible").inner_text()
    titles = page.locator("#view option").all_inner_texts()
    assert "stage 1 → stage 2" in " ".join(titles)
    page.select_option("#view", "c1")
    assert page.locator(".headline:visible").count() == 1
    assert page.locator(".headline:visible").inner_text() != first
    assert page.locator('tr[data-of^="suite/c1/"]').first.is_visible()
    assert not page.locator('tr[data-of^="suite/c0/"]').first.is_visible()
    assert "view=c1" in page.url
    counts = page.locator('tr[data-of="flips/c1/suite1"] a[data-lost]')
    number = int(counts.inner_text())
    counts.click()
    assert opened.found().startswith(f"{number} of ")
    assert opened.errors == []
    opened.context.close()


def test_hostile_answers_change_nothing(browser: Any, tmp_path: Path) -> None:
    store, bad = Store(tmp_path / "store"), hostile()
    maker = Maker(store)
    suite = maker.suite("requests", scorer="refusal", count=len(bad))
    responses = {f"requests-{n}": text for n, text in enumerate(bad.values())}
    keys = {side: maker.table(suite, side, responses=responses) for side in ("base", "tuned")}
    names = {"base": bad["script"], "tuned": bad["handler"]}
    run = maker.run(
        [place(at, side, name=names[side]) for at, side in enumerate(keys)], {"requests": keys}
    )
    path = tmp_path / "page.html"
    path.write_bytes(build_report(run, store).html())
    opened = Opened(browser, path.as_uri())
    page = opened.page
    title = page.title()
    for n, text in enumerate(bad.values()):
        page.goto(f"{path.as_uri()}#suite=requests&ex=requests/requests-{n}")
        page.wait_for_function(
            f"document.querySelector('#detail .name')?.textContent === 'requests-{n}'"
        )
        shown = page.locator("#detail .sides .text").first.text_content()
        if text == bad["long"]:
            assert "998,500 more characters" in shown
        elif text == bad["bidi"]:
            assert "⟨U+202E⟩" in shown
            assert "\u202e" not in shown
        elif text != bad["control"]:
            assert shown.replace("⟨U+2028⟩", "\u2028").replace("⟨U+2029⟩", "\u2029") == text
    assert page.evaluate("window.broken") is None
    assert page.title() == title
    assert page.locator("img, iframe, object, embed").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert opened.errors == []
    opened.context.close()


@pytest.mark.parametrize("look", ["light", "dark", "narrow"])
def test_axe_finds_nothing_serious(
    browser: Any, study_page: Path, audit_page: Path, look: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    width = 390 if look == "narrow" else 1200
    for path in (audit_page, study_page):
        opened = Opened(
            browser,
            path.as_uri(),
            viewport={"width": width, "height": 844},
            color_scheme="dark" if look == "dark" else "light",
            bypass_csp=True,  # the checker is put into the page as a script
        )
        opened.page.evaluate("document.querySelectorAll('details').forEach((d) => d.open = true)")
        found = axe.Axe().run(opened.page).response["violations"]
        bad = [
            (one["id"], one["nodes"][0]["html"][:200])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert not bad
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        opened.context.close()


def test_the_theme_can_be_chosen(browser: Any, audit_page: Path) -> None:
    opened = Opened(browser, audit_page.as_uri(), color_scheme="light")
    page = opened.page
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.click("#theme")
    dark = page.evaluate(colour)
    assert dark != light
    label = page.evaluate("getComputedStyle(document.querySelector('.wide text')).fill")
    assert label != "rgb(0, 0, 0)"
    page.emulate_media(color_scheme="dark")
    page.click("#theme")
    assert page.evaluate(colour) == light
    page.emulate_media(media="print")
    assert not page.locator("#examples").is_visible()
    assert page.locator('tr[data-of="suite/c0/hotel"]').is_visible()
    opened.context.close()


def test_a_served_page_renews_itself(browser: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = make_study(store, chains=1, stages=2, suites=2, count=12, finished=0.7)
    with Viewer(store) as served:
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        opened = Opened(browser, served.page_url(run.name))
        assert "Unfinished" in str(opened.page.text_content("main"))
        shutil.rmtree(store.root)
        make_study(store, chains=1, stages=2, suites=2, count=12)
        # Not by a script of the test's own: the page's policy forbids it.
        sync_api.expect(opened.page.locator("main")).not_to_contain_text(
            "Unfinished", timeout=240_000
        )
        opened.page.wait_for_selector("html[data-ready]")
        opened.page.click(".brand a")
        assert run.name in str(opened.page.text_content("main"))
        assert [text for text in opened.errors if "favicon" not in text and "404" not in text] == []
        opened.context.close()
        served.shutdown()
        thread.join()

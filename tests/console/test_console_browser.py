"""The console in a real browser: every page, light and dark, by mouse, by keyboard and without JavaScript; nothing from elsewhere."""

import asyncio
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from console_cases import KEY, POLICIES, config, consoled
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from guardrail.cli.demo import PLANS, play, staged
from guardrail.cli.listen import address, bind, listening
from guardrail.testing import ScriptedClassifier
from guardrail.types import Score, Span

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")

ARTEFACTS = Path(__file__).parents[2] / ".artefacts" / "console"
PATIENCE_MS = 60_000  # for machines that are busy
expect.set_options(timeout=PATIENCE_MS)
BAD = "something forbidden"
HOSTILE = "forbidden <img src=x onerror=alert(1)><script>alert(2)</script>"
PAGES = ("overview", "decisions", "policies", "policies/harassment", "playground", "health")
TESTS = '## Tests\n```yaml\n- {text: "a forbidden word", expect: 1, why: "it has it"}\n```\n## Changes'


class Guarded:
    """A proxy with its console on a socket, in a thread of its own, with some exchanges behind it."""

    def __init__(self, folder: Path) -> None:
        self.url = ""
        self.decision = ""
        self._folder = folder
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._asked: list[tuple[str, threading.Event]] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> "Guarded":
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def ask(self, text: str) -> None:
        """Send one more exchange, and wait until it is answered."""
        done = threading.Event()
        self._asked.append((text, done))
        assert done.wait(30)

    async def _serve(self) -> None:
        policies = self._folder / "policies"
        shutil.copytree(POLICIES["folder"], policies)
        file = policies / "harassment.md"
        file.write_text(file.read_text().replace("## Changes", TESTS))
        score = Score(0.97, "scripted@1", Span(0, 4), "Insult", ("header_lookalike",))
        classifier = ScriptedClassifier({"harassment": lambda text: score if "forbidden" in text else 0.02})
        settings = config({"trace_url": "https://traces.example.com/t/{trace_id}"}, policies={"folder": str(policies), "shipped": False})
        store = self._folder / "audit.db"
        async with consoled(settings, store=store, content="full", classifier=classifier) as console:
            for text in ("Hello", BAD, "How are you?", HOSTILE):
                await console.ask(text)
            self.decision = (await console.twin("decisions.json?action=block"))["lines"][0]["id"]
            listener = bind("127.0.0.1", 0)
            async with listening(console.app, listener):
                self.url = address(listener)
                self._ready.set()
                while not self._stop.is_set():
                    if self._asked:
                        text, done = self._asked.pop()
                        await console.ask(text)
                        done.set()
                    await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with Guarded(tmp_path_factory.mktemp("console")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--headless", "--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    """The link that a running demo prints."""
    ready, stop, link = threading.Event(), threading.Event(), []

    async def run() -> None:
        async with staged() as scene:
            assert all([(await play(scene, plan)).expected for plan in PLANS])
            link.append(scene.console)
            ready.set()
            while not stop.is_set():
                await asyncio.sleep(0.05)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert ready.wait(120)
    yield link[0]
    stop.set()
    thread.join(60)


def opened(browser: Browser, guarded: Guarded, *, sign_in: bool = True, **options: Any) -> BrowserContext:
    """A window of its own, signed in as a person does it."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
    context.set_default_timeout(PATIENCE_MS)
    if sign_in:
        page = context.new_page()
        page.goto(f"{guarded.url}/console")
        page.get_by_label("Admin key").fill(KEY)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="Overview", level=1)).to_be_visible(timeout=PATIENCE_MS)
        page.close()
    return context


class Watching:
    """Everything about a page that must not be: messages in the console, errors, dialogs, answers that fail, requests elsewhere."""

    def __init__(self, page: Page, url: str) -> None:
        self.seen: list[str] = []
        page.on("console", lambda said: self.seen.append(f"{said.type}: {said.text}") if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.seen.append(f"page error: {error}"))
        page.on("dialog", lambda dialog: (self.seen.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda asked: None if asked.url.startswith(url) else self.seen.append(f"elsewhere: {asked.url}"))
        page.on("response", lambda got: self.seen.append(f"{got.status}: {got.url}") if got.status >= 400 else None)


def serious(page: Page) -> list[str]:
    """What axe finds that keeps somebody out, and what it only advises against, too."""
    found = Axe().run(page).response["violations"]
    return [f"{each['impact']}: {each['id']}: {node['html'][:120]}" for each in found for node in each["nodes"]]


def names(guarded: Guarded) -> dict[str, str]:
    """Every page by the name of its picture."""
    return {page.replace("/", "-"): page for page in PAGES} | {"decision": f"decisions/{guarded.decision}"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_whole_quiet_and_open_to_everyone(browser: Browser, guarded: Guarded, scheme: str) -> None:
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    context = opened(browser, guarded, color_scheme=scheme)
    page = context.new_page()
    watching = Watching(page, guarded.url)
    for name, path in names(guarded).items():
        page.goto(f"{guarded.url}/console/{path}")
        assert page.get_by_role("heading", level=1).count() == 1, path
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        page.screenshot(path=ARTEFACTS / f"{name}-{scheme}.png", full_page=True)
        assert serious(page) == [], path
    assert watching.seen == []
    context.close()


def test_signing_in_and_out(browser: Browser, guarded: Guarded) -> None:
    context = opened(browser, guarded, sign_in=False)
    page = context.new_page()
    page.goto(f"{guarded.url}/console/health")
    assert serious(page) == []
    page.screenshot(path=ARTEFACTS / "login.png")
    page.get_by_label("Admin key").fill("not the key")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not the admin key")
    assert serious(page) == []
    page.get_by_label("Admin key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Health", level=1)).to_be_visible()
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in", level=1)).to_be_visible()
    page.goto(f"{guarded.url}/console/overview")
    expect(page.get_by_role("heading", name="Sign in", level=1)).to_be_visible()
    context.close()


@pytest.mark.parametrize("scripted", [True, False], ids=["with JavaScript", "without"])
def test_the_way_of_somebody_who_looks_into_a_block(browser: Browser, guarded: Guarded, scripted: bool) -> None:
    context = opened(browser, guarded, java_script_enabled=scripted)
    page = context.new_page()
    watching = Watching(page, guarded.url)
    page.goto(f"{guarded.url}/console/overview")
    page.get_by_role("link", name="All decisions").click()
    page.get_by_label("Action").select_option("block")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("table.list tbody tr .badge.block")).not_to_have_count(0)
    expect(page.locator("table.list tbody tr .badge.pass")).to_have_count(0)
    page.get_by_role("link", name="Explain").first.click()
    expect(page.get_by_text("Content that insults a person")).to_be_visible()
    page.get_by_role("button", name="Judge it again").click()
    expect(page.get_by_text("The same: block.")).to_be_visible()
    page.get_by_role("link", name="harassment").first.click()
    page.get_by_role("button", name="Run them").click()
    expect(page.get_by_text("1 of 1")).to_be_visible()
    page.get_by_role("link", name="Playground").click()
    page.get_by_label("Text").fill("fоrbidden " + HOSTILE)  # with a Cyrillic o
    page.get_by_label("an answer").check()
    page.get_by_role("button", name="Judge").click()
    expect(page.get_by_text("Undone: confusables")).to_be_visible()
    page.screenshot(path=ARTEFACTS / f"playground-tried{'' if scripted else '-without-javascript'}.png", full_page=True)
    if scripted:
        assert serious(page) == []
    assert watching.seen == []
    context.close()


def test_it_is_used_by_keyboard_alone(browser: Browser, guarded: Guarded) -> None:
    context = opened(browser, guarded)
    page = context.new_page()
    page.goto(f"{guarded.url}/console/overview")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left >= 0")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.goto(f"{guarded.url}/console/overview")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(document.activeElement.getAttribute('aria-label') || document.activeElement.textContent).trim()"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        if "All decisions" in reached:
            break
    assert {"Decisions", "Playground", "Live", "All decisions"} <= reached
    context.close()


def test_a_page_looks_again_by_itself_until_it_is_told_not_to(browser: Browser, guarded: Guarded) -> None:
    context = opened(browser, guarded)
    page = context.new_page()
    watching = Watching(page, guarded.url)
    page.goto(f"{guarded.url}/console/decisions")
    rows = page.locator("table.list tbody tr")
    before = rows.count()
    guarded.ask(BAD)
    expect(rows).to_have_count(before + 1, timeout=PATIENCE_MS)
    live = page.get_by_role("button", name="Live")
    expect(live).to_have_attribute("aria-pressed", "true")
    live.click()
    expect(live).to_have_attribute("aria-pressed", "false")
    assert watching.seen == []
    context.close()


def test_on_a_telephone_nothing_is_cut_off(browser: Browser, guarded: Guarded) -> None:
    context = opened(browser, guarded)
    page = context.new_page()
    page.set_viewport_size({"width": 390, "height": 800})
    for path in names(guarded).values():
        page.goto(f"{guarded.url}/console/{path}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    page.goto(f"{guarded.url}/console/overview")
    page.screenshot(path=ARTEFACTS / "overview-narrow.png", full_page=True)
    context.close()


def test_the_demo_opens_on_the_overview_with_its_exchanges_in_it(browser: Browser, guarded: Guarded, demo: str) -> None:
    context = opened(browser, guarded, sign_in=False)
    page = context.new_page()
    page.set_viewport_size({"width": 1200, "height": 1130})
    watching = Watching(page, demo.partition("/console")[0])
    page.goto(demo)
    expect(page.get_by_role("heading", name="Overview", level=1)).to_be_visible()
    page.locator("table.list tbody tr").nth(11).wait_for()  # 7 prompts and 5 answers; the store is written beside the exchanges
    page.screenshot(path=ARTEFACTS / "demo.png")  # docs/console.png is one of these
    expect(page.locator("table.list .badge.block")).to_have_count(4)
    page.get_by_role("link", name="Explain").first.click()
    expect(page.get_by_role("button", name="Judge it again")).to_be_visible()
    assert watching.seen == []
    context.close()

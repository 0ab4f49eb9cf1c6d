"A headless Chromium, for tests that look at a page as its reader does."
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run", "--hide-scrollbars")
HOW = "no browser was found: install Debian's chromium (apt-get install chromium), or set SPECTRAMIND_CHROMIUM to the program of another"


def find_chromium() -> str | None:
    "The program that SPECTRAMIND_CHROMIUM names, or the first one on the PATH."
    told = os.environ.get("SPECTRAMIND_CHROMIUM")
    if told: return told if Path(told).is_file() else shutil.which(told)
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def need_chromium() -> str:
    "The program; without one a test is skipped, but fails where CI=true: there a browser is part of the bargain."
    found = find_chromium()
    if found is None: (pytest.fail if os.environ.get("CI", "").lower() in ("1", "true") else pytest.skip)(HOW)
    return found


@contextmanager
def launched():
    "A browser without a network of its own choosing."
    from playwright.sync_api import sync_playwright
    program = need_chromium()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        try: yield chromium
        finally: chromium.close()


class Look:
    "A page that is being looked at, with everything it complained about and asked for."
    def __init__(self, page):
        self.page, self.said, self.asked = page, [], []
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("request", lambda request: self.asked.append(request.url))

    def open(self, path: str | Path, hash_: str = "", wait: str | None = None) -> "Look":
        "Open a file; `wait` is a selector that must be there."
        self.page.goto(Path(path).absolute().as_uri() + hash_)
        if wait: self.page.wait_for_selector(wait, state="attached", timeout=60_000)
        return self

    def faults(self) -> list:
        "What a reader of the console would call wrong, and requests to anywhere but the file itself."
        return [line for line in self.said if not line.startswith(("log:", "info:", "debug:"))] + [url for url in self.asked if not url.startswith(("file:", "data:", "blob:"))]

    def axe(self, where: str = "") -> list:
        "Serious and critical violations that axe-core finds, in words."
        from axe_playwright_python.sync_playwright import Axe
        found = Axe().run(self.page, options={"resultTypes": ["violations"]}).response["violations"]
        return [f"{where} {v['id']} ({v['impact']}): {v['help']}: {[n['target'] for n in v['nodes']][:4]}" for v in found if v["impact"] in ("serious", "critical")]


@contextmanager
def looked_at(chromium, width: int = 1440, height: int = 900, theme: str = "light", offline: bool = True, **more):
    "A fresh window."
    context = chromium.new_context(viewport=dict(width=width, height=height), color_scheme=theme, offline=offline, **more)
    try: yield Look(context.new_page())
    finally: context.close()

"""A browser without a window, in the tests' own network.

What it sees is kept as pictures in target/test-report/screenshots, one set for
each JupyterHub: people look at them.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from place import TARGET, TOOLS

SCREENSHOTS = TARGET / "test-report" / "screenshots"
# JupyterLab on a loaded machine; nothing here asserts speed.
PATIENCE_MS = 120_000


class Browser:
    """One page of one visitor."""

    def __init__(self, page: Any, prefix: str) -> None:
        self.page = page
        self._prefix = prefix
        self._taken = 0

    def picture(self, name: str) -> None:
        self._taken += 1
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{self._prefix}-{self._taken:02}-{name}.png")

    def text(self) -> str:
        return self.page.inner_text("body")


@contextmanager
def visitor(prefix: str) -> Iterator[Browser]:
    """A browser for one visit; refuses where there is none."""
    program = shutil.which("chromium-headless-shell")
    place = TOOLS / "browser"
    assert program and place.is_dir(), "there is no browser: tools/get browser"
    if str(place) not in sys.path:
        sys.path.append(str(place))
    from playwright.sync_api import sync_playwright  # of target/tools/browser

    with sync_playwright() as driver:
        # Root has no user namespaces to give away here; the pages are our own.
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--force-color-profile=srgb"]
        browser = driver.chromium.launch(executable_path=Path(program), args=options)
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 800}, locale="en-GB")
            page.set_default_timeout(PATIENCE_MS)
            seen = Browser(page, prefix)
            try:
                yield seen
            except BaseException:
                seen.picture("failure")
                raise
        finally:
            browser.close()

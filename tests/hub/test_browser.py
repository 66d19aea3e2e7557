"""The whole way of a user, in a browser: log in, choose, watch, work, stop, start again."""

from __future__ import annotations

import re

from browser import Browser, visitor
from hub import URL, Hub

# Writes a file, so that the second start can show that the home has lasted.
CELL = "open('kept.txt', 'w').write('here'); print('six times seven is', 6 * 7)"


def log_in(browser: Browser, hub: Hub, user: str) -> None:
    page = browser.page
    page.goto(f"{URL}/hub/login")
    page.fill("input[name=username]", user)
    page.fill("input[name=password]", hub.password)
    browser.picture("login")
    page.click("input[type=submit], button[type=submit]")
    page.wait_for_url(re.compile(r"/hub/(spawn|home)"))


def choose(browser: Browser, profile: str) -> None:
    """Fills the start form and sends it."""
    page = browser.page
    page.wait_for_selector("input[name=profile]")
    page.check(f"input[name=profile][value={profile}]")
    browser.picture("form")
    page.click("input[type=submit], button[type=submit]")


def wait_for_lab(browser: Browser, user: str) -> None:
    page = browser.page
    page.wait_for_url(re.compile(rf"/user/{user}/lab"))
    page.wait_for_selector(".jp-Launcher, .jp-NotebookPanel", state="visible")
    page.wait_for_selector("#jupyterlab-splash", state="detached")


def stop(browser: Browser) -> None:
    page = browser.page
    page.goto(f"{URL}/hub/home")
    browser.picture("home")
    page.click("#stop")
    page.wait_for_selector("#stop", state="hidden")
    browser.picture("stopped")


def test_the_whole_way(hub: Hub) -> None:
    with visitor(f"{hub.name}-way") as browser:
        page = browser.page
        log_in(browser, hub, "walter")
        page.goto(f"{URL}/hub/spawn")
        choose(browser, "test-slow")
        page.wait_for_selector("#progress-bar", state="visible")
        browser.picture("progress")
        wait_for_lab(browser, "walter")
        browser.picture("lab")

        page.click(".jp-LauncherCard[data-category=Notebook] >> nth=0")
        editor = page.locator(".jp-NotebookPanel .jp-Cell .cm-content").first
        editor.click()
        # The kernel is there before the cell is run, as a user would see.
        page.wait_for_selector(".jp-NotebookPanel .jp-Notebook-ExecutionIndicator[data-status=idle]")
        page.keyboard.type(CELL)
        page.keyboard.press("Shift+Enter")
        page.wait_for_selector(".jp-OutputArea-output >> text=six times seven is 42")
        browser.picture("cell")
        page.keyboard.press("Control+s")

        stop(browser)
        page.click("#start")
        choose(browser, "standard")
        wait_for_lab(browser, "walter")
        page.wait_for_selector(".jp-DirListing-item >> text=kept.txt")
        browser.picture("again")
        stop(browser)


def test_a_failure_says_why(hub: Hub) -> None:
    with visitor(f"{hub.name}-failure") as browser:
        log_in(browser, hub, "frida")
        browser.page.goto(f"{URL}/hub/spawn")
        choose(browser, "test-broken")
        browser.page.wait_for_selector("text=/exit code 3|code 3/")
        browser.picture("reason")
        text = browser.text()
        assert "<boom> here" in text, text

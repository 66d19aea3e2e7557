"""One launcher for the whole run, and with it one hub after the other; each test has users of its own.

Every test that takes a hub runs once with each version; pytest sorts them so that a version's tests come together.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import Hub, hub_of
from place import HUBS, check_hub_user, leave_the_hosts_namespaces, refuse_or_go_on

from launcher import Launcher


def pytest_sessionstart(session: pytest.Session) -> None:
    if not session.config.option.collectonly:
        refuse_or_go_on()
        leave_the_hosts_namespaces()
        check_hub_user()


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    directory = Path(tempfile.mkdtemp(prefix="adrastea-hub-"))
    directory.chmod(0o711)
    launcher = Launcher(f"hub{os.getpid()}", directory)
    launcher.start()
    try:
        launcher.import_image()
        launcher.import_others()
        yield launcher
    finally:
        launcher.clean()


@pytest.fixture(scope="session", params=HUBS)
def hub(launcher: Launcher, request: pytest.FixtureRequest) -> Iterator[Hub]:
    with hub_of(launcher, request.param) as hub:
        yield hub


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Shows both logs under a test that failed."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        for name in ("launcher", "hub"):
            value = getattr(item, "funcargs", {}).get(name)
            if value is not None and value.log.exists():
                report.sections.append((f"{name}'s log", value.log.read_text(errors="replace")[-8000:]))


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that stopped its servers leaves no process in any sandbox."""
    yield
    if "launcher" in request.fixturenames:
        launcher: Launcher = request.getfixturevalue("launcher")
        left = launcher.servers()
        if left:
            # Or every test after this one would fail as well.
            launcher.run("stop", "--all")
        assert left == [], f"processes are left in sandboxes: {left}"

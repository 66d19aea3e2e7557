"""Unknown is not dead: launcher or containerd are away, stopped or hang, and come back."""

from __future__ import annotations

import os
import signal
import time

import pytest
from hub import LIGHT, Hub

from launcher import Launcher


def alive(hub: Hub, user: str) -> None:
    assert hub.model(user)["ready"]
    assert hub.run(user, "print(1)") == "1\n"


def refused_plainly(hub: Hub, user: str, words: str) -> None:
    answer = hub.spawn(user, options=LIGHT)
    assert answer.status_code == 202 or answer.status_code >= 400, answer.text
    if answer.status_code == 202:
        hub.wait(user, ready=False)
        page = hub.page(user, f"/hub/spawn-pending/{user}")
        assert page.status_code == 503
        assert words in page.text
    else:
        assert answer.status_code == 503, answer.text
        assert words in answer.json()["message"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP])
def test_without_a_launcher(hub: Hub, launcher: Launcher, number: signal.Signals) -> None:
    hub.up("una", options=LIGHT)
    if number == signal.SIGSTOP:
        launcher.send_signal(number)
    else:
        launcher.end(number)
    try:
        refused_plainly(hub, "ulf", "does not answer")
        alive(hub, "una")
    finally:
        if number == signal.SIGSTOP:
            launcher.send_signal(signal.SIGCONT)
        else:
            launcher.start()
    alive(hub, "una")
    # Nothing came of the start that was given up, and the next one works.
    hub.up("ulf", options=LIGHT)
    assert len(launcher.run("ls").stdout.splitlines()) == 3, launcher.run("ls").stdout
    hub.stop("ulf")
    alive(hub, "una")
    hub.stop("una")


def test_an_end_that_nobody_saw_is_told_afterwards(hub: Hub, launcher: Launcher) -> None:
    hub.up("uri", options=LIGHT)
    launcher.end()
    for victim in reversed(launcher.servers()):
        os.kill(victim, signal.SIGKILL)
    time.sleep(1)
    assert hub.model("uri")["ready"], "nobody knows yet"
    launcher.start()
    hub.wait("uri", ready=False, seconds=30)
    assert "Your last server ended" in hub.page("uri", "/user/uri/").text


def test_a_hub_that_starts_without_a_launcher_keeps_its_servers(hub: Hub, launcher: Launcher) -> None:
    hub.up("uwe", options=LIGHT)
    token = hub.run("uwe", "import os; print(os.environ['JUPYTERHUB_API_TOKEN'])").strip()
    launcher.end()
    hub.end()
    hub.start()
    hub.wait("uwe")
    alive(hub, "uwe")
    launcher.start()
    hub.stop("uwe")
    assert launcher.servers() == []
    assert hub.api("GET", "/user", token=token).status_code == 403


def test_a_stop_waits_for_the_launcher(hub: Hub, launcher: Launcher) -> None:
    hub.up("ute", options=LIGHT)
    launcher.end()
    hub.api("DELETE", hub.server_path("ute"))
    assert hub.model("ute").get("pending") == "stop"
    launcher.start()
    hub.wait("ute", ready=False)
    assert launcher.servers() == []


def test_with_a_containerd_that_hangs(hub: Hub, launcher: Launcher) -> None:
    hub.up("ugo", options=LIGHT)
    containerd = launcher.containerd()
    os.kill(containerd, signal.SIGSTOP)
    try:
        alive(hub, "ugo")
        refused_plainly(hub, "ulf", "containerd")
        alive(hub, "ugo")
    finally:
        os.kill(containerd, signal.SIGCONT)
    hub.up("ulf", options=LIGHT)
    hub.stop("ulf")
    alive(hub, "ugo")
    hub.stop("ugo")

"""How a server ended: the hub knows within a second, and its user reads why, wherever the user looks."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from http.client import HTTPException

from hub import LIGHT, Hub

from launcher import Launcher

FORK_UNTIL_REFUSED = """
import os, signal, time
children = []
try:
    while True:
        child = os.fork()
        if child == 0:
            signal.pause()
        children.append(child)
except OSError:
    for child in children:
        os.kill(child, signal.SIGKILL)
    os._exit(1)
"""
LAST_WORDS = "import os, sys; sys.stderr.write('<last> words\\n'); sys.stderr.flush(); os._exit(3)"


def noticed(hub: Hub, user: str, since: float) -> float:
    """Seconds until the hub no longer has the server."""
    hub.wait(user, ready=False, seconds=30)
    return time.monotonic() - since


def test_an_exit_is_noticed_at_once_with_its_cause(hub: Hub, launcher: Launcher) -> None:
    hub.up("ned", options=LIGHT)
    victims = launcher.servers()
    killed = time.monotonic()
    # The last one is the server or a child of it; the init goes with its server.
    for victim in reversed(victims):
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    # Far below the hub's own 30 s, with room for a busy machine.
    assert noticed(hub, "ned", killed) < 5
    assert any("ned" in line for line in hub.lines("ended: ")), "the cause is in the hub's log"


def test_the_cause_and_the_last_lines_are_on_every_page_escaped(hub: Hub) -> None:
    hub.up("nia", options=LIGHT)
    hub.end_server("nia", LAST_WORDS)
    # The end is told at once, its last lines when the launcher has cleared up.
    deadline = time.monotonic() + 20
    while "words" not in hub.page("nia", "/hub/home").text and time.monotonic() < deadline:
        time.sleep(0.1)
    for path, status in (("/user/nia/", 424), ("/hub/spawn", 200), ("/hub/home", 200)):
        page = hub.page("nia", path)
        assert page.status_code == status, path
        assert "Your last server ended: Ended with exit code 3" in page.text.replace(
            "ended: ended", "ended: Ended"
        ), path
        assert "&lt;last&gt; words" in page.text, path
        assert "<last>" not in page.text, path
    # A new server: the old one's end is no news any more, neither while it runs nor when it was stopped.
    hub.up("nia", options=LIGHT)
    assert "ended" not in hub.page("nia", "/hub/home").text
    hub.stop("nia")
    for path in ("/user/nia/", "/hub/spawn", "/hub/home"):
        assert "server ended" not in hub.page("nia", path).text, path


def test_the_cause_outlives_a_restart_of_the_hub(hub: Hub) -> None:
    hub.up("noa", options=LIGHT)
    hub.end_server("noa", LAST_WORDS)
    hub.end()
    hub.start()
    assert "exit code 3" in hub.page("noa", "/user/noa/").text


def test_a_named_servers_end_is_told_under_its_name(hub: Hub) -> None:
    hub.up("nat", "lab", options=LIGHT)
    with contextlib.suppress(OSError, HTTPException, AssertionError):
        hub.run("nat", LAST_WORDS, "lab")
    hub.wait("nat", "lab", ready=False, seconds=30)
    words = "Your server &quot;lab&quot; ended"
    assert words in hub.page("nat", "/user/nat/lab/").text
    assert words in hub.page("nat", "/hub/home").text
    # Whoever has the name next has not the end.
    hub.api("DELETE", hub.server_path("nat", "lab"), {"remove": True})
    assert words not in hub.page("nat", "/hub/home").text


def test_memory_that_ran_out_is_said_with_its_limit(hub: Hub) -> None:
    hub.up("nik", options=LIGHT)
    hub.end_server("nik", "hoard = bytearray(b'x') * (2 << 30)")
    page = hub.page("nik", "/user/nik/").text
    assert "memory" in page
    assert "768" in page


def test_what_the_administrator_stops_is_said_so(hub: Hub, launcher: Launcher) -> None:
    hub.up("nora", options=LIGHT)
    stopped = launcher.run("stop", "--hub", hub.name, "--user", "nora", "--reason", "<b>too</b> loud")
    assert stopped.stdout == "stopped\n", stopped.stderr
    hub.wait("nora", ready=False, seconds=30)
    page = hub.page("nora", "/user/nora/").text
    assert "administrator" in page
    assert "&lt;b&gt;too&lt;/b&gt; loud" in page


def test_a_drained_node_says_so_to_those_it_stops_and_to_those_who_come(hub: Hub, launcher: Launcher) -> None:
    hub.up("nele", options=LIGHT)
    try:
        assert launcher.run("drain", "--stop").returncode == 0
        hub.wait("nele", ready=False, seconds=30)
        assert "drained" in hub.page("nele", "/user/nele/").text
        answer = hub.spawn("nele", options=LIGHT)
        assert answer.status_code == 503
        assert "drained" in answer.json()["message"]
    finally:
        launcher.run("undrain")
    hub.up("nele", options=LIGHT)
    hub.stop("nele")


def test_too_many_processes_are_named(hub: Hub) -> None:
    hub.up("nils", options=LIGHT)
    hub.end_server("nils", FORK_UNTIL_REFUSED)
    page = hub.page("nils", "/user/nils/").text
    assert "processes" in page


def test_a_shutdown_from_inside_is_told_without_a_log(hub: Hub) -> None:
    hub.up("nuno", options=LIGHT)
    hub.end_server("nuno", "import os, sys; print('bye', file=sys.stderr, flush=True); os._exit(0)")
    page = hub.page("nuno", "/user/nuno/").text
    assert "exit code 0" in page
    assert "<pre" not in page

"""Servers outlive hub and launcher; an end is noticed, with its cause; no token outlives its server."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from http.client import HTTPException

from hub import LIGHT, Hub
from kernel import run_code

from launcher import Launcher

TOKEN = "import os; print(os.environ['JUPYTERHUB_API_TOKEN'])"


def token_works(hub: Hub, token: str) -> bool:
    return hub.api("GET", "/user", token=token).status_code == 200


def test_a_restarted_hub_adopts_and_revokes(hub: Hub, launcher: Launcher) -> None:
    hub.up("kim")
    token = run_code(hub, "/user/kim/", TOKEN).strip()
    assert token_works(hub, token)
    before = launcher.servers()
    hub.end()
    hub.start()
    hub.wait("kim")
    assert launcher.servers() == before
    assert run_code(hub, "/user/kim/", "print(2)") == "2\n"
    hub.stop("kim")
    assert not token_works(hub, token)


def test_a_hub_killed_inside_start_adopts(hub: Hub, launcher: Launcher) -> None:
    hub.add_user("lea")

    def ask() -> None:
        with contextlib.suppress(OSError, HTTPException):  # the hub is killed while it answers
            hub.spawn("lea")

    asking = threading.Thread(target=ask)
    asking.start()
    deadline = time.monotonic() + 30
    while not launcher.servers() and time.monotonic() < deadline:
        time.sleep(0.02)
    hub.end(signal.SIGKILL)
    asking.join()
    hub.start()
    model = hub.wait("lea")
    assert model["ready"]
    token = run_code(hub, "/user/lea/", TOKEN).strip()
    hub.stop("lea")
    assert not token_works(hub, token)


def test_servers_outlive_the_launcher(hub: Hub, launcher: Launcher) -> None:
    for user, number in (("max", signal.SIGTERM), ("mia", signal.SIGKILL)):
        hub.up(user, options=LIGHT)
        before = launcher.servers()
        launcher.end(number)
        # No launcher: the server works, and nothing says it is gone.
        assert hub.get(f"/user/{user}/api").status_code == 200
        assert hub.model(user)["ready"]
        launcher.start()
        time.sleep(1)
        assert launcher.servers() == before
        assert hub.model(user)["ready"]
        assert hub.run(user, "print(3)") == "3\n"
        hub.stop(user)


def test_too_much_memory_costs_the_process_not_the_server(hub: Hub) -> None:
    hub.up("oda", options=LIGHT)
    code = (
        "import subprocess, sys\n"
        "print(subprocess.run([sys.executable, '-c', 'b\"x\" * (2 << 30)']).returncode)\n"
    )
    assert hub.run("oda", code) == "-9\n"
    assert hub.get("/user/oda/api").status_code == 200
    hub.stop("oda")


def test_a_start_that_is_cancelled_leaves_nothing(hub: Hub, launcher: Launcher) -> None:
    hub.add_user("pia")
    asking = threading.Thread(target=lambda: hub.api("POST", hub.server_path("pia")))
    asking.start()
    deadline = time.monotonic() + 30
    while not launcher.servers() and time.monotonic() < deadline:
        time.sleep(0.02)
    hub.stop("pia")
    asking.join()
    assert launcher.servers() == []


def test_deleting_a_user_stops_the_server(hub: Hub, launcher: Launcher) -> None:
    hub.up("quin", options=LIGHT)
    hub.up("quin", "lab", options=LIGHT)
    # The hub deletes nobody whose named server runs, and nothing may be lost by trying.
    hub.run("quin", "open('/home/jovyan/kept', 'w').write('here')")
    assert hub.api("DELETE", "/users/quin").status_code >= 400
    assert hub.run("quin", "print(open('/home/jovyan/kept').read())", "lab") == "here\n"
    hub.stop("quin", "lab")
    hub.up("quin", options=LIGHT)
    assert hub.api("DELETE", "/users/quin").status_code == 204
    deadline = time.monotonic() + 15
    while launcher.servers() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert launcher.servers() == []
    assert hub.model("quin") == {}
    assert [line for line in hub.lines("quin") if "home" in line], "the log says what became of the home"

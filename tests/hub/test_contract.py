"""The rest of what a hub asks of a spawner, method by method."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from typing import Any
from urllib.parse import urlencode

import pytest
from hub import LIGHT, URL, Hub
from kernel import run_code

from launcher import Launcher

ENVIRONMENT = "import os; print(*(os.environ.get(name) for name in {}.split()))"


def environment(hub: Hub, user: str, names: str) -> list[str]:
    return hub.run(user, ENVIRONMENT.format(repr(names))).split()


def failed_page(hub: Hub, user: str) -> str:
    hub.wait(user, ready=False)
    return hub.page(user, f"/hub/spawn-pending/{user}").text


def test_limits_hooks_groups_and_auth_state_reach_the_server(hub: Hub) -> None:
    hub.login("limited-vic")  # whoever logs in has an auth state
    hub.up("limited-vic", options=LIGHT)
    names = "MEM_LIMIT CPU_LIMIT TEST_CONFIG TEST_HOOK TEST_COLOUR"
    assert environment(hub, "limited-vic", names) == [str(640 << 20), "0.500", "yes", "limited", "blue"]
    hub.stop("limited-vic")
    assert hub.api("POST", "/groups/large").status_code == 201
    hub.add_user("val")
    assert hub.api("POST", "/groups/large/users", {"users": ["val"]}).status_code == 200
    hub.up("val", options=LIGHT)
    assert environment(hub, "val", "MEM_LIMIT JUPYTERHUB_DEFAULT_URL") == [str(896 << 20), "/group"]
    hub.stop("val")


@pytest.mark.parametrize("way", ["json", "form", "query"])
def test_options_by_every_way_are_the_same(hub: Hub, way: str) -> None:
    options = {"profile": "test-light", "memory": "512M", "cpu": "0.5"}
    user = f"way-{way}"
    if way == "json":
        hub.spawn(user, options=options)
    else:
        session = hub.login(user)
        if way == "form":
            session.get(f"{URL}/hub/spawn", timeout=30)
            fields = {"profile": "test-light", "memory:test-light": "512M", "cpu:test-light": "0.5"}
            fields["_xsrf"] = session.cookies.get("_xsrf", path="/hub/") or ""
            answer = session.post(f"{URL}/hub/spawn", data=fields, timeout=60, allow_redirects=False)
        else:
            prefix = "opt-" if hub.major >= 6 else ""
            query = urlencode({f"{prefix}{name}": value for name, value in options.items()})
            answer = session.get(f"{URL}/hub/spawn?{query}", timeout=60, allow_redirects=False)
        assert answer.status_code == 302, answer.text
    hub.wait(user)
    assert environment(hub, user, "MEM_LIMIT CPU_LIMIT") == [str(512 << 20), "0.500"]
    hub.stop(user)


def test_a_link_with_an_unknown_option_is_refused_on_the_page(hub: Hub) -> None:
    prefix = "opt-" if hub.major >= 6 else ""
    page = hub.page("wes", f"/hub/spawn?{prefix}mounts=/etc")
    assert page.status_code == 400
    assert "Unknown option" in page.text


def test_a_start_beyond_start_timeout_is_stopped(hub: Hub, launcher: Launcher) -> None:
    hub.spawn("hasty-xu", options={"profile": "test-silent"})
    assert "not ready in time" in failed_page(hub, "hasty-xu")
    assert launcher.servers() == []


def test_a_server_that_answers_nobody_but_once_is_stopped(hub: Hub, launcher: Launcher) -> None:
    """The hub asks again after `start`, within http_timeout."""
    hub.spawn("impatient-xia", options={"profile": "test-once"})
    hub.wait("impatient-xia", ready=False)
    assert launcher.servers() == []
    assert hub.lines("impatient-xia's server never showed up")


def test_a_pending_start_is_polled_as_running_and_may_be_deleted(hub: Hub, launcher: Launcher) -> None:
    hub.add_user("yan")
    asking = threading.Thread(target=lambda: hub.spawn("yan", options={"profile": "test-silent"}))
    asking.start()
    deadline = time.monotonic() + 30
    while not launcher.servers() and time.monotonic() < deadline:
        time.sleep(0.05)
    # /hub/home polls.
    hub.page("yan", "/hub/home")
    assert hub.model("yan")["pending"] == "spawn"
    assert hub.spawn("yan").status_code == 202
    hub.stop("yan")
    asking.join()
    assert launcher.servers() == []
    # And right again.
    hub.up("yan", options=LIGHT)
    hub.stop("yan")


def test_a_users_own_failures_do_not_end_the_hub(hub: Hub) -> None:
    broken = {"profile": "test-broken"}
    for options in ({"memory": "x"}, {"profile": "none"}, broken, broken, broken):
        assert hub.spawn("strict-yuri", options=options).status_code >= 400
    time.sleep(3)  # the hub would end two seconds after the third that it counts
    assert hub.api("GET", "/").status_code == 200
    assert not hub.lines("Aborting due to")


def test_a_stopped_server_can_be_renamed(hub: Hub) -> None:
    if hub.major < 6:
        pytest.skip("JupyterHub 5 renames no servers")
    hub.up("zoe", "old", options=LIGHT)
    path = hub.server_path("zoe", "old")
    assert hub.api("PATCH", path, {"name": "new"}).status_code == 400
    hub.run("zoe", "open('/home/jovyan/kept', 'w').write('here')", "old")
    hub.stop("zoe", "old")
    answer = hub.api("PATCH", path, {"name": "new"})
    assert answer.status_code == 200, answer.text
    hub.up("zoe", "new", options=LIGHT)
    assert hub.run("zoe", "print(open('/home/jovyan/kept').read())", "new") == "here\n"
    hub.stop("zoe", "new")
    assert hub.model("zoe", "old") == {}


def test_deleting_a_named_server_keeps_the_home(hub: Hub, launcher: Launcher) -> None:
    hub.up("zac", "lab", options=LIGHT)
    hub.run("zac", "open('/home/jovyan/kept', 'w').write('here')", "lab")
    answer = hub.api("DELETE", hub.server_path("zac", "lab"), {"remove": True})
    assert answer.status_code in (202, 204), answer.text
    deadline = time.monotonic() + 30
    while hub.model("zac", "lab") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert hub.model("zac", "lab") == {}
    assert launcher.servers() == []
    hub.up("zac", options=LIGHT)
    assert hub.run("zac", "print(open('/home/jovyan/kept').read())") == "here\n"
    hub.stop("zac")


def test_the_idle_culler_ends_the_idle_and_leaves_the_busy(hub: Hub, launcher: Launcher) -> None:
    for user in ("telling-ida", "telling-ben"):
        hub.spawn(user)
    for user in ("telling-ida", "telling-ben"):
        hub.wait(user)
    busy = "import time\nfor _ in range(60): print('.', flush=True); time.sleep(0.5)"
    working = threading.Thread(target=lambda: try_to_run(hub, "/user/telling-ben/", busy), daemon=True)
    working.start()
    options = ["--timeout=8", "--cull-every=1", f"--url={URL}/hub/api"]
    with subprocess.Popen(
        [hub.python, "-m", "jupyterhub_idle_culler", *options],
        env={**os.environ, "JUPYTERHUB_API_TOKEN": hub.token},
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as culler:
        try:
            hub.wait("telling-ida", ready=False, seconds=60)
            assert hub.model("telling-ben")["ready"]
        finally:
            culler.terminate()
    assert "ended" not in hub.page("telling-ida", "/hub/home").text, "it was stopped, and did not end"
    hub.stop("telling-ben")
    working.join(30)


def try_to_run(hub: Hub, base: str, code: str) -> Any:
    """The server is stopped under it."""
    try:
        return run_code(hub, base, code)
    except Exception as error:
        return error

"""A user's way: start, work, stop; several servers; progress; pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hub import LIGHT, URL, Hub
from kernel import run_code

from launcher import MARKUP, Launcher


@pytest.mark.parametrize("runtime", ["runc", "gvisor"])
def test_start_work_stop(hub: Hub, launcher: Launcher, runtime: str) -> None:
    answer = hub.spawn("ana", options={"profile": "standard", "runtime": runtime})
    assert answer.status_code in (201, 202), answer.text
    hub.wait("ana")
    api = hub.get("/user/ana/api")
    assert api.status_code == 200
    assert "version" in api.json()
    code = "import os; print(os.getuid(), os.path.expanduser('~'), os.environ['JUPYTERHUB_USER'])"
    assert run_code(hub, "/user/ana/", code) == "1000 /home/jovyan ana\n"
    # The kernel that the user's code sees: the node's, or gVisor's own.
    node = Path("/proc/version").read_text()
    seen = run_code(hub, "/user/ana/", "print(open('/proc/version').read(), end='')")
    assert (seen == node) == (runtime == "runc"), seen
    hub.stop("ana")
    assert hub.get("/user/ana/api").status_code in (302, 424)
    assert launcher.servers() == []


def test_a_home_lasts(hub: Hub) -> None:
    for code, expected in (
        ("open('/home/jovyan/kept', 'w').write('here'); print('w')", "w\n"),
        ("print(open('/home/jovyan/kept').read())", "here\n"),
    ):
        hub.up("bea", options=LIGHT)
        assert hub.run("bea", code) == expected
        hub.stop("bea")


def test_named_servers_live_side_by_side(hub: Hub) -> None:
    hub.up("cleo", options=LIGHT)
    hub.up("cleo", "lab", options=LIGHT)
    assert hub.run("cleo", "print(1)", "lab") == "1\n"
    hub.stop("cleo")
    assert hub.get("/user/cleo/lab/api").status_code == 200
    hub.stop("cleo", "lab")
    assert hub.get("/user/cleo/lab/api").status_code in (302, 424)


def test_progress_is_replayed_to_late_viewers(hub: Hub) -> None:
    """The form waits for a start for a second; who looks then sees the start from its beginning."""
    hub.add_user("dora")
    session = hub.login("dora")
    xsrf = session.cookies.get("_xsrf", path="/hub/")
    session.post(
        f"{URL}/hub/spawn?_xsrf={xsrf}", data={"profile": "test-slow"}, timeout=30, allow_redirects=False
    )
    views = [list(hub.progress("dora")), list(hub.progress("dora"))]
    assert views[0][-1]["ready"], views[0]
    phases = [event.get("progress", 0) for event in views[0]]
    assert phases == sorted(phases)
    assert len(views[0]) >= 4, views[0]
    hub.stop("dora")


def test_the_form_shows_offers_escaped(hub: Hub) -> None:
    session = hub.login("eve")
    page = session.get(f"{URL}/hub/spawn", timeout=30).text
    assert MARKUP not in page
    assert "&lt;b&gt;Bold&lt;/b&gt; &amp; &quot;Co&quot;" in page
    assert 'value="standard"' in page
    assert "test-private" not in page
    assert re.search(r'name="memory:standard".*?1 GiB', page, re.DOTALL)


def test_a_start_through_the_form(hub: Hub) -> None:
    session = hub.login("fay")
    page = session.get(f"{URL}/hub/spawn", timeout=30)
    xsrf = session.cookies.get("_xsrf", path="/hub/")
    form = {"_xsrf": xsrf, "profile": "test-light", "memory:test-light": str(1 << 30)}
    answer = session.post(f"{URL}/hub/spawn", data=form, timeout=60, allow_redirects=False)
    assert page.status_code == 200
    assert answer.status_code == 302, answer.text
    hub.wait("fay")
    assert hub.run("fay", "import os; print(os.environ['MEM_LIMIT'])") == f"{1 << 30}\n"
    hub.stop("fay")

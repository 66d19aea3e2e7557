"""A user's way: start, work, stop; several servers; progress; pages."""

from __future__ import annotations

import re

from hub import URL, Hub
from kernel import run_code

from launcher import MARKUP, Launcher


def test_start_work_stop(hub: Hub, launcher: Launcher) -> None:
    answer = hub.spawn("ana")
    assert answer.status_code in (201, 202), answer.text
    hub.wait("ana")
    api = hub.get("/user/ana/api")
    assert api.status_code == 200
    assert "version" in api.json()
    code = "import os; print(os.getuid(), os.path.expanduser('~'), os.environ['JUPYTERHUB_USER'])"
    assert run_code(hub, "/user/ana/", code) == "1000 /home/jovyan ana\n"
    hub.stop("ana")
    assert hub.get("/user/ana/api").status_code in (302, 424)
    assert launcher.servers() == []


def test_a_home_lasts(hub: Hub) -> None:
    for code, expected in (
        ("open('kept', 'w').write('here'); print('w')", "w\n"),
        ("print(open('kept').read())", "here\n"),
    ):
        hub.up("bea")
        assert run_code(hub, "/user/bea/", code) == expected
        hub.stop("bea")


def test_named_servers_live_side_by_side(hub: Hub) -> None:
    hub.up("cleo")
    hub.up("cleo", "lab")
    assert run_code(hub, "/user/cleo/lab/", "print(1)") == "1\n"
    hub.stop("cleo")
    assert hub.get("/user/cleo/lab/api").status_code == 200
    hub.stop("cleo", "lab")
    assert hub.get("/user/cleo/lab/api").status_code in (302, 424)


def test_progress_is_replayed_to_late_viewers(hub: Hub) -> None:
    """The hub's own 202 needs 10 s; a second request sees the start while the first still waits."""
    hub.add_user("dora")
    session = hub.login("dora")
    xsrf = session.cookies.get("_xsrf", path="/hub/")
    session.post(
        f"{URL}/hub/spawn?_xsrf={xsrf}", data={"profile": "standard"}, timeout=30, allow_redirects=False
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
    form = {"_xsrf": xsrf, "profile": "standard", "memory:standard": str(1 << 30)}
    answer = session.post(f"{URL}/hub/spawn", data=form, timeout=60, allow_redirects=False)
    assert page.status_code == 200
    assert answer.status_code == 302, answer.text
    hub.wait("fay")
    assert run_code(hub, "/user/fay/", "import os; print(os.environ['MEM_LIMIT'])") == f"{1 << 30}\n"
    hub.stop("fay")

"""What is denied or cannot work: said on the page and in the API, with nothing left behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hub import LIGHT, URL, Hub

REFUSED = [
    ({"profile": "standard", "memory": "64G"}, "memory_ceiling"),
    ({"cpu": 500}, "cpu_ceiling"),
    ({"profile": "no-such"}, "no-such"),
    ({"profile": "test-private"}, "test-private"),
    ({"runtime": "crun"}, "runtime"),
    ({"image": "../../etc"}, "image"),
    ({"mounts": [{"source": "/", "target": "/host"}]}, "Unknown option"),
    ({"memory": "1G; reboot"}, "memory"),
    ({"profile": {"$ne": ""}}, "profile"),
]


@pytest.mark.parametrize(
    ("options", "words"), REFUSED, ids=[words + str(n) for n, (_, words) in enumerate(REFUSED)]
)
def test_refused_options(hub: Hub, options: dict[str, Any], words: str) -> None:
    answer = hub.spawn("gil", options=options)
    assert answer.status_code in (400, 403), answer.text
    assert words in answer.json()["message"]
    assert not hub.model("gil").get("ready")


def test_a_refusal_is_on_the_page(hub: Hub) -> None:
    session = hub.login("hal")
    session.get(f"{URL}/hub/spawn", timeout=30)
    xsrf = session.cookies.get("_xsrf", path="/hub/")
    form = {"_xsrf": xsrf, "profile": "standard", "memory:standard": str(64 << 30)}
    page = session.post(f"{URL}/hub/spawn", data=form, timeout=60)
    assert page.status_code == 403
    assert "memory_ceiling" in page.text


def test_a_missing_image_is_named(hub: Hub) -> None:
    answer = hub.spawn("ida", options={"profile": "test-absent"})
    assert answer.status_code >= 400
    assert "image" in answer.json()["message"].lower()


def test_a_server_that_fails_shows_its_last_words(hub: Hub) -> None:
    answer = hub.spawn("jan", options={"profile": "test-broken"})
    assert answer.status_code == 500, answer.text
    session = hub.login("jan")
    page = session.get(f"{URL}/hub/spawn-pending/jan", timeout=30).text
    assert "&lt;boom&gt; here" in page
    assert "<boom>" not in page


NAMES = [
    "ünïcøde-ünder",
    "with space",
    "..",
    "a/b",
    "a" * 255,
    "ab" * 200,
    "x'; drop table users; --",
    "$(reboot)",
    "-rf",
    "ime\u0301",
    "right\u202eleft",
    "tab\there",
]


def try_name(hub: Hub, name: str) -> None:
    added = hub.add_user(name)
    if added.status_code == 400:
        return  # the hub itself takes no such name
    assert added.status_code == 201, added.text
    name = added.json()[0]["name"]
    answer = hub.spawn(name, options=LIGHT)
    if answer.status_code >= 400:
        assert answer.status_code < 500, answer.text
        assert answer.json()["message"]
    else:
        model = hub.wait(name)
        assert hub.get(model["url"] + "api").status_code == 200
        assert hub.run(name, "import os; print(ascii(os.environ['JUPYTERHUB_USER']))") == f"{name!a}\n"
        hub.stop(name)
    assert hub.api("DELETE", hub.server_path(name).removesuffix("/server")).status_code == 204


def test_any_name_works_or_is_refused_in_words(hub: Hub) -> None:
    """All at once: no name may be taken for another's."""
    with ThreadPoolExecutor(6) as pool:
        tries = {name: pool.submit(try_name, hub, name) for name in NAMES}
    failed = {name: error for name, trial in tries.items() if (error := trial.exception())}
    assert not failed

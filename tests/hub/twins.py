"""A user's two servers, a cold one and one that has waited: everything that can be seen of them, what both answer,
and what may differ.

Profiles come in pairs, `test-cold-KIND` and `test-warm-KIND`. A start that did not take a waiting sandbox must never
pass for one that did.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from hub import LIGHT, Hub

from launcher import Launcher

POOL = "pool = { minimum = 1, maximum = 2 }\nenvironment_allowed"

VOLATILE = re.compile(
    r"(?<=[?&])(state|code|code_challenge)=[^&]*|[0-9a-f]{8}-[0-9a-f-]{27}|\d{4}-\d\d-\d\dT[0-9:.]+Z?"
)

# What may differ between a cold and a claimed server, each with its reason. Nothing else may.
EXPLAINED = {
    r"command_line": "the interpreter was started for the waiting program; sys.argv is the server's",
    r"initial_environment": "what the kernel shows of a process is what it was started with: no token",
    r"trait\..*\.argv": "the option that says the cookie's path, which is read at import otherwise",
    r"trait\..*\.(cli_config|config)|setting\.config": "the same option",
    r"trait\.ServerApp\.flags": "JupyterLab adds its own to the server's when it is imported, here before that reads them",
    r"maps\.(uid|gid)": "the user's id inside lies in the sandbox's range, and the home is mapped",
    r"mount\./home/jovyan": "seen through mapped ids",
    r"descriptors\.of_packages": "a file of a package, for reading alone, that the rehearsal may not have closed",
    r"trait\..*\._last_activity_sent": "when the hub was last told of activity, which it is every now and then",
    r"logger\.traitlets": "of whoever logs before there is a server; afterwards nobody is given this one",
    r"threads": "an idle thread of the pool that the rehearsal has used",
}


@contextmanager
def waiting_launcher(number: int, profiles: str) -> Iterator[Launcher]:
    """A launcher of its own with these profiles too, and room for all that wait."""
    directory = Path(tempfile.mkdtemp(prefix="adrastea-hub-"))
    directory.chmod(0o711)
    launcher = Launcher(f"pool{number}x{os.getpid()}", directory, number)
    text = launcher.config.read_text() + profiles
    launcher.config.write_text(text.replace("[pool]\n", '[pool]\nmemory = "2GiB"\ncpu = 4.0\n'))
    launcher.start()
    try:
        yield launcher
    finally:
        launcher.clean()


def warm(kind: str) -> dict[str, str]:
    return {"profile": f"test-warm-{kind}"}


def cold(kind: str) -> dict[str, str]:
    return {"profile": f"test-cold-{kind}"}


def counts(launcher: Launcher, kind: str = "runc") -> dict[str, int]:
    """Of a profile with a pool: waiting, hits, misses and failures."""
    listed = launcher.run("pool").stdout.splitlines()
    rows = [line.split() for line in listed if line]
    names, row = rows[0], next(row for row in rows if row[0] == warm(kind)["profile"])
    return {name: int(row[names.index(name)]) for name in ("WAITING", "HITS", "MISSES", "FAILURES")}


def wait_for_slot(launcher: Launcher, kind: str = "runc") -> dict[str, int]:
    deadline = time.monotonic() + 120
    while True:
        found = counts(launcher, kind)
        if found["WAITING"]:
            return found
        assert time.monotonic() < deadline, launcher.run("pool").stdout
        time.sleep(0.25)


def observe(hub: Hub, user: str) -> dict[str, Any]:
    answer = hub.get(f"/user/{user}/observer")
    assert answer.status_code == 200, answer.text
    return answer.json()


def answers(hub: Hub, browser: requests.Session, user: str, pages: tuple[str, ...]) -> dict[str, Any]:
    """What a user's programs and a user's browser get from a server."""
    base = f"http://127.0.0.1:{hub.port}/user/{user}"
    token = {"Authorization": f"token {hub.token}"}
    found: dict[str, Any] = {}
    for who, headers in (("token", token), ("nobody", {})):
        for request in ("GET api", "GET api/contents", "GET shelf", "POST api/kernels"):
            method, path = request.split()
            answer = requests.request(method, f"{base}/{path}", headers=headers, timeout=60)
            # A page has a token of its own in it, and says no more than the code.
            is_page = "html" in answer.headers.get("Content-Type", "")
            text = "(page)" if is_page else VOLATILE.sub("…", answer.text)
            found[f"answer.{method}.{path}.{who}"] = [answer.status_code, text]
    for path in pages:
        page = browser.get(f"{base}/{path}", timeout=60)
        steps = [(step.status_code, step.url) for step in (*page.history, page)]
        found[f"answer.login.{path}"] = [(code, VOLATILE.sub("…", url)) for code, url in steps]
        assert page.status_code == 200, steps
    own = [cookie for cookie in browser.cookies if cookie.path.startswith("/user/")]
    found["answer.cookies"] = sorted((cookie.name, cookie.path) for cookie in own)
    [forgery] = [cookie.value for cookie in own if cookie.name == "_xsrf"]
    answer = browser.post(f"{base}/api/kernels", headers={"X-XSRFToken": forgery}, timeout=60)
    found["answer.POST.api/kernels.browser"] = [answer.status_code, VOLATILE.sub("…", answer.text)]
    # Two servers that nobody can use would be the same, too.
    assert answer.status_code == 201, answer.text
    return found


def plant(hub: Hub, user: str, files: dict[str, str], options: dict[str, str] = LIGHT) -> None:
    """These files in a user's home, by a server of the user's own."""
    hub.up(user, options=options)
    hub.run(
        user,
        f"""
import os
for path, text in {files!r}.items():
    os.makedirs(os.path.dirname("/home/jovyan/" + path), exist_ok=True)
    open("/home/jovyan/" + path, "w").write(text)
""",
    )
    hub.stop(user)


def twins(
    launcher: Launcher,
    hub: Hub,
    kind: str,
    files: dict[str, str],
    pages: tuple[str, ...] = ("lab",),
    planting: dict[str, str] = LIGHT,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is seen of a cold server, and of a claimed one of the same user."""
    user = f"twin-{kind}"
    plant(hub, user, files, planting)
    # Before the first start: the hub knows more of who has logged in.
    browsers = [hub.login(user) for _ in range(2)]
    before = wait_for_slot(launcher, kind)
    seen = []
    for options, browser in zip((cold(kind), warm(kind)), browsers, strict=True):
        hub.up(user, options=options)
        seen.append(observe(hub, user) | answers(hub, browser, user, pages))
        hub.stop(user)
    after = counts(launcher, kind)
    assert (after["HITS"], after["FAILURES"]) == (before["HITS"] + 1, before["FAILURES"])
    return seen[0], seen[1]


def differences(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """The names of what differs; what may not ends the test."""
    names = sorted(set(one) | set(other))
    pairs = {name: (one.get(name), other.get(name)) for name in names}
    found = {name: values for name, values in pairs.items() if values[0] != values[1]}
    unexplained = {
        name: values
        for name, values in found.items()
        if not any(re.fullmatch(pattern, name) for pattern in EXPLAINED)
    }
    print("explained:", *(name for name in found if name not in unexplained))
    assert unexplained == {}, json.dumps(unexplained, indent=1)
    # The test can see: what must differ does.
    assert "command_line" in found
    return set(found)

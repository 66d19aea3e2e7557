"""A server that has waited for its user is the server that a cold start would have been."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hub import LIGHT, Hub
from kernel import run_code

from launcher import Launcher, profile

RUNTIMES = ("runc", "gvisor")
# Not an extension of Jupyter's server but a subclass of it, as JupyterHub had before and still has; under runc.
OLDER = "older"
# An environment of the image beside its first one, with a server extension enabled in it; under runc.
OTHER = "other"
POOL = "pool = { minimum = 1, maximum = 2 }\nenvironment_allowed"

# A server extension in the user's home: tells everything that can be seen of the server it is in.
EXTENSION = Path(__file__).with_name("observer.py")
CONFIG = """
import sys
sys.path.insert(0, "/home/jovyan/.observer")
c.ServerApp.jpserver_extensions = {"observer": True}
"""

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
    r"threads": "an idle thread of the pool that the rehearsal has used",
}


def observe(hub: Hub, user: str) -> dict[str, Any]:
    answer = hub.get(f"/user/{user}/observer")
    assert answer.status_code == 200, answer.text
    return answer.json()


def answers(hub: Hub, browser: requests.Session, user: str) -> dict[str, Any]:
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
    page = browser.get(f"{base}/lab", timeout=60)
    steps = [(step.status_code, step.url) for step in (*page.history, page)]
    found["answer.login"] = [(code, VOLATILE.sub("…", url)) for code, url in steps]
    own = [cookie for cookie in browser.cookies if cookie.path.startswith("/user/")]
    found["answer.cookies"] = sorted((cookie.name, cookie.path) for cookie in own)
    [forgery] = [cookie.value for cookie in own if cookie.name == "_xsrf"]
    answer = browser.post(f"{base}/api/kernels", headers={"X-XSRFToken": forgery}, timeout=60)
    found["answer.POST.api/kernels.browser"] = [answer.status_code, VOLATILE.sub("…", answer.text)]
    # Two servers that nobody can use would be the same, too.
    assert (page.status_code, answer.status_code) == (200, 201), answer.text
    return found


@pytest.fixture(scope="module")
def pooled() -> Iterator[Launcher]:
    directory = Path(tempfile.mkdtemp(prefix="adrastea-hub-"))
    directory.chmod(0o711)
    launcher = Launcher(f"pool{os.getpid()}", directory, number=2)
    text = launcher.config.read_text()
    for runtime in RUNTIMES:
        own = f'runtimes = ["{runtime}"]'
        text += profile(f"test-cold-{runtime}").replace('runtimes = ["runc", "gvisor"]', own)
        warm = profile(f"test-warm-{runtime}").replace('runtimes = ["runc", "gvisor"]', own)
        text += warm.replace("environment_allowed", POOL)
    for kind, pool in (("cold", "environment_allowed"), ("warm", POOL)):
        other = profile(f"test-{kind}-other", image="stacks").replace("gid = 1000", "gid = 100")
        text += other.replace("environment_allowed", pool).replace('PATH = "', 'PATH = "/opt/other/bin:')
        older = profile(f"test-{kind}-older").replace("environment_allowed", pool)
        text += older.replace("LANG =", 'JUPYTERHUB_SINGLEUSER_EXTENSION = "0"\nLANG =')
    stacks = profile("test-warm-stacks", image="stacks").replace("gid = 1000", "gid = 100")
    text += stacks.replace("environment_allowed", "pool = { minimum = 1, maximum = 1 }\nenvironment_allowed")
    launcher.config.write_text(text.replace("[pool]\n", '[pool]\nmemory = "2GiB"\ncpu = 4.0\n'))
    launcher.start()
    try:
        launcher.import_image()
        launcher.import_others()
        # What was tried before its image was here is tried again.
        assert launcher.run("pool", "refill").returncode == 0
        yield launcher
    finally:
        launcher.clean()


@pytest.fixture(scope="module")
def pooled_hub(pooled: Launcher) -> Iterator[Hub]:
    directory = Path(tempfile.mkdtemp(prefix="adrastea-hub-"))
    hub = Hub(pooled, directory, "6.1")
    try:
        hub.start()
        yield hub
    finally:
        hub.clean()
        shutil.rmtree(directory, ignore_errors=True)


def warm(runtime: str) -> dict[str, str]:
    return {"profile": f"test-warm-{runtime}"}


def cold(runtime: str) -> dict[str, str]:
    return {"profile": f"test-cold-{runtime}"}


def counts(launcher: Launcher, runtime: str = "runc") -> dict[str, int]:
    """Of a profile with a pool: waiting, hits, misses and failures."""
    listed = launcher.run("pool").stdout.splitlines()
    beginning = warm(runtime)["profile"]
    names, row = listed[0].split(), next(line.split() for line in listed if line.startswith(beginning))
    return {name: int(row[names.index(name)]) for name in ("WAITING", "HITS", "MISSES", "FAILURES")}


def wait_for_slot(launcher: Launcher, runtime: str = "runc") -> dict[str, int]:
    deadline = time.monotonic() + 120
    while True:
        found = counts(launcher, runtime)
        if found["WAITING"]:
            return found
        assert time.monotonic() < deadline, launcher.run("pool").stdout
        time.sleep(0.25)


def plant(hub: Hub, user: str) -> None:
    """The observer in a user's home, by a server of the user's own."""
    hub.up(user, options=LIGHT)
    files = {".observer/observer.py": EXTENSION.read_text(), ".jupyter/jupyter_server_config.py": CONFIG}
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


@pytest.mark.parametrize("runtime", (*RUNTIMES, OLDER, OTHER))
def test_a_claimed_server_is_the_one_a_cold_start_gives(
    pooled: Launcher, pooled_hub: Hub, runtime: str
) -> None:
    user = f"twin-{runtime}"
    plant(pooled_hub, user)
    # Before the first start: the hub knows more of who has logged in.
    browsers = [pooled_hub.login(user) for _ in range(2)]
    before = wait_for_slot(pooled, runtime)
    seen = []
    for options, browser in zip((cold(runtime), warm(runtime)), browsers, strict=True):
        pooled_hub.up(user, options=options)
        seen.append(observe(pooled_hub, user) | answers(pooled_hub, browser, user))
        pooled_hub.stop(user)
    after = counts(pooled, runtime)
    assert (after["HITS"], after["FAILURES"]) == (before["HITS"] + 1, before["FAILURES"])
    names = sorted(set(seen[0]) | set(seen[1]))
    assert len(names) > 300, names
    pairs = {name: (seen[0].get(name), seen[1].get(name)) for name in names}
    differences = {name: values for name, values in pairs.items() if values[0] != values[1]}
    unexplained = {
        name: values
        for name, values in differences.items()
        if not any(re.fullmatch(pattern, name) for pattern in EXPLAINED)
    }
    print("explained:", *(name for name in differences if name not in unexplained))
    assert unexplained == {}, json.dumps(unexplained, indent=1)
    # The test can see: what must differ does. gVisor's kernel tells nothing of the node's numbers.
    assert "command_line" in differences
    assert ("maps.uid" in differences) == (runtime != "gvisor")
    assert (seen[0].get("environment.JUPYTERHUB_SINGLEUSER_EXTENSION") == "0") == (runtime == OLDER)
    # JupyterHub's own older server wants more than a token for this, its extension does not.
    assert seen[0]["answer.POST.api/kernels.token"][0] == (403 if runtime == OLDER else 201)
    assert (seen[0]["python.prefix"] == "/opt/other") == (runtime == OTHER)
    assert (seen[0]["answer.GET.shelf.token"][0] == 200) == (runtime == OTHER)


# A package as an index would have it, and its installation.
INSTALL = """
import os, subprocess, sys, zipfile
with zipfile.ZipFile("thing-1-py3-none-any.whl", "w") as wheel:
    wheel.writestr("thing/__init__.py", "answer = 42")
    wheel.writestr("thing-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: thing\\nVersion: 1\\n")
    wheel.writestr("thing-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    wheel.writestr("thing-1.dist-info/RECORD", "")
words = [sys.executable, "-m", "pip", "install", "--no-index", "--target", "packages", wheel.filename]
subprocess.run(words, check=True, capture_output=True)
sys.path.insert(0, "packages")
import thing
print(thing.answer)
"""


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_claimed_server_works_as_any_other(pooled: Launcher, pooled_hub: Hub, runtime: str) -> None:
    user = f"worker-{runtime}"
    before = wait_for_slot(pooled, runtime)
    pooled_hub.up(user, options=warm(runtime))
    assert counts(pooled, runtime)["HITS"] == before["HITS"] + 1
    code = "import os; print(os.getcwd(), os.environ['JUPYTERHUB_USER'], os.getuid(), open('kept', 'w').write('x'))"
    said = run_code(pooled_hub, f"/user/{user}/", code, pooled_hub.port)
    assert said == f"/home/jovyan {user} 1000 1\n"
    assert run_code(pooled_hub, f"/user/{user}/", INSTALL, pooled_hub.port) == "42\n"
    # On the disk all of it is the user's own, as the home is.
    homes = (pooled.directory / "state/homes").iterdir()
    home = max((home for home in homes if (home / "kept").exists()), key=lambda home: home.stat().st_uid)
    made = [path for path in home.rglob("*")]
    assert {"__init__.py", "METADATA"} <= {path.name for path in made}
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in made} == {(home.stat().st_uid,) * 2}
    pooled_hub.stop(user)
    # The next start is cold, and the file is the user's own there, too.
    pooled_hub.up(user, options=cold(runtime))
    code = "import os; print(open('kept').read(), os.stat('kept').st_uid)"
    assert run_code(pooled_hub, f"/user/{user}/", code, pooled_hub.port) == "x 1000\n"
    pooled_hub.stop(user)


def test_an_image_like_docker_stacks_waits(pooled: Launcher, pooled_hub: Hub) -> None:
    """Its own prefix, another group, and not through its start script."""
    before = wait_for_slot(pooled, "stacks")
    pooled_hub.up("stan", options=warm("stacks"))
    after = counts(pooled, "stacks")
    assert (after["HITS"], after["FAILURES"]) == (before["HITS"] + 1, before["FAILURES"])
    code = "import os; print(os.environ['CONDA_DIR'], os.getgid(), open('kept', 'w').write('x'))"
    assert run_code(pooled_hub, "/user/stan/", code, pooled_hub.port) == "/opt/conda 100 1\n"
    pooled_hub.stop("stan")


def test_a_lab_of_the_users_own_is_started_anew(pooled: Launcher, pooled_hub: Hub) -> None:
    """The image's would be loaded by then: the claim still ends with a server, and is counted."""
    pooled_hub.up("owner", options=LIGHT)
    pooled_hub.run("owner", "import os; os.makedirs('/home/jovyan/.local/share/jupyter/lab/schemas')")
    pooled_hub.stop("owner")
    before = wait_for_slot(pooled)
    pooled_hub.up("owner", options=warm("runc"))
    assert pooled_hub.get("/user/owner/api").status_code == 200
    after = counts(pooled)
    assert (after["HITS"], after["FAILURES"]) == (before["HITS"] + 1, before["FAILURES"] + 1)
    assert "the user has packages of their own" in pooled.log.read_text()
    pooled_hub.stop("owner")


def test_a_waiting_sandbox_has_seen_nobody(pooled: Launcher) -> None:
    """No token, no home and no way out, while it waits."""
    wait_for_slot(pooled)
    listed = pooled.run("pool").stdout.splitlines()
    start = next(index for index, line in enumerate(listed) if line.startswith("SANDBOX"))
    slot = listed[start + 1].split()[0]
    group = next(group for group in pooled.control_groups() if group.name == slot)
    processes = (group / "cgroup.procs").read_text().split()
    assert len(processes) >= 2
    for process in processes:
        environment = Path(f"/proc/{process}/environ").read_bytes()
        assert b"JUPYTERHUB" not in environment and b"TOKEN" not in environment
        mounts = Path(f"/proc/{process}/mountinfo").read_text()
        assert not any(line.split()[4].startswith("/home/") for line in mounts.splitlines())
    rules = pooled.run("inspect", slot).stdout
    assert "opened" not in rules or slot not in rules.split("opened", 1)[1]

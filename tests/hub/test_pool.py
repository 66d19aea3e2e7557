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
from hub import LIGHT, Hub
from kernel import run_code

from launcher import Launcher, profile

WARM = {"profile": "test-warm"}
COLD = {"profile": "test-cold"}
POOL = "pool = { minimum = 1, maximum = 2 }\nenvironment_allowed"

# A server extension in the user's home: tells everything that can be seen of the server it is in.
EXTENSION = Path(__file__).with_name("observer.py")
CONFIG = """
import sys
sys.path.insert(0, "/home/jovyan/.observer")
c.ServerApp.jpserver_extensions = {"observer": True}
"""

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
    r"threads": "an idle thread of the pool that the rehearsal has used",
}


def observe(hub: Hub, user: str) -> dict[str, Any]:
    answer = hub.get(f"/user/{user}/observer")
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def pooled() -> Iterator[Launcher]:
    directory = Path(tempfile.mkdtemp(prefix="adrastea-hub-"))
    directory.chmod(0o711)
    launcher = Launcher(f"pool{os.getpid()}", directory, number=2)
    text = launcher.config.read_text() + profile("test-cold")
    text += profile("test-warm").replace("environment_allowed", POOL)
    launcher.config.write_text(text + '[pool]\nmemory = "2GiB"\ncpu = 4.0\n')
    launcher.start()
    try:
        launcher.import_image()
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


def counts(launcher: Launcher) -> dict[str, int]:
    """Of the profile with a pool: waiting, hits, misses and failures."""
    listed = launcher.run("pool").stdout.splitlines()
    names, row = listed[0].split(), next(line.split() for line in listed if line.startswith("test-warm"))
    return {name: int(row[names.index(name)]) for name in ("WAITING", "HITS", "MISSES", "FAILURES")}


def wait_for_slot(launcher: Launcher) -> dict[str, int]:
    deadline = time.monotonic() + 120
    while True:
        found = counts(launcher)
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


def test_a_claimed_server_is_the_one_a_cold_start_gives(pooled: Launcher, pooled_hub: Hub) -> None:
    plant(pooled_hub, "twin")
    before = wait_for_slot(pooled)
    seen = []
    for options in (COLD, WARM):
        pooled_hub.up("twin", options=options)
        seen.append(observe(pooled_hub, "twin"))
        if options is WARM:
            assert counts(pooled)["HITS"] == before["HITS"] + 1
            assert counts(pooled)["FAILURES"] == before["FAILURES"]
        pooled_hub.stop("twin")
    cold, warm = seen
    names = sorted(set(cold) | set(warm))
    assert len(names) > 300, names
    differences = {
        name: (cold.get(name), warm.get(name)) for name in names if cold.get(name) != warm.get(name)
    }
    unexplained = {
        name: values
        for name, values in differences.items()
        if not any(re.fullmatch(pattern, name) for pattern in EXPLAINED)
    }
    print("explained:", *(name for name in differences if name not in unexplained))
    assert unexplained == {}, json.dumps(unexplained, indent=1)
    # The test can see: what must differ does.
    assert "command_line" in differences and "maps.uid" in differences


def test_a_claimed_server_works_as_any_other(pooled: Launcher, pooled_hub: Hub) -> None:
    wait_for_slot(pooled)
    pooled_hub.up("worker", options=WARM)
    code = "import os; print(os.getcwd(), os.environ['JUPYTERHUB_USER'], os.getuid(), open('kept', 'w').write('x'))"
    assert run_code(pooled_hub, "/user/worker/", code, pooled_hub.port) == "/home/jovyan worker 1000 1\n"
    pooled_hub.stop("worker")
    # The next start is cold, and the file is the user's own there, too.
    pooled_hub.up("worker", options=COLD)
    code = "import os; print(open('kept').read(), os.stat('kept').st_uid)"
    assert run_code(pooled_hub, "/user/worker/", code, pooled_hub.port) == "x 1000\n"
    pooled_hub.stop("worker")


def test_a_lab_of_the_users_own_is_started_anew(pooled: Launcher, pooled_hub: Hub) -> None:
    """The image's would be loaded by then: the claim still ends with a server, and is counted."""
    pooled_hub.up("owner", options=LIGHT)
    pooled_hub.run("owner", "import os; os.makedirs('/home/jovyan/.local/share/jupyter/lab/schemas')")
    pooled_hub.stop("owner")
    before = wait_for_slot(pooled)
    pooled_hub.up("owner", options=WARM)
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

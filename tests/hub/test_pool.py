"""A server that has waited for its user is the server that a cold start would have been."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import LIGHT, Hub, hub_of
from kernel import run_code
from twins import POOL, cold, counts, differences, twins, wait_for_slot, waiting_launcher, warm

from launcher import Launcher, profile

RUNTIMES = ("runc", "gvisor")
# Not an extension of Jupyter's server but a subclass of it, as JupyterHub had before and still has; under runc.
OLDER = "older"
# An environment of the image beside its first one, with a server extension enabled in it; under runc.
OTHER = "other"

# A server extension in the user's home: tells everything that can be seen of the server it is in.
EXTENSION = Path(__file__).with_name("observer.py")
CONFIG = """
import sys
sys.path.insert(0, "/home/jovyan/.observer")
c.ServerApp.jpserver_extensions = {"observer": True}
"""


def profiles() -> str:
    text = ""
    for runtime in RUNTIMES:
        own = f'runtimes = ["{runtime}"]'
        text += profile(f"test-cold-{runtime}").replace('runtimes = ["runc", "gvisor"]', own)
        waits = profile(f"test-warm-{runtime}").replace('runtimes = ["runc", "gvisor"]', own)
        text += waits.replace("environment_allowed", POOL)
    for kind, pool in (("cold", "environment_allowed"), ("warm", POOL)):
        other = profile(f"test-{kind}-other", image="stacks").replace("gid = 1000", "gid = 100")
        text += other.replace("environment_allowed", pool).replace('PATH = "', 'PATH = "/opt/other/bin:')
        older = profile(f"test-{kind}-older").replace("environment_allowed", pool)
        text += older.replace("LANG =", 'JUPYTERHUB_SINGLEUSER_EXTENSION = "0"\nLANG =')
    stacks = profile("test-warm-stacks", image="stacks").replace("gid = 1000", "gid = 100")
    return text + stacks.replace(
        "environment_allowed", "pool = { minimum = 1, maximum = 1 }\nenvironment_allowed"
    )


@pytest.fixture(scope="module")
def pooled() -> Iterator[Launcher]:
    with waiting_launcher(2, profiles()) as launcher:
        launcher.import_image()
        launcher.import_others()
        # What was tried before its image was here is tried again.
        assert launcher.run("pool", "refill").returncode == 0
        yield launcher


@pytest.fixture(scope="module")
def pooled_hub(pooled: Launcher) -> Iterator[Hub]:
    with hub_of(pooled, "6.1") as hub:
        yield hub


@pytest.mark.parametrize("runtime", (*RUNTIMES, OLDER, OTHER))
def test_a_claimed_server_is_the_one_a_cold_start_gives(
    pooled: Launcher, pooled_hub: Hub, runtime: str
) -> None:
    files = {".observer/observer.py": EXTENSION.read_text(), ".jupyter/jupyter_server_config.py": CONFIG}
    seen = twins(pooled, pooled_hub, runtime, files)
    assert len(seen[0]) > 300, sorted(seen[0])
    # gVisor's kernel tells nothing of the node's numbers.
    assert ("maps.uid" in differences(*seen)) == (runtime != "gvisor")
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

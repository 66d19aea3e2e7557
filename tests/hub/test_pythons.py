"""Images as they are found elsewhere: which of them wait for their users, and that the others start as ever."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hub import Hub, hub_of
from kernel import run_code
from place import NO_CLASSIC, PYTHONS
from twins import POOL, cold, counts, differences, twins, wait_for_slot, waiting_launcher, warm

from launcher import Launcher, images_with_pythons, profile

HERE = Path(__file__).parent
LIGHT = ["python3", "-c", (HERE / "light_server.py").read_text()]
PLANTING = {"profile": "test-planting"}
# What comes before the server in a profile's command, and which scripts have run by then.
ENTRIES = {
    "script": (["/usr/local/bin/start.sh", "jupyterhub-singleuser"], "start.sh"),
    "notebook": (["start-notebook.py"], "start-notebook.py start.sh"),
}
# Each with its image, its runtime and the pages that a browser opens. The classic notebook's image has JupyterHub's
# extension, too, and nbclassic.
KINDS = {
    "classic": ("classic", "runc", ("tree",)),
    "classic-gvisor": ("classic", "gvisor", ("tree",)),
    "oldest": ("classic", "runc", ("tree",)),
    "newest": ("newest", "runc", ("lab", "tree", "nbclassic/tree")),
    "newest-gvisor": ("newest", "gvisor", ("lab", "tree", "nbclassic/tree")),
}
needs_classic = pytest.mark.skipif(bool(NO_CLASSIC), reason=NO_CLASSIC)
PYTHON = {"classic": (3, 9), "newest": (3, 13)}
PREFIX = {"classic": "/opt/conda", "newest": "/usr"}


def of_kinds(kinds: Iterable[str]) -> list:
    """Those of the newest image always, the others where their images are."""
    return [pytest.param(kind, marks=() if kind.startswith("newest") else needs_classic) for kind in kinds]


def planted(kind: str) -> dict[str, str]:
    """An observer in the user's home; the classic notebook reads another file, and has extensions of another kind."""
    name, setting, extension = (
        ("jupyter_notebook_config.py", "NotebookApp.nbserver_extensions", "observer_classic")
        if kind.startswith("classic")
        else ("jupyter_server_config.py", "ServerApp.jpserver_extensions", "observer")
    )
    config = f"""
import sys
sys.path.insert(0, "/home/jovyan/.observer")
c.{setting} = {{"{extension}": True}}
"""
    observers = ("observer.py", "observer_classic.py")
    return {f".jupyter/{name}": config} | {
        f".observer/{file}": (HERE / file).read_text() for file in observers
    }


def of_image(name: str, image: str, runtime: str = "runc", **changes: object) -> str:
    text = profile(name, image=image, **changes).replace("gid = 1000", "gid = 100")
    return text.replace('runtimes = ["runc", "gvisor"]', f'runtimes = ["{runtime}"]')


def profiles() -> str:
    text = images_with_pythons() + of_image("test-planting", "newest", command=LIGHT)
    for kind, (image, runtime, _) in KINDS.items():
        if image not in PYTHONS:
            continue
        pair = of_image(cold(kind)["profile"], image, runtime)
        pair += of_image(warm(kind)["profile"], image, runtime).replace("environment_allowed", POOL)
        # Not by the name that the image itself has for it.
        text += pair.replace("LANG =", 'JUPYTERHUB_SINGLEUSER_APP = ""\nLANG =') if kind == "oldest" else pair
    refused = of_image("test-warm-refused", "newest").replace("environment_allowed", POOL)
    text += refused.replace("LANG =", 'JUPYTERHUB_SINGLEUSER_APP = "notebook"\nLANG =')
    if "wrapped" in PYTHONS:
        own = of_image("test-warm-own", "wrapped").replace("environment_allowed", POOL)
        text += own.replace('PATH = "', 'PATH = "/opt/own/bin:')
        for name, (command, _) in ENTRIES.items():
            text += of_image(f"test-{name}", "wrapped", command=command)
    return text


@pytest.fixture(scope="module")
def pooled() -> Iterator[Launcher]:
    with waiting_launcher(3, profiles()) as launcher:
        launcher.import_pythons()
        assert launcher.run("pool", "refill").returncode == 0
        yield launcher


@pytest.fixture(scope="module")
def pooled_hub(pooled: Launcher) -> Iterator[Hub]:
    with hub_of(pooled, "6.1") as hub:
        yield hub


@pytest.mark.parametrize("kind", of_kinds(KINDS))
def test_a_claimed_server_is_the_one_a_cold_start_gives(pooled: Launcher, pooled_hub: Hub, kind: str) -> None:
    image, runtime, pages = KINDS[kind]
    one, other = twins(pooled, pooled_hub, kind, planted(kind), pages, PLANTING)
    assert len(one) > 250, sorted(one)
    assert ("maps.uid" in differences(one, other)) == (runtime != "gvisor")
    assert one["python.prefix"] == PREFIX[image]
    assert ("trait.NotebookApp.ip" in one) == kind.startswith("classic")
    assert ("trait.ServerApp.ip" in one) != kind.startswith("classic")


@pytest.mark.parametrize("kind", of_kinds(KINDS))
def test_a_kernel_runs_a_cell(pooled: Launcher, pooled_hub: Hub, kind: str) -> None:
    image, _, _ = KINDS[kind]
    before = wait_for_slot(pooled, kind)
    pooled_hub.up("ana", options=warm(kind))
    after = counts(pooled, kind)
    assert (after["HITS"], after["FAILURES"]) == (before["HITS"] + 1, before["FAILURES"])
    code = (
        "import os, sys; print(sys.version_info[:2], sys.prefix, os.environ['JUPYTERHUB_USER'], os.getuid())"
    )
    said = run_code(pooled_hub, "/user/ana/", code, pooled_hub.port)
    pooled_hub.stop("ana")
    assert said == f"{PYTHON[image]} {PREFIX[image]} ana 1000\n"


def row(launcher: Launcher, name: str) -> str:
    """What `adrastea pool` says of a profile; nothing if it has no pool."""
    lines = launcher.run("pool").stdout.splitlines()
    return next((line for line in lines if line.split()[:1] == [name]), "")


def wait_for_reason(launcher: Launcher, name: str, reason: str) -> None:
    """It is tried again and again why none of them waits, and nothing is said meanwhile."""
    deadline = time.monotonic() + 120
    while reason not in row(launcher, name):
        assert time.monotonic() < deadline, launcher.run("pool").stdout
        time.sleep(0.25)


@needs_classic
def test_an_image_whose_server_is_a_script_of_its_own_starts_cold(pooled: Launcher, pooled_hub: Hub) -> None:
    """Nothing waits, the pool says why, and the script runs as ever."""
    before = counts(pooled, "own")
    pooled_hub.up("bo", options=warm("own"))
    after = counts(pooled, "own")
    wait_for_reason(pooled, "test-warm-own", "`/opt/own/bin/jupyterhub-singleuser` is no Python program")
    code = "import os; print(os.environ['ENTRY'])"
    assert run_code(pooled_hub, "/user/bo/", code, pooled_hub.port) == "own\n"
    pooled_hub.stop("bo")
    assert after == before | {"MISSES": before["MISSES"] + 1}


@needs_classic
@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_script_that_the_profile_names_is_kept(pooled: Launcher, pooled_hub: Hub, name: str) -> None:
    assert row(pooled, f"test-{name}") == ""
    pooled_hub.up("cy", options={"profile": f"test-{name}"})
    code = "import os; print(os.environ['ENTRY'])"
    assert run_code(pooled_hub, "/user/cy/", code, pooled_hub.port) == ENTRIES[name][1] + "\n"
    pooled_hub.stop("cy")


def test_what_jupyterhub_refuses_is_refused_cold_too(pooled: Launcher, pooled_hub: Hub) -> None:
    """The classic notebook by its name where notebook 7 is installed: the pool and the server's log say the same."""
    refused = "Failed to import JUPYTERHUB_SINGLEUSER_APP=notebook"
    wait_for_reason(pooled, "test-warm-refused", refused)
    answer = pooled_hub.spawn("di", options=warm("refused"))
    # A hub that has waited long enough for a start says so, and goes on.
    assert answer.status_code in (202, 500), answer.text
    pooled_hub.wait("di", ready=False)
    assert refused in pooled.run("logs", "--user", "di", "--hub", pooled_hub.name).stdout


# What `adrastea image check` says of each image, and what it must not say.
SAID = {
    "classic": (
        "jovyan (1000:100)",
        "its server is /opt/conda/bin/jupyterhub-singleuser",
        "its Python is 3.9 (/opt/conda/bin/python3.9)",
        "its server can wait for its user",
        "it has jupyterhub 5.5.4, jupyter-server 2.18.2, notebook 6.5.7, ipykernel 6.29.5, nbclassic 1.3.3",
        "modules are compiled",
    ),
    "wrapped": (
        "its entry point is ignored: start.sh start-notebook.py",
        "its server is /opt/own/bin/jupyterhub-singleuser",
        "its Python is 3.9 (/opt/conda/bin/python3.9)",
        "cannot wait for its user, and starts cold: /opt/own/bin/jupyterhub-singleuser is no script",
        'without that program: command = ["/opt/conda/bin/jupyterhub-singleuser"]',
    ),
    "newest": (
        "its server is /usr/local/bin/jupyterhub-singleuser",
        "its Python is 3.13 (/usr/bin/python3.13)",
        "its server can wait for its user",
        "it has jupyterhub 6.1.1, jupyterlab 4.6.6, jupyter-server 2.21.1, notebook 7.6.5",
        "modules are compiled",
        "JupyterLab's extension manager asks pypi.org",
    ),
}


@pytest.mark.parametrize("image", of_kinds(SAID))
def test_check_says_what_each_supports(pooled: Launcher, image: str) -> None:
    done = pooled.run("image", "check", f"localhost/adrastea/{image}:1")
    assert (done.returncode, "problem" in done.stdout) == (0, False), done.stdout + done.stderr
    for part in SAID[image]:
        assert part in done.stdout, done.stdout
    # Each says one of the two.
    assert ("can wait" in done.stdout) != ("cannot wait" in done.stdout)

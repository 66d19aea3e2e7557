"""Where everything is that these tests run, and the network they run in.

It must never touch the host's own network: the first thing a run does is to
leave it. What is missing ends the run with words; it is never skipped.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import pwd
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
TARGET = CHECKOUT / "target"
TOOLS = TARGET / "tools"
LAUNCHER = Path(os.environ.get("ADRASTEA_LAUNCHER", TARGET / "release/adrastea"))
INIT = TARGET / "x86_64-unknown-linux-gnu/release/adrastea-init"
RUNC = TOOLS / "bin/runc"
RUNSC = TOOLS / "bin/runsc"
CONTAINERD = TOOLS / "bin/containerd"
IMAGE = TOOLS / "singleuser.oci.tar"
DIGEST = TOOLS / "singleuser.digest"
STACKS = TOOLS / "stacks.oci"
STACKS_DIGEST = TOOLS / "stacks.digest"
PROGRAMS = TOOLS / "programs.oci"
PROGRAMS_DIGEST = TOOLS / "programs.digest"
# Images with Pythons of their own, by the names of their layouts; the second has the first one's layer.
_CLASSIC_ABSENT = TOOLS / "classic.absent"
# Why the first two are not there, if so: Debian keeps a suite for some years.
NO_CLASSIC = _CLASSIC_ABSENT.read_text().strip() if _CLASSIC_ABSENT.exists() else ""
PYTHONS = ("newest",) if NO_CLASSIC else ("classic", "wrapped", "newest")
# Where the hub's user finds the tools: a checkout may lie in a private directory.
HUB_TOOLS = Path("/tmp") / f"adrastea-hub-tools-{os.getpid()}"
# The supported versions of JupyterHub, each with an environment of its own.
HUBS = ("6.1", "5.5")
PROXY = "node/node_modules/configurable-http-proxy/bin/configurable-http-proxy"

# Every Debian has it, and it owns nothing.
HUB_USER = "nobody"

_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000


def python_of(version: str, tools: Path = TOOLS) -> Path:
    return tools / f"venv-{version}/bin/python"


def refuse_or_go_on() -> None:
    """Ends the run unless everything it needs is there."""
    if os.geteuid() != 0:
        pytest.exit("these tests start a real launcher: run them as root", returncode=2)
    missing = [
        path
        for path in (
            LAUNCHER,
            INIT,
            RUNC,
            RUNSC,
            CONTAINERD,
            IMAGE,
            DIGEST,
            STACKS,
            STACKS_DIGEST,
            PROGRAMS,
            PROGRAMS_DIGEST,
            *(TOOLS / f"{name}.digest" for name in PYTHONS),
            TOOLS / PROXY,
            *map(python_of, HUBS),
        )
        if not path.exists()
    ]
    if missing:
        names = ", ".join(str(path) for path in missing)
        pytest.exit(f"missing: {names}; `tools/get` and `make build` make them", returncode=2)


def check_hub_user() -> None:
    """Ends the run if the hub's user cannot run the hubs, or they are others than they are called."""
    user = pwd.getpwnam(HUB_USER)
    for version in HUBS:
        command = [python_of(version, HUB_TOOLS), "-m", "jupyterhub", "--version"]
        answer = subprocess.run(
            command,
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            cwd="/",
        )
        if answer.returncode != 0 or not answer.stdout.startswith(f"{version}."):
            said = answer.stdout + answer.stderr
            pytest.exit(f"user {HUB_USER} cannot run JupyterHub {version}: {said}", returncode=2)


def leave_the_hosts_namespaces() -> None:
    """Moves this process, and with it all that it starts, to a network and a mount
    namespace of its own; in the latter the hub's user can read the tools."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET | _CLONE_NEWNS) != 0:
        pytest.exit(f"no new namespaces: {os.strerror(ctypes.get_errno())}", returncode=2)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    HUB_TOOLS.mkdir()
    # Only the directory outlives the namespace.
    atexit.register(lambda: (subprocess.run(["umount", HUB_TOOLS], check=True), HUB_TOOLS.rmdir()))
    subprocess.run(["mount", "--bind", "-o", "ro", TOOLS, HUB_TOOLS], check=True)

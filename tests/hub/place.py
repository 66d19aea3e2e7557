"""Where everything is that these tests run, and the network they run in.

It must never touch the host's own network: the first thing a run does is to
leave it. What is missing ends the run with words; it is never skipped.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
TARGET = CHECKOUT / "target"
TOOLS = TARGET / "tools"
LAUNCHER = TARGET / "release/adrastea"
INIT = TARGET / "x86_64-unknown-linux-gnu/release/adrastea-init"
RUNC = TOOLS / "bin/runc"
CONTAINERD = TOOLS / "bin/containerd"
IMAGE = TOOLS / "singleuser.oci.tar"
DIGEST = TOOLS / "singleuser.digest"
JUPYTERHUB = TOOLS / "venv-6.1/bin/jupyterhub"
PROXY = TOOLS / "node/node_modules/.bin/configurable-http-proxy"

# Every Debian has it, and it owns nothing.
HUB_USER = "nobody"

_CLONE_NEWNET = 0x40000000


def refuse_or_go_on() -> None:
    """Ends the run unless everything it needs is there."""
    if os.geteuid() != 0:
        pytest.exit("these tests start a real launcher: run them as root", returncode=2)
    missing = [
        path
        for path in (LAUNCHER, INIT, RUNC, CONTAINERD, IMAGE, DIGEST, JUPYTERHUB, PROXY)
        if not path.exists()
    ]
    if missing:
        names = ", ".join(str(path.relative_to(CHECKOUT)) for path in missing)
        pytest.exit(f"missing: {names}; `tools/get` and `make build` make them", returncode=2)
    user = pwd.getpwnam(HUB_USER)
    readable = subprocess.run(
        [JUPYTERHUB, "--version"], user=user.pw_uid, group=user.pw_gid, extra_groups=[], capture_output=True
    )
    if readable.returncode != 0:
        pytest.exit(f"user {HUB_USER} cannot run {JUPYTERHUB}: {readable.stderr.decode()}", returncode=2)


def leave_the_hosts_network() -> None:
    """Moves this process, and with it all that it starts, to a new network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        pytest.exit(f"no network namespace: {os.strerror(ctypes.get_errno())}", returncode=2)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

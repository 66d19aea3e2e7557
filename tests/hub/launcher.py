"""Runs one launcher of its own instance, as root, from this checkout's binaries."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path

from place import CONTAINERD, DIGEST, HUB_USER, IMAGE, INIT, LAUNCHER, RUNC, TOOLS

REFERENCE = "localhost/adrastea/singleuser:1"
GATEWAY = "10.89.0.1"
MARKUP = '<b>Bold</b> & "Co"'

CONFIG = """\
version = 1
instance = "{instance}"
[paths]
state = "{directory}/state"
init = "{init}"
[access]
group = "{group}"
hub_users = ["{user}"]
[containerd]
mode = "managed"
binary = "{containerd}"
[network]
subnet = "10.89.0.0/16"
[limits]
ready_timeout = 60
stop_grace = 2
[runtimes.runc]
binary = "{runc}"
[images.singleuser]
reference = "{reference}"
digest = "{digest}"
[images.absent]
reference = "localhost/adrastea/absent:1"
digest = "sha256:{zeros}"
"""

# The first in the alphabet is the one a user gets who chooses nothing.
PROFILE = """\
[profiles.{name}]
display_name = {title}
description = "{name}"
image = "{image}"
runtimes = ["runc"]
egress = "hub"
command = {command}
user = {{ uid = 1000, gid = 1000, home = "/home/jovyan", name = "jovyan" }}
users = {users}
environment_allowed = ["MEM_*", "CPU_*"]
[profiles.{name}.environment]
PATH = "/opt/jupyter/bin:/usr/local/bin:/usr/bin:/bin"
LANG = "C.UTF-8"
[profiles.{name}.limits]
memory = "768MiB"
memory_ceiling = "1GiB"
"""

SERVER = ["jupyterhub-singleuser"]
BROKEN = ["/bin/sh", "-c", "echo '<boom> here' >&2; exit 3"]


def profile(name: str, **changes: object) -> str:
    settings = {"title": name, "image": "singleuser", "command": SERVER, "users": ["*"]} | changes
    shown = {key: json.dumps(value) if key != "image" else value for key, value in settings.items()}
    return PROFILE.format(name=name, **shown)


class Launcher:
    def __init__(self, instance: str, directory: Path) -> None:
        self.instance = instance
        self.directory = directory
        self.log = directory / "launcher.log"
        self.config = directory / "adrastea.toml"
        self.socket = Path(f"/run/{instance}/api/launcher.sock")
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = {**os.environ, "PATH": f"{TOOLS}/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        user = pwd.getpwnam(HUB_USER)
        group = subprocess.run(["id", "-gn", HUB_USER], check=True, capture_output=True, text=True)
        text = CONFIG.format(
            instance=instance,
            directory=directory,
            init=INIT,
            group=group.stdout.strip(),
            user=user.pw_name,
            containerd=CONTAINERD,
            runc=RUNC,
            reference=REFERENCE,
            digest=DIGEST.read_text().strip(),
            zeros="0" * 64,
        )
        text += profile("standard")
        text += profile("test-absent", image="absent")
        text += profile("test-broken", command=BROKEN)
        text += profile("test-markup", title=MARKUP)
        text += profile("test-private", users=["somebody-else"])
        self.config.write_text(text)
        self.config.chmod(0o600)

    def start(self) -> None:
        """Returns when the launcher answers."""
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [LAUNCHER, "--config", self.config, "serve"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while self.run("ls").returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the launcher does not answer:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.1)

    def run(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Runs a command of the launcher's own command line."""
        return subprocess.run(
            [LAUNCHER, "--config", self.config, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def end(self, number: int = signal.SIGTERM) -> None:
        """Ends the launcher alone; servers go on."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def import_image(self) -> None:
        done = self.run("image", "import", str(IMAGE), REFERENCE, timeout=600)
        assert done.returncode == 0, done.stderr

    def servers(self) -> list[int]:
        """The host's process ids of everything that runs in this instance's sandboxes."""
        found: list[int] = []
        for directory in Path("/sys/fs/cgroup").glob(f"**/{self.instance}"):
            for file in directory.glob("*/**/cgroup.procs"):
                found += [int(line) for line in file.read_text().split()]
        return sorted(set(found))

    def left_behind(self) -> list[str]:
        """What the host still has of this instance, once the launcher has ended."""
        mine = (str(self.directory), f"/run/{self.instance}", f"/run/netns/{self.instance}")
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found = [f"mount {line.split()[4]}" for line in mounts if line.split()[4].startswith(mine)]
        found += [f"namespace {path}" for path in Path("/run/netns").glob(self.instance)]
        found += [f"control group {path}" for path in Path("/sys/fs/cgroup").glob(f"**/{self.instance}/*/")]
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if any(place in command for place in mine):
                found.append(f"process {file.parent.name}: {command[:120]}")
        return found

    def clean(self) -> None:
        """Ends everything of this instance and removes its files."""
        if self._process is None:
            self.start()
        self.run("stop", "--all")
        self.end()
        left = self.left_behind()
        assert left == [], "\n".join(left)
        # Only now: nothing of a user's is mounted below.
        shutil.rmtree(self.directory)
        shutil.rmtree(f"/run/{self.instance}", ignore_errors=True)

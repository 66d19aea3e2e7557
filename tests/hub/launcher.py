"""Runs one launcher of its own instance, as root, from this checkout's binaries."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path

from place import (
    CONTAINERD,
    DIGEST,
    HUB_USER,
    IMAGE,
    INIT,
    LAUNCHER,
    PROGRAMS,
    PROGRAMS_DIGEST,
    PYTHONS,
    RUNC,
    RUNSC,
    STACKS,
    STACKS_DIGEST,
    TOOLS,
)

REFERENCE = "localhost/adrastea/singleuser:1"
STACKS_REFERENCE = "localhost/adrastea/stacks:1"
PROGRAMS_REFERENCE = "localhost/adrastea/programs:1"
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
subnet = "{subnet}.0.0/16"
[identity]
first_disk_id = {disk}
last_disk_id = {last_disk}
first_run_id = {run}
last_run_id = {last_run}
[limits]
ready_timeout = 60
stop_grace = 2
[runtimes.runc]
binary = "{runc}"
[runtimes.gvisor]
binary = "{runsc}"
accept_vulnerable = ["CVE-2025-2713"]
[images.singleuser]
reference = "{reference}"
digest = "{digest}"
[images.stacks]
reference = "{stacks}"
digest = "{stacks_digest}"
[images.programs]
reference = "{programs}"
digest = "{programs_digest}"
[images.absent]
reference = "localhost/adrastea/absent:1"
digest = "sha256:{zeros}"
[pool]
each_profile = {{ maximum = 0 }}
"""

# The first in the alphabet is the one a user gets who chooses nothing.
PROFILE = """\
[profiles.{name}]
display_name = {title}
description = "{name}"
image = "{image}"
runtimes = ["runc", "gvisor"]
egress = "hub"
command = {command}
user = {{ uid = 1000, gid = 1000, home = "/home/jovyan", name = "jovyan" }}
users = {users}
environment_allowed = ["MEM_*", "CPU_*", "TEST_*"]
[profiles.{name}.environment]
PATH = "/opt/conda/bin:/opt/jupyter/bin:/usr/local/bin:/usr/bin:/bin"
LANG = "C.UTF-8"
[profiles.{name}.limits]
memory = "768MiB"
memory_ceiling = "1GiB"
"""

SERVER = ["jupyterhub-singleuser"]
LIGHT = ["/opt/jupyter/bin/python", "-c", Path(__file__).with_name("light_server.py").read_text()]
STACKS_SERVER = ["/usr/local/bin/start-singleuser.sh"]
# Long enough to be seen on its way, however fast the machine is.
SLOW = ["/bin/sh", "-c", 'sleep 4; exec jupyterhub-singleuser "$@"', "sh"]
BROKEN = ["/bin/sh", "-c", "echo '<boom> here' >&2; exit 3"]


def profile(name: str, **changes: object) -> str:
    settings = {"title": name, "image": "singleuser", "command": SERVER, "users": ["*"]} | changes
    shown = {key: json.dumps(value) if key != "image" else value for key, value in settings.items()}
    return PROFILE.format(name=name, **shown)


def images_with_pythons() -> str:
    """The configuration's part about them."""
    entry = '[images.{name}]\nreference = "localhost/adrastea/{name}:1"\ndigest = "{digest}"\n'
    return "".join(
        entry.format(name=name, digest=(TOOLS / f"{name}.digest").read_text().strip()) for name in PYTHONS
    )


class Launcher:
    def __init__(self, instance: str, directory: Path, number: int = 0) -> None:
        """Instances of different numbers share no address, no port and no id."""
        self.instance = instance
        self.number = number
        subnet = f"10.{89 + number}"
        self.gateway = f"{subnet}.0.1"
        self.directory = directory
        self.log = directory / "launcher.log"
        self.config = directory / "adrastea.toml"
        self.socket = Path(f"/run/{instance}/api/launcher.sock")
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = {**os.environ, "PATH": f"{TOOLS}/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        user = pwd.getpwnam(HUB_USER)
        group = subprocess.run(["id", "-gn", HUB_USER], check=True, capture_output=True, text=True)
        disk, run = 1_879_048_192 + number * 1_000_000, 2_013_265_920 + number * 64 * 65_536
        text = CONFIG.format(
            subnet=subnet,
            disk=disk,
            last_disk=disk + 999_999,
            run=run,
            last_run=run + 64 * 65_536 - 1,
            instance=instance,
            directory=directory,
            init=INIT,
            group=group.stdout.strip(),
            user=user.pw_name,
            containerd=CONTAINERD,
            runc=RUNC,
            runsc=RUNSC,
            reference=REFERENCE,
            digest=DIGEST.read_text().strip(),
            stacks=STACKS_REFERENCE,
            stacks_digest=STACKS_DIGEST.read_text().strip(),
            programs=PROGRAMS_REFERENCE,
            programs_digest=PROGRAMS_DIGEST.read_text().strip(),
            zeros="0" * 64,
        )
        text += profile("standard")
        text += profile("test-stacks", image="stacks", command=STACKS_SERVER).replace(
            "gid = 1000", "gid = 100"
        )
        text += profile("test-programs", image="programs")
        text += profile("test-absent", image="absent")
        text += profile("test-broken", command=BROKEN)
        text += profile("test-slow", command=SLOW)
        text += profile("test-light", command=LIGHT)
        for how in ("once", "silent", "stubborn"):
            text += profile(f"test-{how}", command=[*LIGHT, how])
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

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """The same, without waiting for its end."""
        return subprocess.Popen(
            [LAUNCHER, "--config", self.config, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def send_signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def containerd(self) -> int:
        """The process of the launcher's own containerd."""
        return int(Path(f"/run/{self.instance}/containerd/containerd.pid").read_text().split()[0])

    def end(self, number: int = signal.SIGTERM) -> None:
        """Ends the launcher alone; servers go on."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def import_image(self) -> None:
        done = self.run("image", "import", str(IMAGE), REFERENCE, timeout=600)
        assert done.returncode == 0, done.stderr

    def import_others(self) -> None:
        # Without the first one's layer, which is there by now.
        for layout, reference in ((STACKS, STACKS_REFERENCE), (PROGRAMS, PROGRAMS_REFERENCE)):
            done = self.run("image", "import", str(layout), reference)
            assert done.returncode == 0, done.stderr

    def import_pythons(self) -> None:
        for name in PYTHONS:
            done = self.run("image", "import", str(TOOLS / f"{name}.oci"), f"localhost/adrastea/{name}:1")
            assert done.returncode == 0, done.stderr

    def servers(self) -> list[int]:
        """The host's process ids of everything that runs in this instance's sandboxes."""
        found: list[int] = []
        for directory in self.control_groups():
            with contextlib.suppress(OSError):
                found += [int(line) for line in (directory / "cgroup.procs").read_text().split()]
        return sorted(set(found))

    def control_groups(self) -> list[Path]:
        """Those of this instance's sandboxes. Groups come and go, a neighbour's too: a walk passes
        over what has gone, where `Path.glob` fails."""
        root = Path("/sys/fs/cgroup")
        tops = [root / self.instance, *(place / self.instance for place in root.iterdir())]
        return [
            Path(directory) / name for top in tops for directory, names, _ in os.walk(top) for name in names
        ]

    def left_behind(self) -> list[str]:
        """What the host still has of this instance, once the launcher has ended."""
        mine = (str(self.directory), f"/run/{self.instance}", f"/run/netns/{self.instance}")
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found = [f"mount {line.split()[4]}" for line in mounts if line.split()[4].startswith(mine)]
        found += [f"namespace {path}" for path in Path("/run/netns").glob(self.instance)]
        found += [f"control group {path}" for path in self.control_groups()]
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

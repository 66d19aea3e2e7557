"""Who is compared: one function for each, in REGISTRY. It answers its contenders, or
says by Missing why it cannot take part on this machine.

All of them run the same software: the files of the single-user image.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import bench_instance
from bench_instance import RUNTIMES, TOOLS

DOCKER = TOOLS / "docker"
PATH_INSIDE = "/opt/jupyter/bin:/usr/local/bin:/usr/bin:/bin"


class Missing(Exception):
    """A contender cannot take part; the text says why."""


@dataclass
class Contender:
    name: str
    # Contenders with the same text share a hub.
    lines: str
    hub_ip: str = "127.0.0.1"
    hub_port: int = 0
    options: dict[str, str] = field(default_factory=dict)


@dataclass
class Place:
    """What contenders need of this run. What they start ends with `stack`."""

    directory: Path
    stack: ExitStack
    # Who cannot take part, and why.
    missing: dict[str, str] = field(default_factory=dict)

    def image(self) -> Path:
        """The single-user image's only layer, a tar."""
        layer = self.directory / "layer.tar"
        if not layer.exists():
            with tarfile.open(TOOLS / "singleuser.oci.tar") as archive:

                def blob(digest: str) -> bytes:
                    file = archive.extractfile(f"blobs/{digest.replace(':', '/')}")
                    assert file, digest
                    return file.read()

                index = archive.extractfile("index.json")
                assert index
                manifest = json.loads(blob(json.load(index)["manifests"][0]["digest"]))
                layer.write_bytes(blob(manifest["layers"][0]["digest"]))
        return layer

    def tree(self) -> Path:
        """Its files, with what programs expect of a machine."""
        tree = self.directory / "tree"
        if not tree.exists():
            tree.mkdir()
            subprocess.run(["tar", "-xf", self.image(), "-C", tree], check=True)
            for name in ("proc", "dev", "tmp"):
                (tree / name).mkdir(exist_ok=True)
            subprocess.run(["mount", "-t", "proc", "proc", tree / "proc"], check=True)
            subprocess.run(["mount", "--rbind", "/dev", tree / "dev"], check=True)
            (tree / "tmp").chmod(0o1777)
        return tree


class Always(BaseHTTPRequestHandler):
    """A server that was up before anybody asked."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


NULL_SPAWNER = "null spawner"
NULL = """
from jupyterhub.spawner import Spawner

class NullSpawner(Spawner):
    up = False

    async def start(self):
        self.up = True
        return ("127.0.0.1", {port})

    async def poll(self):
        return None if self.up else 0

    async def stop(self, now=False):
        self.up = False

c.JupyterHub.spawner_class = NullSpawner
"""


def null(place: Place) -> list[Contender]:
    """Starts nothing: what is left is the hub, its proxy and this script."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Always)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place.stack.callback(server.shutdown)
    return [Contender(NULL_SPAWNER, NULL.format(port=server.server_port))]


# The process is root's child and gives root up: so each of them can run in the image's files.
PROCESS = """
import os
from jupyterhub.spawner import SimpleLocalProcessSpawner

class InTheImage(SimpleLocalProcessSpawner):
    async def start(self):
        home = f"{tree}/home/{{self.user.name}}"
        os.makedirs(home, exist_ok=True)
        os.chown(home, 1000, 1000)
        inside = ["/usr/bin/env", f"HOME=/home/{{self.user.name}}", "PATH={path}", "jupyterhub-singleuser"]
        self.cmd = [*{before!r}, *inside]
        return await super().start()

c.JupyterHub.spawner_class = InTheImage
c.SimpleLocalProcessSpawner.home_dir_template = "{homes}/{{username}}"
"""


def _process(place: Place, name: str, before: list[str]) -> list[Contender]:
    homes = place.directory / "homes"
    homes.mkdir(exist_ok=True)
    lines = PROCESS.format(tree=place.tree(), path=PATH_INSIDE, before=before, homes=homes)
    return [Contender(name, lines)]


def bare(place: Place) -> list[Contender]:
    """SimpleLocalProcessSpawner: a process, and no wall but its user."""
    before = ["chroot", "--userspec=1000:1000", str(place.tree())]
    return _process(place, "bare process", before)


def systemd(place: Place) -> list[Contender]:
    """The same in a unit of its own, as SystemdSpawner does it."""
    if Path("/proc/1/comm").read_text().strip() != "systemd":
        raise Missing("PID 1 of this machine is not systemd")
    before = ["systemd-run", "--quiet", "--collect", "--pipe", "--wait", "--uid=1000", "--gid=1000"]
    before += ["--property=PrivateTmp=yes", "--property=NoNewPrivileges=yes"]
    before += [f"--property=RootDirectory={place.tree()}", "--property=MemoryMax=1G"]
    return _process(place, "systemd-run", before)


DOCKER_LINES = """
c.JupyterHub.spawner_class = "dockerspawner.DockerSpawner"
c.DockerSpawner.image = "singleuser"
c.DockerSpawner.cmd = "jupyterhub-singleuser"
c.DockerSpawner.use_internal_ip = True
c.DockerSpawner.remove = True
c.DockerSpawner.notebook_dir = "/home/jovyan"
c.DockerSpawner.mem_limit = "1G"
c.DockerSpawner.cpu_limit = 1
c.DockerSpawner.pull_policy = "never"
c.DockerSpawner.extra_host_config = {{"runtime": "{runtime}"}}
"""


def docker(place: Place) -> list[Contender]:
    """DockerSpawner with Debian's Docker, a daemon of its own, and its bridge."""
    if not (DOCKER / "bin/dockerd").exists():
        raise Missing("there is no Docker in target/tools (tools/get docker)")
    socket, work = place.directory / "docker.sock", place.directory / "docker"
    programs = f"{DOCKER}/bin:{TOOLS}/containerd-1.7/bin:{TOOLS}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    with open(place.directory / "docker.log", "ab") as log:
        daemon = subprocess.Popen(
            ["dockerd", "--iptables=false", "--bip", "10.97.0.1/16", "--host", f"unix://{socket}"]
            + ["--data-root", work / "data", "--exec-root", work / "exec", "--pidfile", work / "pid"]
            + [f"--add-runtime=runsc={TOOLS}/bin/runsc"],
            env={"PATH": programs},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    def client(*words: object) -> subprocess.CompletedProcess[str]:
        command = [DOCKER / "bin/docker", "--host", f"unix://{socket}", *words]
        return subprocess.run([str(word) for word in command], capture_output=True, text=True)

    def end() -> None:
        client("rm", "--force", *client("ps", "--all", "--quiet").stdout.split())
        daemon.terminate()
        daemon.wait(60)
        # A container whose start has failed half leaves its shim and what that started.
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(work).encode() in (process / "cmdline").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)

    place.stack.callback(end)

    deadline = time.monotonic() + 60
    while client("info").returncode != 0:
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise Missing(f"dockerd does not run: {(place.directory / 'docker.log').read_text()[-300:]}")
        time.sleep(0.2)
    changes = [f"--change=ENV PATH={PATH_INSIDE}", "--change=USER 1000:1000"]
    imported = client("import", *changes, place.image(), "singleuser")
    if imported.returncode != 0:
        raise Missing(f"Docker does not take the image: {imported.stderr[-300:]}")
    found = []
    for runtime in ("runc", "runsc"):
        tried = client("run", "--rm", "--runtime", runtime, "singleuser", "true")
        if tried.returncode == 0:
            lines = DOCKER_LINES.format(runtime=runtime)
            found.append(Contender(f"DockerSpawner, {runtime}", lines, hub_ip="10.97.0.1"))
        else:
            said = tried.stderr.strip() or f"exit code {tried.returncode}"
            place.missing[f"DockerSpawner, {runtime}"] = said.splitlines()[0][:300]
    return found


ADRASTEA = """
c.JupyterHub.spawner_class = "adrastea"
c.AdrasteaSpawner.socket = "unix://{run}/api/launcher.sock"
"""


def adrastea(place: Place) -> list[Contender]:
    """Each runtime of this tree."""
    place.stack.enter_context(bench_instance.running())
    lines = ADRASTEA.format(run=bench_instance.RUN)
    return [
        Contender(
            f"Adrastea, {runtime}", lines, "10.96.0.1", 8081, {"profile": "standard", "runtime": runtime}
        )
        for runtime in RUNTIMES
    ]


REGISTRY: dict[str, Callable[[Place], list[Contender]]] = {
    "null spawner": null,
    "bare process": bare,
    "systemd-run": systemd,
    "DockerSpawner": docker,
    "Adrastea": adrastea,
}


def all_present(place: Place) -> list[Contender]:
    """Who takes part; `place.missing` has the others."""
    present = []
    for name, find in REGISTRY.items():
        print(f"preparing {name}", file=sys.stderr)
        try:
            present += find(place)
        except Missing as reason:
            place.missing[name] = str(reason)
    return present


def remove(directory: Path) -> None:
    """The run's files, with nothing mounted below them."""
    for name in ("tree/dev", "tree/proc"):
        if (directory / name).exists():
            subprocess.run(["umount", "--lazy", directory / name], check=False)
    shutil.rmtree(directory, ignore_errors=True)

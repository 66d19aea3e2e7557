"""Builds an image that imitates Jupyter's docker-stacks; run by `build`.

For tests: many small layers over the single-user image's one, a user 1000:100, a
conda-like prefix, an environment of another prefix beside it, start scripts, and
everything in its configuration that must not count. No line of the docker-stacks is
in it, and nothing is downloaded.
"""

import io
import shutil
import sys
import tarfile
from pathlib import Path

from common import TOOLS, ToolError, fingerprint, is_done, locked, say, set_done
from layout import BASE_DIGEST, Layout, base

HERE = Path(__file__).resolve().parent
LAYOUT = TOOLS / "stacks.oci"
DIGEST = TOOLS / "stacks.digest"
UID, GID = 1000, 100

SETTINGS: dict[str, object] = {
    "User": str(UID),
    "WorkingDir": "/home/jovyan",
    "Entrypoint": ["tini", "-g", "--", "start.sh"],
    "Cmd": ["start-notebook.sh"],
    "ExposedPorts": {"8888/tcp": {}},
    "Healthcheck": {"Test": ["CMD-SHELL", "/etc/jupyter/healthcheck.py || exit 1"]},
    "Volumes": {"/volume": {}},
    "Labels": {
        "maintainer": "nobody",
        "containerd.io/gc.root": "evil",
        "containerd.io/gc.ref.content.evil": "evil",
        "containerd.io/restart.status": "running",
        "adrastea/instance": "evil",
    },
    "Env": [
        "PATH=/opt/conda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "CONDA_DIR=/opt/conda",
        "SHELL=/bin/bash",
        "NB_USER=jovyan",
        "NB_UID=1000",
        "NB_GID=100",
        "LC_ALL=C.UTF-8",
        "LANG=C.UTF-8",
        "HOME=/home/jovyan",
        "JUPYTER_PORT=8888",
    ],
}

START = """\
#!/bin/bash
# Goes through its hooks and becomes the command, as an ordinary user.
set -e
for hook in /usr/local/bin/before-notebook.d/*.sh; do
    # shellcheck disable=SC1090
    . "$hook"
done
exec "$@"
"""
START_SINGLEUSER = """\
#!/bin/bash
set -e
exec /usr/local/bin/start.sh jupyterhub-singleuser ${NOTEBOOK_ARGS} "$@"
"""
START_NOTEBOOK = """\
#!/bin/bash
exec /usr/local/bin/start.sh jupyter lab "$@"
"""
TINI = """\
#!/bin/sh
while [ "$1" != "--" ]; do shift; done
shift
exec "$@"
"""
# An environment with a prefix of its own and a link to the first one's packages; the server extension
# is enabled in it alone.
OTHER = "opt/other"
OTHER_SETTINGS = "home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11.2\n"
OTHER_SINGLEUSER = """\
#!/opt/other/bin/python
import sys

from jupyterhub.singleuser import main

sys.exit(main())
"""
SHELF = """\
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join


class Shelf(JupyterHandler):
    def get(self):
        self.finish({"shelf": self.base_url})


def _jupyter_server_extension_points():
    return [{"module": "shelf"}]


def _load_jupyter_server_extension(app):
    app.web_app.add_handlers(".*", [(url_path_join(app.base_url, "shelf"), Shelf)])
"""
SHELF_ENABLED = '{"ServerApp": {"jpserver_extensions": {"shelf": true}}}\n'
HOOK = "export STACKS_HOOK=ran\n"


class Layer:
    """One layer in the making. The same content gives the same bytes."""

    def __init__(self) -> None:
        self.data = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self.data, mode="w", format=tarfile.GNU_FORMAT)

    def _add(
        self, name: str, kind: bytes, mode: int, owner: tuple[int, int], content: bytes = b""
    ) -> "Layer":
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.size = kind, mode, len(content)
        entry.uid, entry.gid = owner
        self._tar.addfile(entry, io.BytesIO(content))
        return self

    def file(self, name: str, content: str, mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> "Layer":
        return self._add(name, tarfile.REGTYPE, mode, owner, content.encode())

    def folder(self, name: str, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> "Layer":
        return self._add(name, tarfile.DIRTYPE, mode, owner)

    def link(self, name: str, target: str) -> "Layer":
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self._tar.addfile(entry)
        return self

    def bytes(self) -> bytes:
        self._tar.close()
        return self.data.getvalue()


def prefixes() -> Layer:
    """The conda-like one, and the environment beside it."""
    packages, enabled = "lib/python3.11/site-packages", "etc/jupyter/jupyter_server_config.d"
    return (
        Layer()
        .link("opt/conda", "jupyter")
        .file(f"opt/jupyter/{packages}/shelf.py", SHELF)
        .file(f"{OTHER}/pyvenv.cfg", OTHER_SETTINGS)
        .file(f"{OTHER}/bin/jupyterhub-singleuser", OTHER_SINGLEUSER, 0o755)
        .link(f"{OTHER}/bin/python", "/usr/bin/python3")
        .link(f"{OTHER}/{packages}", f"/opt/jupyter/{packages}")
        .link(f"{OTHER}/share", "/opt/jupyter/share")
        .link(f"{OTHER}/{enabled}/jupyterlab.json", f"/opt/jupyter/{enabled}/jupyterlab.json")
        .file(f"{OTHER}/{enabled}/shelf.json", SHELF_ENABLED)
    )


def layers(passwd: str) -> list[Layer]:
    lines = [line for line in passwd.splitlines() if not line.startswith("jovyan:")]
    lines.append(f"jovyan:x:{UID}:{GID}::/home/jovyan:/bin/bash")
    scripts = "usr/local/bin"
    made = [
        Layer().file("etc/passwd", "\n".join(lines) + "\n"),
        prefixes(),
        Layer().folder("home/jovyan", 0o2775, (UID, GID)),
        Layer().file("home/jovyan/.bashrc", "# of the image\n", owner=(UID, GID)),
        Layer().file(f"{scripts}/fix-permissions", "#!/bin/bash\n", 0o755),
        Layer().folder(f"{scripts}/before-notebook.d").folder(f"{scripts}/start-notebook.d"),
        Layer().file(f"{scripts}/before-notebook.d/10-hook.sh", HOOK, 0o755),
        Layer().file(f"{scripts}/start.sh", START, 0o755),
        Layer().file(f"{scripts}/start-notebook.sh", START_NOTEBOOK, 0o755),
        Layer().file(f"{scripts}/start-singleuser.sh", START_SINGLEUSER, 0o755),
        Layer().file("usr/bin/tini", TINI, 0o755),
        Layer().file("etc/jupyter/jupyter_server_config.py", "c = get_config()  # noqa\n"),
        Layer().file("etc/jupyter/healthcheck.py", "#!/usr/bin/env python3\n", 0o755),
        Layer().file("opt/setup-scripts/first.sh", "#!/bin/bash\n", 0o755),
        Layer().file("opt/setup-scripts/.wh.first.sh", ""),
        Layer().folder("volume", 0o777),
    ]
    # A stack is a dozen images on top of each other: directories that are touched again.
    made += [
        Layer().folder("home/jovyan", 0o2775, (UID, GID)).folder(f"opt/layer-{number}")
        for number in range(1, 8)
    ]
    return made


def main() -> None:
    mark = fingerprint(*sorted(HERE.iterdir()), BASE_DIGEST.read_text() if BASE_DIGEST.exists() else "")
    if is_done("stacks", mark, LAYOUT, DIGEST):
        say(f"image: stacks {DIGEST.read_text().strip()} (built before)")
        return
    shutil.rmtree(LAYOUT, ignore_errors=True)
    layout = Layout(LAYOUT)
    first, files = base(["etc/passwd"])
    blobs = [first, *(layout.layer(layer.bytes()) for layer in layers(files["etc/passwd"]))]
    evil = {"containerd.io/gc.ref.content": "evil", "containerd.io/gc.root": "evil"}
    digest = layout.finish(blobs, SETTINGS, evil)
    DIGEST.write_text(f"{digest}\n")
    set_done("stacks", mark)
    say(f"image: stacks {digest}, {len(blobs)} layers")


try:
    with locked():
        main()
except ToolError as error:
    say(f"error: {error}")
    sys.exit(1)

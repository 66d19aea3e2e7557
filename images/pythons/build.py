"""Builds images as they are found elsewhere, with other Pythons; run by `build`.

For tests: `classic`, the classic notebook on Python 3.9 in a prefix laid out as conda lays it out; `wrapped`,
the same with entry scripts of its own, in the way of Jupyter's docker-stacks; `newest`, Debian's own Python 3.13 with
JupyterLab, notebook 7 and nbclassic where pip puts them there. No line of conda or the docker-stacks is in them.

Debian's packages are unpacked, not installed: no script of theirs runs.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from common import TOOLS, ToolError, fingerprint, is_done, locked, need_root, run, say, set_done, watch
from debian import private_apt
from layout import Layout
from python import download_wheels, only_for

HERE = Path(__file__).resolve().parent
WORK = TOOLS / "pythons-build"
# Why there are no images of the older suite, where its mirror has it no more; the tests say so.
ABSENT = TOOLS / "classic.absent"
# How apt-get says that.
GONE = "does not have a Release file"
SINGLEUSER = HERE.parent / "singleuser/requirements.txt"
NAMES = ("classic", "wrapped", "newest")
PLACES = [TOOLS / f"{name}.{ending}" for name in NAMES for ending in ("oci", "digest")]
UID, GID = 1000, 100
USUAL = "/opt/conda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ACCOUNTS = f"root:x:0:0::/root:/bin/bash\njovyan:x:{UID}:{GID}::/home/jovyan:/bin/bash\n"
GROUPS = f"root:x:0:\nusers:x:{GID}:\n"
OWNER = ["--owner=0", "--group=0", "--numeric-owner", "--sort=name", "--mtime=@0", "--format=gnu"]

# As an image with start scripts has them: one that changes the environment on its way, one in Python that goes
# through it, and one that has the server's own name.
SCRIPTS = {
    "usr/local/bin/start.sh": '#!/bin/bash\nexport ENTRY="${ENTRY:+$ENTRY }start.sh"\nexec "$@"\n',
    "usr/local/bin/start-notebook.py": """\
#!/usr/bin/env -S python -u
import os
import sys

os.environ["ENTRY"] = "start-notebook.py"
os.execvp("start.sh", ["start.sh", "jupyterhub-singleuser", *sys.argv[1:]])
""",
    "opt/own/bin/jupyterhub-singleuser": """\
#!/bin/bash
export ENTRY="${ENTRY:+$ENTRY }own"
exec /opt/conda/bin/jupyterhub-singleuser "$@"
""",
}


class SuiteGone(ToolError):
    """The mirror no longer has a suite. Any other failure to get it is one."""


@dataclass
class Image:
    name: str
    suite: str
    version: str
    # What the package index is told, and the newest libc that its wheels may want.
    full_version: str
    libc: int
    # Its interpreter's, and where pip installs to with it.
    prefix: str
    site: str
    packages: list[str]
    environment: list[str]

    @property
    def tree(self) -> Path:
        return WORK / self.name

    @property
    def library(self) -> str:
        return f"{self.prefix}/lib/python{self.version}"

    def settings(self, first: str = "") -> dict[str, object]:
        path = f"{first}{USUAL}"
        return {"User": f"{UID}:{GID}", "Env": [f"PATH={path}", "LANG=C.UTF-8", *self.environment]}


CLASSIC = Image(
    name="classic",
    suite="bullseye",
    version="3.9",
    full_version="3.9.2",
    libc=31,
    prefix="opt/conda",
    site="opt/conda/lib/python3.9/site-packages",
    packages=["python3.9", "python3-distutils", "bash", "coreutils"],
    environment=["CONDA_DIR=/opt/conda", "JUPYTERHUB_SINGLEUSER_APP=notebook"],
)
NEWEST = Image(
    name="newest",
    suite="trixie",
    version="3.13",
    full_version="3.13.5",
    libc=41,
    prefix="usr",
    site="usr/local/lib/python3.13/dist-packages",
    packages=["python3.13", "bash", "coreutils", "libstdc++6"],
    environment=[],
)


def unpack_packages(image: Image) -> None:
    """These packages and what they need, with the directories merged into usr as Debian has them."""
    debs = WORK / f"{image.name}-debs"
    (debs / "partial").mkdir(parents=True)
    options = private_apt(image.suite)
    try:
        watch(["apt-get", *options, "update"], r"^(?:Get|Hit):\d+ (.*)", title="package list")
    except ToolError as error:
        if GONE in str(error):
            raise SuiteGone(f"Debian's mirror has no `{image.suite}` any more") from error
        raise
    watch(
        ["apt-get", *options, "-o", f"Dir::Cache::Archives={debs}", "install"]
        + ["--download-only", "--yes", "--no-install-recommends", *image.packages],
        r"^Get:\d+ \S+ \S+ \S+ (\S+)",
        title="package",
    )
    for name in ("bin", "sbin", "lib", "lib64"):
        (image.tree / "usr" / name).mkdir(parents=True)
        (image.tree / name).symlink_to(f"usr/{name}")
    for deb in sorted(debs.glob("*.deb")):
        archive = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], check=True, capture_output=True).stdout
        into = ["tar", "-x", "--keep-directory-symlink", "-C", image.tree]
        subprocess.run(into, input=archive, check=True)
    for place in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/perl5"):
        shutil.rmtree(image.tree / place, ignore_errors=True)
    (image.tree / "bin/sh").unlink(missing_ok=True)
    (image.tree / "bin/sh").symlink_to("bash")


def make_prefix(image: Image) -> None:
    """As conda lays one out: the interpreter finds its library from where it lies itself."""
    name, prefix = f"python{image.version}", image.tree / image.prefix
    for place in ("bin", "lib", "conda-meta"):
        (prefix / place).mkdir(parents=True)
    (prefix / "conda-meta/history").write_text("")
    (image.tree / "usr/bin" / name).rename(prefix / "bin" / name)
    (image.tree / "usr/lib" / name).rename(image.tree / image.library)
    # Only Debian's own have this other place for packages.
    site = image.tree / image.library / "site.py"
    site.write_text(site.read_text().replace("dist-packages", "site-packages"))
    (image.tree / image.site).mkdir()


def requirements(image: Image) -> Path:
    """The image's own list; what the newest one's lacks is that of the single-user image."""
    own = HERE / f"{image.name}.txt"
    if image is CLASSIC:
        return own
    lines = own.read_text().splitlines()
    named = {line.partition("==")[0] for line in lines}
    others = SINGLEUSER.read_text().splitlines()
    lines += [line for line in others if line.partition("==")[0] not in named]
    merged = WORK / own.name
    merged.write_text("\n".join(lines) + "\n")
    return merged


def command(image: Image, *words: str) -> list[object]:
    """The new Python, in its tree and without network."""
    path = f"{image.prefix}/bin"
    clean = ["env", "-i", f"PATH={USUAL}", "HOME=/root", "PIP_CONFIG_FILE=/dev/null", "LC_ALL=C.UTF-8"]
    return ["unshare", "--net", *clean, "chroot", image.tree, f"/{path}/python{image.version}", *words]


def install_wheels(image: Image) -> None:
    listed = requirements(image)
    wheels = image.tree / "wheels"
    kinds = [f"manylinux_2_{minor}" for minor in range(image.libc, 4, -1)]
    kinds += ["manylinux2014", "manylinux2010", "manylinux1"]
    download_wheels(listed, wheels, only_for(image.full_version, kinds))
    shutil.copy(listed, wheels / "list")
    # By the new Python itself, whose scripts then name it, as those do that everybody installs.
    pip = f"/wheels/{next(wheels.glob('pip-*.whl')).name}/pip"
    options = ["--no-index", "--no-deps", "--no-cache-dir", "--no-compile", "--root-user-action=ignore"]
    options += ["--break-system-packages", "--find-links", "/wheels", "--requirement", "/wheels/list"]
    if image is CLASSIC:
        options += ["--prefix", f"/{image.prefix}"]
    run(command(image, pip, "install", *options))
    shutil.rmtree(wheels)
    # Large, and only for a hub or for completion.
    for pattern in ("*/*/share/jupyterhub/static/*/", f"{image.site}/jedi/third_party"):
        for place in image.tree.glob(pattern):
            if place.name != "images":
                shutil.rmtree(place)


def compile_modules(image: Image) -> None:
    """By hash and unchecked, as in the single-user image, whose file times are zero, too."""
    compiler = ["-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash"]
    # Two at once: an older libc shares no work where nothing is mounted.
    halves = (["-x", "site-packages", f"/{image.library}"], [f"/{image.site}"])
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [subprocess.Popen(command(image, *compiler, *half), **quiet) for half in halves]
    for one in running:
        # Some of the files are meant not to compile.
        one.wait()
    for place in (image.library, f"{image.site}/jupyterhub"):
        if not (image.tree / place / "__pycache__").is_dir():
            raise ToolError(f"failed to compile the modules in `{place}` of `{image.name}`")


def finish_tree(image: Image) -> None:
    for name, text in (("passwd", ACCOUNTS), ("group", GROUPS), ("nsswitch.conf", "hosts: files dns\n")):
        (image.tree / "etc" / name).write_text(text)
    for place in ("tmp", "proc", "sys", "dev", "run", "home/jovyan", "root"):
        (image.tree / place).mkdir(parents=True, exist_ok=True)
    (image.tree / "tmp").chmod(0o1777)
    for link in ("python", "python3"):
        (image.tree / image.prefix / "bin" / link).unlink(missing_ok=True)
        (image.tree / image.prefix / "bin" / link).symlink_to(f"python{image.version}")
    # The sandbox gains no privileges anyway; nothing in it should ask for them.
    run(["find", image.tree, "-xdev", "-type", "f", "-perm", "/6000", "-exec", "chmod", "a-s", "{}", "+"])


def archive(tree: Path) -> Path:
    tar = WORK / f"{tree.name}.tar"
    subprocess.run(["tar", *OWNER, "-C", tree, "-cf", tar, "."], check=True)
    return tar


def write(name: str, settings: dict[str, object], layers: list[Path], below: list[dict[str, object]]) -> list:
    layout = Layout(TOOLS / f"{name}.oci")
    blobs = [*below, *(layout.layer_of_file(layer) for layer in layers)]
    digest = layout.finish(blobs, settings)
    (TOOLS / f"{name}.digest").write_text(f"{digest}\n")
    say(f"image: {name} {digest}")
    return blobs


def build(image: Image) -> list[dict[str, object]]:
    say(f"image: {image.name}, Debian {image.suite} with Python {image.version}")
    image.tree.mkdir()
    image.tree.chmod(0o755)
    unpack_packages(image)
    if image is CLASSIC:
        make_prefix(image)
    install_wheels(image)
    compile_modules(image)
    finish_tree(image)
    return write(image.name, image.settings(), [archive(image.tree)], [])


def wrap(below: list[dict[str, object]]) -> None:
    """The scripts, on top of the classic image's one layer, which containerd has by then."""
    tree = WORK / "wrapped"
    for name, text in SCRIPTS.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
        (tree / name).chmod(0o755)
    settings = CLASSIC.settings(first="/opt/own/bin:")
    entry = {"Entrypoint": ["start.sh"], "Cmd": ["start-notebook.py"]}
    write("wrapped", settings | entry, [archive(tree)], below)


def main() -> None:
    mark = fingerprint(*sorted(HERE.iterdir()), SINGLEUSER)
    if not ABSENT.exists() and is_done("pythons", mark, *PLACES):
        say("image: classic, wrapped, newest (built before)")
        return
    need_root("build the images")
    for old in (WORK, *PLACES, ABSENT):
        shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    WORK.mkdir(parents=True)
    try:
        wrap(build(CLASSIC))
    except SuiteGone as error:
        say(f"image: no classic and no wrapped: {error} (DEBIAN_MIRROR names another one)")
        ABSENT.write_text(f"{error}\n")
    build(NEWEST)
    shutil.rmtree(WORK)
    set_done("pythons", mark)


try:
    with locked():
        main()
except ToolError as error:
    say(f"error: {error}")
    sys.exit(1)

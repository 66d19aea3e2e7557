"""Builds an image with the programs whose system calls runtimes/traces recorded; run by `build`.

For tests: one layer of Debian packages and wheels over the single-user image's one.
The packages are unpacked, not installed: no script of theirs runs, and the links that
they would have made are made here.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from common import TOOLS, ToolError, fingerprint, is_done, locked, run, say, set_done, watch
from debian import private_apt
from layout import BASE_DIGEST, Layout, base
from python import VENV, download_wheels, only_for

HERE = Path(__file__).resolve().parent
SUITE = "bookworm"
LAYOUT = TOOLS / "programs.oci"
DIGEST = TOOLS / "programs.digest"
WORK = TOOLS / "programs-build"
TREE = WORK / "tree"
REQUIREMENTS = HERE / "requirements.txt"
PACKAGES = ["git", "gcc", "libc6-dev", "make", "r-base-core", "vim", "tmux"]
STATUS = "var/lib/dpkg/status"
# What the packages' scripts would have made.
LINKS = {
    "usr/bin/vim": "vim.basic",
    "usr/bin/cc": "gcc",
    "usr/lib/R/etc/Renviron": "Renviron.ucf",
    "usr/lib/x86_64-linux-gnu/libblas.so.3": "blas/libblas.so.3",
    "usr/lib/x86_64-linux-gnu/liblapack.so.3": "lapack/liblapack.so.3",
}
PLATFORMS = [*(f"manylinux_2_{minor}" for minor in (28, 27, 24, 17)), "manylinux2014"]
SETTINGS: dict[str, object] = {
    "User": "1000:1000",
    "Env": ["PATH=/opt/jupyter/bin:/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"],
}


def unpack_packages(status: str) -> None:
    """What the base lacks of these packages and of what they need."""
    (WORK / "dpkg").mkdir()
    (WORK / "dpkg/status").write_text(status)
    options = [*private_apt(SUITE), "-o", f"Dir::State::Status={WORK / 'dpkg/status'}"]
    watch(["apt-get", *options, "update"], r"^(?:Get|Hit):\d+ (.*)", title="package list")
    watch(
        ["apt-get", *options, "-o", f"Dir::Cache::Archives={WORK / 'debs'}", "install"]
        + ["--download-only", "--yes", "--no-install-recommends", *PACKAGES],
        r"^Get:\d+ \S+ \S+ \S+ (\S+)",
        title="package",
    )
    for deb in sorted((WORK / "debs").glob("*.deb")):
        run(["dpkg-deb", "-x", deb, TREE])
    # The base has merged these into usr; a directory of that name would hide its link.
    for name in ("bin", "sbin", "lib", "lib64"):
        if (TREE / name).exists():
            run(["cp", "-a", "-l", f"{TREE / name}/.", TREE / "usr" / name])
            shutil.rmtree(TREE / name)
    for place in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var"):
        shutil.rmtree(TREE / place, ignore_errors=True)
    for link, target in LINKS.items():
        place = TREE / link
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(target)


def unpack_wheels() -> None:
    wheels = TREE / "opt/wheels"
    target = only_for("3.11", PLATFORMS)
    download_wheels(REQUIREMENTS, wheels, target)
    site = TREE / "opt/jupyter/lib/python3.11/site-packages"
    files = [wheel for wheel in sorted(wheels.iterdir()) if not wheel.name.startswith("packaging")]
    run(
        [VENV / "bin/pip", "install", "--no-deps", "--no-index", "--no-compile", *target, "--target", site]
        + files
    )
    for wheel in files:
        if not wheel.name.startswith("wheel-"):
            wheel.unlink()


def main() -> None:
    said = BASE_DIGEST.read_text() if BASE_DIGEST.exists() else ""
    mark = fingerprint(*sorted(HERE.iterdir()), said)
    if is_done("programs", mark, LAYOUT, DIGEST):
        say(f"image: programs {DIGEST.read_text().strip()} (built before)")
        return
    for old in (LAYOUT, WORK):
        shutil.rmtree(old, ignore_errors=True)
    (WORK / "debs/partial").mkdir(parents=True)
    TREE.mkdir()
    TREE.chmod(0o755)
    first, files = base([STATUS])
    unpack_packages(files[STATUS])
    unpack_wheels()
    tar = WORK / "layer.tar"
    owner = ["--owner=0", "--group=0", "--numeric-owner", "--sort=name", "--mtime=@0", "--format=gnu"]
    subprocess.run(["tar", *owner, "-C", TREE, "-cf", tar, "."], check=True)
    layout = Layout(LAYOUT)
    digest = layout.finish([first, layout.layer_of_file(tar)], SETTINGS)
    DIGEST.write_text(f"{digest}\n")
    shutil.rmtree(WORK)
    set_done("programs", mark)
    say(f"image: programs {digest}")


try:
    with locked():
        main()
except ToolError as error:
    say(f"error: {error}")
    sys.exit(1)

"""Builds the single-user image; run by `build`, in a mount namespace of its own.

Debian comes by debootstrap, Jupyter from the package index through the host's own
pip settings; what runs inside the new tree has no network.
"""

import os
import shutil
import sys
from pathlib import Path

import archive
from common import TOOLS, ToolError, fingerprint, is_done, locked, run, say, set_done, watch
from debian import KEYRING, MIRROR
from python import VENV, download_wheels, only_for

HERE = Path(__file__).resolve().parent
REFERENCE = "localhost/adrastea/singleuser:1"
ARCHIVE = TOOLS / "singleuser.oci.tar"
DIGEST = TOOLS / "singleuser.digest"
WORK = TOOLS / "singleuser-build"
ROOT_TREE = WORK / "root"
REQUIREMENTS = HERE / "requirements.txt"
PACKAGES = ["python3-venv", "ca-certificates", "procps", "less"]
WHEEL_PLATFORMS = [
    *(f"manylinux_2_{minor}" for minor in (34, 28, 26, 17)),
    *("manylinux2014", "manylinux2010", "manylinux1"),
]
SETTINGS: dict[str, object] = {
    "User": "1000:1000",
    "WorkingDir": "/home/jovyan",
    "Cmd": ["jupyterhub-singleuser"],
    "Env": [
        "PATH=/opt/jupyter/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/home/jovyan",
        "LANG=C.UTF-8",
        "SHELL=/bin/bash",
    ],
}


def make_debian() -> None:
    say("[2/4] Debian bookworm (debootstrap)")
    watch(
        ["debootstrap", "--variant=minbase", f"--keyring={KEYRING}"]
        + [f"--include={','.join(PACKAGES)}", "bookworm", ROOT_TREE, MIRROR],
        r"^I: ((?:Retrieving|Extracting|Unpacking|Configuring) \S+)",
        title="step",
    )


def install() -> None:
    say("[3/4] installing Jupyter into it")
    target = ROOT_TREE / "install"
    target.mkdir()
    for name in ("requirements.txt", "jupyter_lab_config.json", "install"):
        shutil.copy(HERE / name, target / name)
    (WORK / "wheels").rename(target / "wheels")
    run(["mount", "-t", "proc", "proc", ROOT_TREE / "proc"])
    clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "PIP_CONFIG_FILE": "/dev/null"}
    watch(
        ["unshare", "--net", "chroot", ROOT_TREE, "/install/install"],
        r"^(?:STEP |Processing \S*/)(\S.*?)(?:-py\S*|-cp\S*)?$",
        title="step",
        env=clean,
    )
    run(["umount", ROOT_TREE / "proc"])
    shutil.rmtree(target)


def main() -> None:
    os.umask(0o022)
    sources = sorted(file for file in HERE.iterdir() if file.is_file())
    mark = fingerprint(*sources)
    if is_done("singleuser", mark, ARCHIVE, DIGEST):
        say(f"image: {REFERENCE} {DIGEST.read_text().strip()} (built before)")
        return
    if not (VENV / "bin/pip").exists():
        raise ToolError("failed to find pip in target/tools (run tools/get first)")
    say(f"image: building {REFERENCE}, about three minutes")
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    say("[1/4] downloading Python packages")
    # For the Python in the image, not for the host's.
    download_wheels(REQUIREMENTS, WORK / "wheels", only_for("3.11", WHEEL_PLATFORMS))
    make_debian()
    install()
    say("[4/4] writing the archive")
    digest = archive.write(ROOT_TREE, ARCHIVE, REFERENCE, SETTINGS)
    DIGEST.write_text(digest + "\n")
    shutil.rmtree(WORK)
    set_done("singleuser", mark)
    say(f"image: {REFERENCE} {digest}, {ARCHIVE.stat().st_size >> 20} MiB")


try:
    with locked():
        main()
except ToolError as error:
    say(f"error: {error}")
    sys.exit(1)

"""The Python environments, one for each supported JupyterHub, and in each the spawner
from this checkout."""

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from common import ROOT, STAMPS, TOOLS, fingerprint, is_done, run, say, set_done, watch

REQUIREMENTS = ROOT / "tools" / "hub-requirements.txt"
SHIM = ROOT / "python-shim"
# The newest of each minor version that is supported.
HUBS = {"6.1": "6.1.1", "5.5": "5.5.4"}
# What the demo, lint, scripts and the build of the image use.
VENV = TOOLS / "venv-6.1"


def pins(file: Path) -> int:
    """How many packages a requirements file pins."""
    return sum("==" in line for line in file.read_text().splitlines())


def only_for(version: str, platforms: Iterable[str]) -> list[str]:
    """Has pip take wheels for this Python on these platforms, not for its own."""
    target = ["--only-binary=:all:", f"--python-version={version}", "--implementation=cp"]
    return target + [f"--platform={platform}_x86_64" for platform in platforms]


def download_wheels(listed: Path, into: Path, target: list[str]) -> None:
    """Everything that a requirements file pins, held against its hashes."""
    watch(
        [VENV / "bin/pip", "download", "--no-deps", "--no-input", "--require-hashes", *target]
        + ["--dest", into, "--requirement", listed],
        r"^Collecting (\S+)==",
        pins(listed),
        "package",
    )


def _get_environment(name: str, hub: str) -> Path:
    venv = TOOLS / f"venv-{name}"
    mark = fingerprint(REQUIREMENTS, hub, sys.executable, sys.version)
    if is_done(f"python-{name}", mark, venv / "bin/jupyterhub"):
        return venv
    shutil.rmtree(venv, ignore_errors=True)
    run([sys.executable, "-m", "venv", venv])
    # Everything is listed, so nothing is resolved, and what is left out stays out.
    watch(
        [venv / "bin/pip", "install", "--no-deps", "--no-input", "-r", REQUIREMENTS, f"jupyterhub=={hub}"],
        r"^Collecting (\S+)",
        pins(REQUIREMENTS) + 1,
        "package",
    )
    set_done(f"python-{name}", mark)
    return venv


def _get_shim(name: str, venv: Path) -> None:
    """Installs the spawner as its users would, not as a link into the checkout,
    which the hub's user may not be able to read."""
    package = (file for file in (SHIM / "adrastea").rglob("*") if "__pycache__" not in file.parts)
    sources = [SHIM / "pyproject.toml", *sorted(file for file in package if file.is_file())]
    mark = fingerprint(*sources, (STAMPS / f"python-{name}").read_text())
    if is_done(f"shim-{name}", mark):
        return
    pip = [venv / "bin/pip", "install", "--no-deps", "--no-build-isolation", "--no-input"]
    run([*pip, "--force-reinstall", SHIM])
    set_done(f"shim-{name}", mark)


def get_python(step: str) -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    for name, hub in HUBS.items():
        say(f"{step}python environment with JupyterHub {hub}")
        venv = _get_environment(name, hub)
        if (SHIM / "pyproject.toml").exists():
            _get_shim(name, venv)
        versions[f"jupyterhub-{name}"] = hub
    return versions

"""The Python environment with JupyterHub, and the spawner from this checkout."""

import shutil
import sys
from pathlib import Path

from common import ROOT, STAMPS, TOOLS, fingerprint, is_done, run, say, set_done, watch

REQUIREMENTS = ROOT / "tools" / "hub-requirements.txt"
SHIM = ROOT / "python-shim"
VENV = TOOLS / "venv-6.1"


def pins(file: Path) -> int:
    """How many packages a requirements file pins."""
    return sum("==" in line for line in file.read_text().splitlines())


def _get_environment() -> None:
    mark = fingerprint(REQUIREMENTS, sys.executable, sys.version)
    if is_done("python", mark, VENV / "bin/jupyterhub"):
        return
    shutil.rmtree(VENV, ignore_errors=True)
    run([sys.executable, "-m", "venv", VENV])
    # Everything is listed, so nothing is resolved, and what is left out stays out.
    watch(
        [VENV / "bin/pip", "install", "--no-deps", "--no-input", "-r", REQUIREMENTS],
        r"^Collecting (\S+)",
        pins(REQUIREMENTS),
        "package",
    )
    set_done("python", mark)


def _get_shim() -> None:
    """Installs the spawner as its users would, not as a link into the checkout,
    which the hub's user may not be able to read."""
    sources = [SHIM / "pyproject.toml", *sorted((SHIM / "adrastea").rglob("*.py"))]
    mark = fingerprint(*sources, (STAMPS / "python").read_text())
    if is_done("shim", mark):
        return
    pip = [VENV / "bin/pip", "install", "--no-deps", "--no-build-isolation", "--no-input"]
    run([*pip, "--force-reinstall", SHIM])
    set_done("shim", mark)


def get_python(step: str) -> dict[str, str]:
    say(f"{step}python environment")
    _get_environment()
    if (SHIM / "pyproject.toml").exists():
        _get_shim()
    installed = sorted(VENV.glob("lib/python3*/site-packages/jupyterhub-*.dist-info"))
    hub = installed[-1].name.removeprefix("jupyterhub-").removesuffix(".dist-info")
    return {"python": sys.version.split()[0], "jupyterhub": hub}

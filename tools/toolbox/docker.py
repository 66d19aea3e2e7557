"""Docker and DockerSpawner, to be compared with; in a place of their own."""

import shutil
import sys

import debian
from common import TOOLS, fingerprint, is_done, run, say, set_done
from python import VENV

PINS = ["dockerspawner==14.0.0", "docker==7.2.0", "escapism==1.1.0"]
PLACE = TOOLS / "docker" / "python"


def get_docker(step: str) -> dict[str, str]:
    versions = debian.get_docker_packages(step)
    mark = fingerprint(*PINS, sys.version)
    say(f"{step}DockerSpawner")
    if not is_done("dockerspawner", mark, PLACE / "dockerspawner"):
        shutil.rmtree(PLACE, ignore_errors=True)
        # Beside the hub's environment, which has the rest of what it needs.
        run([VENV / "bin/pip", "install", "--no-deps", "--no-input", "--target", PLACE, *PINS])
        set_done("dockerspawner", mark)
    return {**versions, "dockerspawner": PINS[0].partition("==")[2]}

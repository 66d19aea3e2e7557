"""A browser without a window, and what drives it; for tests."""

import shutil
import sys

import debian
from common import TOOLS, fingerprint, is_done, run, say, set_done
from python import VENV

# The driver of the tests; Debian's browser is driven, none is downloaded.
PINS = ["playwright==1.65.2", "greenlet==3.2.4"]
PLACE = TOOLS / "browser"


def get_browser(step: str) -> dict[str, str]:
    versions = debian.get_browser_packages(step)
    mark = fingerprint(*PINS, sys.version)
    say(f"{step}browser driver")
    if not is_done("browser", mark, PLACE / "playwright"):
        shutil.rmtree(PLACE, ignore_errors=True)
        # Beside the hub's environments, because each of them uses it.
        run([VENV / "bin/pip", "install", "--no-deps", "--no-input", "--target", PLACE, *PINS])
        set_done("browser", mark)
    return {**versions, "playwright": PINS[0].partition("==")[2]}

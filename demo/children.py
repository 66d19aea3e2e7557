"""Programs that run beside the demo, with their output on one terminal.

Each is a session of its own, so that Ctrl-C reaches only the demo, which then stops
them in order. It must never signal a process it did not start.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

COLOURS = {"launcher": "36", "hub": "33", "proxy": "35", "check": "32"}


def label(name: str) -> str:
    text = f"{name:<8} |"
    return f"\033[{COLOURS.get(name, '0')}m{text}\033[0m" if sys.stdout.isatty() else text


class Child:
    """A program whose every line is shown behind its name."""

    def __init__(
        self, name: str, command: Sequence[object], environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [str(word) for word in command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        # A daemon, because something the child left running may hold the pipe open.
        self._reader = threading.Thread(target=self._show, daemon=True)
        self._reader.start()

    def _show(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            print(f"{label(self.name)} {line}", end="", flush=True)

    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self) -> int:
        code = self.process.wait()
        self._reader.join(timeout=2)
        return code

    def stop(self, patience: float) -> bool:
        """Asks it to end, and after `patience` seconds makes it; false if it had to."""
        if self.ended():
            return True
        os.kill(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            return False
        self._reader.join(timeout=2)
        return True

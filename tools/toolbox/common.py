"""What every part of the tool box shares: paths, progress, stamps, commands."""

import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "target" / "tools"
STAMPS = TOOLS / "stamps"


class ToolError(Exception):
    """Something could not be got; the text says what, and what to do."""


def say(text: str) -> None:
    print(text, flush=True)


@contextmanager
def locked() -> Iterator[None]:
    """Lets one process at a time change target/tools."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    with open(TOOLS / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another run that is getting tools")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fingerprint(*inputs: object) -> str:
    """One hash over texts, files and trees. The checkout's own place belongs to
    it, because unpacked tools and virtual environments hold absolute paths."""
    digest = hashlib.sha256(str(ROOT).encode())
    for item in inputs:
        if not isinstance(item, Path):
            digest.update(f"\0{item}".encode())
            continue
        files = sorted(item.rglob("*")) if item.is_dir() else [item]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"\0{file.relative_to(ROOT)}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()


def is_done(name: str, mark: str, *results: Path) -> bool:
    stamp = STAMPS / name
    if not all(result.exists() for result in results):
        return False
    return stamp.exists() and stamp.read_text() == mark


def set_done(name: str, mark: str) -> None:
    STAMPS.mkdir(parents=True, exist_ok=True)
    (STAMPS / name).write_text(mark)


def record_versions(versions: Mapping[str, str]) -> None:
    """Keeps target/tools/versions.json, for reports and bug reports."""
    file = TOOLS / "versions.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    known.update(versions)
    file.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")


def run(command: Sequence[object], **options: object) -> str:
    """Runs a command quietly; its output is shown only if it fails."""
    return watch(command, None, **options)


def watch(
    command: Sequence[object],
    step: str | None,
    total: int | None = None,
    title: str = "",
    **options: object,
) -> str:
    """Runs a command and tells how far it is by counting the lines that match
    `step`, whose first group names what is being worked on."""
    words = [str(word) for word in command]
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        **options,
    )
    assert process.stdout is not None
    lines: list[str] = []
    count, last = 0, time.monotonic()
    live = sys.stdout.isatty()
    for line in process.stdout:
        lines.append(line)
        found = re.search(step, line) if step else None
        if not found:
            continue
        count += 1
        if live or time.monotonic() - last >= 5:
            last = time.monotonic()
            position = f"{count}/{total}" if total else str(count)
            text = f"  {title} {position} {found[1]}"
            print(f"\r\033[K{text[:100]}" if live else text, end="" if live else "\n", flush=True)
    if live and count:
        print("\r\033[K", end="", flush=True)
    if process.wait() != 0:
        tail = "".join(lines[-30:])
        raise ToolError(f"failed to run `{' '.join(words[:6])}`:\n{tail}")
    return "".join(lines)


def need_root(what: str) -> None:
    if os.geteuid() != 0:
        raise ToolError(f"failed to {what}: only root can (run it with sudo)")

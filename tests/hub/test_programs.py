"""What a user runs works behind the filter: each program whose calls were recorded for it
does in a sandbox what it did when it was recorded, under each runtime.

The programs are in runtimes/traces/programs, and what they need in an image of their own.
They wait a lot, so all of them run at once, each for a user of its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from place import CHECKOUT

from launcher import Launcher

PROGRAMS = sorted((CHECKOUT / "runtimes/traces/programs").iterdir())
# What shows that it came through.
SAYS = {
    "bash": ["here", "through", "got", "2+0 records out", "jovyan"],
    "gcc": ["1.414214\n1.414214\n1.414214\n", "_DYNAMIC", "Disassembly"],
    "git": ["file1:more", "Dropped refs/stash", '"GET /info/refs?service=git-upload-pack HTTP/1.1" 200'],
    "ipykernel": ["ZeroDivisionError", "loop", "bash", "<IPython.core.display.HTML object>"],
    "jupyterlab": ["the cell ran"],
    "numpy": ["(800, 800)", "328350", "[0, 1, 4, 9]", "['user.x'] b'1'"],
    "pip": ["Successfully built thing", "Successfully installed thing-1", "Successfully uninstalled thing-1"],
    "r": ["[1] 500 500", "[1] 1000", "from R"],
    "terminal": ["text of a file"],
}
# Calls that a runtime's kernel does not have, as its list of limitations says.
ABSENT = {
    ("gvisor", "numpy"): [
        'os.copy_file_range(os.open("d.csv", 0), os.open("d4", os.O_CREAT | os.O_WRONLY), 10); ',
        "os.pidfd_open(os.getpid()); ",
    ]
}
# What a program says whose call the filter refused, or which gave up.
REFUSED = ["not permitted", "not implemented", "Bad system call", "Traceback", "Execution halted"]


@pytest.fixture(scope="module", params=["runc", "gvisor"])
def said(launcher: Launcher, request: pytest.FixtureRequest) -> dict[str, tuple[int, str]]:
    """How each program ended, and what it said."""
    started = {}
    for program in PROGRAMS:
        text = program.read_text()
        # What the terminal's vim wrote is all that it tells.
        text = text.replace("rm -f typing.py typed.txt", "cat typed.txt; rm -f typing.py typed.txt")
        # And a server whose kernel never answered would say nothing, either.
        text = text.replace('"execute_reply": break', '"execute_reply": print("the cell ran"); break')
        for call in ABSENT.get((request.param, program.name), []):
            assert call in text
            text = text.replace(call, "")
        started[program.name] = launcher.begin(
            "run",
            *("--user", f"runs-{program.name}", "--profile", "test-programs", "--runtime", request.param),
            *("--", "sh", "-c", f"exec 2>&1\n{text}"),
        )
    ended = {name: process.communicate(timeout=600) for name, process in started.items()}
    return {name: (started[name].returncode, "".join(texts)) for name, texts in ended.items()}


def test_every_program_is_here() -> None:
    assert {program.name for program in PROGRAMS} == set(SAYS)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_program(said: dict[str, tuple[int, str]], program: Path) -> None:
    code, text = said[program.name]
    assert code == 0, text
    for words in SAYS[program.name]:
        assert words in text, f"`{words}` is not in:\n{text}"
    refused = [word for word in REFUSED if word in text]
    if program.name == "ipykernel":
        # It divides by zero, and asks where nobody can type.
        refused.remove("Traceback")
    assert refused == [], text

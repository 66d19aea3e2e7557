"""Finds the indented blocks in the documents, and says what each is."""

from __future__ import annotations

import re
from dataclasses import dataclass

from place import CHECKOUT

# Stands before a block of commands that the tests cannot run; the reason is required.
NOT_RUNNABLE = re.compile(r"^<!-- not runnable here: (?P<reason>\S.*) -->$")
# Stands before a block that is neither commands nor a language known below.
NO_COMMANDS = re.compile(r"^<!-- no commands: (?P<reason>\S.*) -->$")
LOOKS = {
    "unit": re.compile(r"\[(Unit|Service|Install)\]"),
    "python": re.compile(r"c\.\w+|import |from |def |class |@"),
    "rust": re.compile(r"pub |fn |use |impl |let |struct |mod |//|#\["),
    "toml": re.compile(r"\[[\w.]+\]|[\w.]+ = "),
}


@dataclass(frozen=True)
class Block:
    document: str
    line: int
    text: str
    kind: str
    # Why it is not run, if it is marked.
    reason: str

    @property
    def name(self) -> str:
        return f"{self.document}:{self.line}"


def _kind(text: str) -> str:
    first = text.splitlines()[0]
    return next((kind for kind, looks in LOOKS.items() if looks.match(first)), "commands")


def blocks() -> list[Block]:
    """Every indented block of the README, CONTRIBUTING, and docs/."""
    found: list[Block] = []
    paths = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md"]
    for path in paths + sorted((CHECKOUT / "docs").rglob("*.md")):
        lines = path.read_text().splitlines()
        reason = kind = ""
        before = ""
        number = 0
        while number < len(lines):
            line = lines[number]
            if not line.strip():
                number += 1
                continue
            if line.startswith("    ") and (number == 0 or not lines[number - 1].strip()):
                start = number
                while number < len(lines) and (lines[number].startswith("    ") or not lines[number].strip()):
                    number += 1
                text = "\n".join(line[4:] for line in lines[start:number]).strip("\n")
                name = str(path.relative_to(CHECKOUT))
                found.append(Block(name, start + 1, text, kind or _kind(text), reason))
                reason = kind = ""
                continue
            reason = kind = ""
            if marked := NOT_RUNNABLE.match(line):
                reason = marked["reason"]
            elif NO_COMMANDS.match(line):
                kind = "other"
            before = line
            number += 1
        assert not NOT_RUNNABLE.match(before), f"{path}: a mark without a block"
    return found

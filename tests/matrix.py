"""Which promise was seen to hold under which runtime: rows of docs/SPECIFICATION.md
against what the suites came to.

A cell is `pass` only if every test that the row lists was seen to pass: for this
runtime where the test starts sandboxes, once where it does not. Must never count
a test that did not run.
"""

import re
from dataclasses import dataclass
from pathlib import Path

# Whose tests start sandboxes under the runtime of their column.
COLUMNS = ("tests/system", "tests/isolation")
# Whose tests start sandboxes under the first runtime, but for those that name another.
FIRST_ONLY = ("tests/hub",)
# Behind a runtime's name: the column in which every tenant's sandbox is one that has waited. What
# starts no tenant is in the runtime's own column only.
CLAIMED = "-claimed"
ROW = re.compile(r"^\| (?P<id>[A-Z]+-\d+) \| (?P<promise>.*?) \| (?P<proofs>.*) \|$")
PROOF = re.compile(r"\[(?P<label>[^\]]+)\](?P<names>(?:,? `[^`]+`)*)")


@dataclass
class Outcome:
    """One test that ended, or was ignored."""

    suite: str
    name: str
    # None if it passed, "" if it failed, else why it was ignored.
    reason: str | None


@dataclass
class Proof:
    folder: str
    name: str


def promises(specification: str) -> dict[str, list[Proof]]:
    places = dict(re.findall(r"^\[([^\]]+)\]: \.\./(\S+)$", specification, re.MULTILINE))
    rows: dict[str, list[Proof]] = {}
    for line in specification.splitlines():
        if not (row := ROW.match(line)):
            continue
        rows[row["id"]] = [
            Proof(places.get(proof["label"], ""), name)
            for proof in PROOF.finditer(row["proofs"])
            for name in re.findall(r"`([^`]+)`", proof["names"])
        ]
    return rows


def _plain(name: str) -> str:
    """A test's name without the suite before it and the parameters behind it."""
    return re.sub(r"\[[^\]]*\]$", "", name)


def _of(proof: Proof, runtime: str, runtimes: list[str], outcomes: list[Outcome]) -> list[Outcome]:
    found = [one for one in outcomes if _plain(one.name).endswith(f"::{proof.name}")]
    if proof.folder.startswith(COLUMNS):
        return [one for one in found if one.suite.endswith(f"-{runtime}")]
    if proof.folder.startswith(FIRST_ONLY) and runtime != runtimes[0]:
        return [one for one in found if runtime in one.name.rpartition("[")[2]]
    named = [one for one in found if any(other in one.name.rpartition("[")[2] for other in runtimes)]
    return [one for one in found if one not in named or runtime in one.name.rpartition("[")[2]]


def _claimed(proof: Proof, column: str, outcomes: list[Outcome]) -> list[Outcome]:
    found = [one for one in outcomes if _plain(one.name).endswith(f"::{proof.name}")]
    return [one for one in found if one.suite.endswith(f"-{column}")]


def cell(proofs: list[Proof], runtime: str, runtimes: list[str], outcomes: list[Outcome]) -> str:
    column, runtime = runtime, runtime.removesuffix(CLAIMED)
    is_claimed = column != runtime
    if is_claimed and not any(_claimed(proof, column, outcomes) for proof in proofs):
        return "ignored: none of its tests ran with a sandbox that has waited"
    ignored = "" if proofs else "no test is named"
    for proof in proofs:
        found = _claimed(proof, column, outcomes) if is_claimed else []
        found = found or _of(proof, runtime, runtimes, outcomes)
        if any(one.reason == "" for one in found):
            return "fail"
        if not found:
            ignored = ignored or f"`{proof.name}` was not run under {runtime}"
        for one in found:
            ignored = ignored or (one.reason or "")
    return f"ignored: {ignored}" if ignored else "pass"


def _nothing_ran(column: str, outcomes: list[Outcome]) -> str:
    """Why none of a column's own tests ran, if so: then it was seen to keep no promise at all."""
    own = [one.reason for one in outcomes if one.suite.endswith(f"-{column}")]
    if not own:
        return "none of its own tests ran"
    if not all(own):
        return ""
    reasons = [reason for reason in own if reason]
    return max(sorted(set(reasons)), key=reasons.count)


def matrix(
    specification: Path, columns: list[str], runtimes: list[str], outcomes: list[Outcome]
) -> dict[str, dict[str, str]]:
    absent = {column: _nothing_ran(column, outcomes) for column in columns}

    def one(proofs: list[Proof], column: str) -> str:
        why = absent[column]
        return f"ignored: {why}" if why else cell(proofs, column, runtimes, outcomes)

    return {
        promise: {column: one(proofs, column) for column in columns}
        for promise, proofs in promises(specification.read_text()).items()
    }


def show(table: dict[str, dict[str, str]], columns: list[str]) -> str:
    """A line for each promise, and then what each column comes to."""

    def line(words: list[str]) -> str:
        cells = zip(words, ["", *columns], strict=True)
        return "  " + " ".join(f"{word:<{max(8, len(column))}}" for word, column in cells).rstrip()

    lines = ["promises by runtime", line(["", *columns])]
    for promise, cells in table.items():
        lines.append(line([promise, *(cells[column].partition(":")[0] for column in columns)]))
    for column in columns:
        words = [cells[column].partition(":")[0] for cells in table.values()]
        counts = ", ".join(f"{words.count(word)} {word}" for word in ("pass", "fail", "ignored"))
        lines.append(f"  {column}: {counts}")
    return "\n".join(lines)

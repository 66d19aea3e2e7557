"""Runs the test suites side by side and sums them up: `make test`.

Gets what it needs itself. Must never count a test that did not run as passed:
a suite that ends without its closing line has failed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

from matrix import CLAIMED, Outcome, matrix, show

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "target"
REPORT = TARGET / "test-report"
STATIC = TARGET / "x86_64-unknown-linux-gnu/release"
# Whose sandboxes never wait for their users: a machine's home is there before its start.
NEVER_WAIT = {"kata"}
# The supported versions of JupyterHub; each has an environment in target/tools.
HUBS = ("6.1", "5.5")
LINE = re.compile(r"^test (?P<name>.+?) \.\.\. (?P<result>ok|FAILED|ignored)(?:, (?P<reason>.*))?$")
BRACKET = re.compile(r" *\[ignored: (.*)\]")
CLOSING = re.compile(r"^test result: ", re.MULTILINE)
# What a Rust harness tells of a failed test.
TOLD = re.compile(r"^---- (?P<name>\S+)(?: stdout)? ----\n(?P<told>.*?)(?=^---- |^failures:$)", re.M | re.S)
# Of a failure, so many lines and letters stand behind the summary; the log has the rest.
REASON_LINES, REASON_WIDTH = 6, 300


@dataclass
class Suite:
    """What a suite came to."""

    name: str
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0
    outcomes: list[Outcome] = field(default_factory=list)
    # What the failed ones say of it.
    told: dict[str, str] = field(default_factory=dict)

    def saw(self, name: str, reason: str | None) -> None:
        """Notes one test: passed (None), failed (""), or ignored with this reason."""
        self.outcomes.append(Outcome(self.name, name, reason))
        if reason is None:
            self.passed += 1
        elif reason:
            self.ignored.append((name, reason))
        else:
            self.failed.append(name)

    def add(self, output: str, code: int, what: str) -> None:
        """Reads the lines that Rust's test harnesses print."""
        failures = 0
        self.told |= {f"{what}::{found['name']}": found["told"] for found in TOLD.finditer(output)}
        for line in output.splitlines():
            if not (found := LINE.match(line)):
                continue
            plain = BRACKET.sub("", found["name"]).strip()
            name = f"{what}::{plain}"
            if found["result"] == "ok":
                self.saw(name, None)
            elif found["result"] == "ignored":
                # libtest-mimic has no reasons of its own: they stand in brackets behind the name.
                bracket = BRACKET.search(found["name"])
                reason = found["reason"] or (bracket[1] if bracket else "") or "no reason given"
                self.saw(name, reason)
            else:
                failures += 1
                self.saw(name, "")
        if not CLOSING.search(output) or (code != 0 and failures == 0):
            self.failed.append(f"{what} (ended with code {code}, without saying why)")


def run(command: list[object], log: Path, folder: Path = ROOT, **environment: str) -> tuple[int, str]:
    """Runs a command with its output in a log file; returns code and output."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        start = sink.tell()
        code = subprocess.run(
            [str(word) for word in command],
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    with log.open("rb") as source:
        source.seek(start)
        return code, source.read().decode(errors="replace")


def must(title: str, command: list[object], **environment: str) -> float:
    """A step without which nothing can run."""
    print(f"… {title}", flush=True)
    since = time.monotonic()
    log = REPORT / "logs" / f"{title.replace(' ', '-')}.log"
    code, output = run(command, log, **environment)
    if code != 0:
        print("\n".join(output.splitlines()[-60:]))
        sys.exit(f"failed at: {title} (the whole log: {log.relative_to(ROOT)})")
    print(f"✓ {title}: {time.monotonic() - since:.0f} s", flush=True)
    return time.monotonic() - since


@dataclass
class Binary:
    """One executable that Cargo built from tests."""

    package: str
    target: str
    kind: str
    path: str
    folder: Path


def build() -> list[Binary]:
    """Builds everything once, and finds the test executables."""
    cargo = ["cargo", "build", "--release"]
    must("build launcher and init", [ROOT / "tools/build"])
    must(
        "build failpoints",
        # This one and the tests are built for development, in a third of the time: what is
        # tested is the launcher above, as it is installed.
        ["cargo", "build", "-p", "adrastea", "--features", "failpoints", "--bin", "adrastea-failpoints"],
    )
    # The test image's own program is compiled alone, by the tests.
    static = ["-p", "adrastea-probe", "--bins", "--target", STATIC.parent.name]
    must("build probes", [*cargo, *static], RUSTFLAGS="-C target-feature=+crt-static")
    title = "build tests"
    must(
        title,
        ["cargo", "test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"],
    )
    found = []
    for line in (REPORT / "logs" / f"{title.replace(' ', '-')}.log").read_text().splitlines():
        if not line.startswith("{"):
            continue
        message = json.loads(line)
        if (
            message.get("reason") == "compiler-artifact"
            and message["profile"]["test"]
            and message["executable"]
        ):
            target = message["target"]
            folder = Path(message["manifest_path"]).parent
            found.append(
                Binary(folder.name, target["name"], target["kind"][0], message["executable"], folder)
            )
    return found


def build_images() -> float:
    """The single-user image, those on top of it and beside it, and what is compiled for a test or two."""
    spent = must("build image", [ROOT / "images/singleuser/build"])
    spent += must("build stacks image", [ROOT / "images/stacks/build"])
    spent += must("build programs image", [ROOT / "images/programs/build"])
    spent += must("build images with Pythons", [ROOT / "images/pythons/build"])
    # Compiled here and not with the other tools, so that nothing waits for it.
    return spent + must("get youki and gVisor's shim", [ROOT / "tools/get", "youki", "gvisor-shim"])


def rust(suite: Suite, binaries: list[Binary], **environment: str) -> None:
    for binary in binaries:
        what = f"{binary.package}/{binary.target}"
        log = REPORT / "logs" / f"{suite.name}.log"
        code, output = run([binary.path], log, binary.folder, **environment)
        suite.add(output, code, what)


def python(suite: Suite, folder: Path, hub: str) -> None:
    """Runs a folder's tests with the environment of one version of JupyterHub."""
    results = REPORT / f"{suite.name}.xml"
    results.unlink(missing_ok=True)
    log = REPORT / "logs" / f"{suite.name}.log"
    code, _ = run(
        [TARGET / f"tools/venv-{hub}/bin/python", "-m", "pytest", "-q", f"--junit-xml={results}", "."],
        log,
        folder,
    )
    if not results.exists():
        suite.failed.append(f"{suite.name} (pytest ended with code {code}, without a result)")
        return
    for case in ElementTree.parse(results).iter("testcase"):
        name = f"{suite.name}::{case.get('name')}"
        skipped = case.find("skipped")
        if skipped is not None:
            suite.saw(name, skipped.get("message") or "no reason given")
        elif (failure := case.find("failure")) is not None or (failure := case.find("error")) is not None:
            suite.saw(name, "")
            suite.told[name] = failure.get("message") or ""
        else:
            suite.saw(name, None)
    if code != 0 and not suite.failed:
        suite.failed.append(f"{suite.name} (pytest ended with code {code})")


def single(suite: Suite, command: list[object]) -> None:
    """A command that is one test."""
    code, _ = run(command, REPORT / "logs" / f"{suite.name}.log")
    if code == 0:
        suite.passed += 1
    else:
        suite.failed.append(f"{suite.name} (ended with code {code})")


def dependencies(suite: Suite) -> None:
    """Licences and sources of what is depended on; advisories need a database from outside."""
    if shutil.which("cargo-deny") is None:
        suite.ignored.append(("deny", "cargo-deny is not installed (cargo install cargo-deny)"))
    else:
        single(suite, ["cargo", "deny", "--offline", "check", "bans", "licenses", "sources"])


def known_runtimes() -> list[str]:
    """Every runtime there is: adding one adds its column."""
    words = [TARGET / "release/adrastea", "runtimes", "--names"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()


def claimed(runtimes: list[str]) -> list[str]:
    """The columns of sandboxes that have waited for their users."""
    return [runtime + CLAIMED for runtime in runtimes if runtime not in NEVER_WAIT]


# A suite's name, and what runs it.
Work = tuple[str, Callable[[Suite], None]]


def column(suite: Suite, binaries: list[Binary], runtime: str) -> None:
    rust(suite, binaries, ADRASTEA_TEST_RUNTIME=runtime)


@dataclass
class Lanes:
    """What runs side by side, and in each lane one after the other."""

    first: list[Work]
    second: list[Work]
    # Of these, each lane takes one when it has done its own.
    either: list[Work]
    last: list[Work]


def lanes(binaries: list[Binary], runtimes: list[str]) -> Lanes:
    """Where each suite runs."""

    def targets(*names: str) -> list[Binary]:
        return [binary for binary in binaries if binary.kind == "test" and binary.target in names]

    def of(kind: str, runtime: str) -> Work:
        return f"{kind}-{runtime}", partial(column, binaries=targets(kind), runtime=runtime)

    whole = {"network", "containerd", "functional", "system", "isolation"}
    unit = [binary for binary in binaries if binary.target not in whole]
    containerd = {
        "ADRASTEA_TOOLS": str(TARGET / "tools"),
        "ADRASTEA_CONTAINERD_1_7": str(TARGET / "tools/containerd-1.7"),
    }
    return Lanes(
        first=[
            ("lint", lambda suite: single(suite, [ROOT / "tools/lint"])),
            ("deny", dependencies),
            ("unit", lambda suite: rust(suite, unit)),
            # A seed of its own makes a failure of the gate repeatable; `make soak` tries many.
            ("functional", lambda suite: rust(suite, targets("functional"), ADRASTEA_SEED="1")),
            *[(f"shim-{hub}", partial(python, folder=ROOT / "python-shim", hub=hub)) for hub in HUBS],
            ("network", lambda suite: rust(suite, targets("network"))),
            # Both hubs, one after the other, with one launcher.
            ("hub", partial(python, folder=ROOT / "tests/hub", hub=HUBS[0])),
            *[of("isolation", runtime) for runtime in runtimes],
        ],
        second=[
            ("containerd", lambda suite: rust(suite, targets("containerd"), **containerd)),
            *[of("system", runtime) for runtime in runtimes],
        ],
        # The walls again, around tenants whose sandboxes have waited for them.
        either=[of("isolation", column) for column in claimed(runtimes)],
        # Compares the whole machine before and after, so it runs when nothing else does.
        last=[("demo", lambda suite: single(suite, ["make", "demo", "CHECK=1"]))],
    )


def taken_from(rest: deque[Work]) -> Iterator[Work]:
    """What nobody else has taken; asked from several threads."""
    while True:
        try:
            yield rest.popleft()
        except IndexError:
            return


def run_lane(lane: Iterable[Work], wanted: set[str], done: list[Suite]) -> None:
    for name, work in lane:
        # "shim" stands for "shim-6.1" and "shim-5.5".
        if wanted and not wanted & {name, name.split("-")[0]}:
            continue
        suite = Suite(name)
        since = time.monotonic()
        try:
            work(suite)
        except Exception as error:  # a broken suite must show as failed, not end the others
            suite.failed.append(f"{name} ({type(error).__name__}: {error})")
        suite.seconds = time.monotonic() - since
        if suite.passed == 0 and not suite.failed and not suite.ignored:
            suite.failed.append(f"{name} (no test ran)")
        mark = "✗" if suite.failed else "✓"
        print(
            f"{mark} {name}: {suite.passed} passed, {len(suite.failed)} failed, {len(suite.ignored)} ignored, {suite.seconds / 60:.1f} min",
            flush=True,
        )
        done.append(suite)


def excerpt(suite: Suite) -> None:
    """The end of a failed suite's log, so that the reason is on the page."""
    log = REPORT / "logs" / f"{suite.name}.log"
    if log.exists():
        print(f"\n--- {suite.name}: the end of {log.relative_to(ROOT)}")
        print("\n".join(log.read_text(errors="replace").splitlines()[-120:]))


def beginning(suite: Suite, name: str) -> str:
    """In which suite a test failed, and how what it says of it begins."""
    lines = [line[:REASON_WIDTH] for line in suite.told.get(name, "").splitlines() if line.strip()]
    return "\n".join(f"  {suite.name}: {line}" for line in lines[:REASON_LINES] or ["see its log"])


def room() -> str:
    """What is left of the disk: many odd failures are only a full one."""
    return f"disk: {shutil.disk_usage(ROOT).free / 1e9:.1f} GB free"


def main() -> int:
    if os.geteuid() != 0:
        sys.exit(
            "the tests must be run by root: they make namespaces, mounts and control groups (nothing is skipped for want of it)"
        )
    wanted = set(sys.argv[1:])
    # Everything is built once: what would make a second build faster is four gigabytes for nothing.
    os.environ.setdefault("CARGO_INCREMENTAL", "0")
    REPORT.mkdir(parents=True, exist_ok=True)
    for log in (REPORT / "logs").glob("*.log"):
        log.unlink()
    since = time.monotonic()
    print(room(), flush=True)
    must(
        "get tools",
        [ROOT / "tools/get", "packages", "containerd", "runc", "runsc", "python", "proxy"]
        + ["containerd-1.7", "faketime", "registry", "browser", "lint"],
    )
    # The image is made of downloads, the build of compilation: side by side they cost the longer of the two.
    built: list[float] = []
    image = threading.Thread(target=lambda: built.append(build_images()))
    image.start()
    binaries = build()
    image.join()
    if not built:
        return 1
    runtimes = known_runtimes()
    plan = lanes(binaries, runtimes)
    rest = deque(plan.either)
    done: list[Suite] = []
    beside = threading.Thread(target=run_lane, args=(chain(plan.second, taken_from(rest)), wanted, done))
    beside.start()
    run_lane(chain(plan.first, taken_from(rest)), wanted, done)
    beside.join()
    run_lane(plan.last, wanted, done)

    for suite in done:
        if suite.failed:
            excerpt(suite)
    ignored = [(name, reason) for suite in done for name, reason in suite.ignored]
    failed = [(suite, name) for suite in done for name in suite.failed]
    passed = sum(suite.passed for suite in done)
    print(f"\n{room()}")
    print("minutes per suite")
    for suite in done:
        print(
            f"  {suite.name:<24} {suite.seconds / 60:6.1f}   {suite.passed} passed, {len(suite.failed)} failed, {len(suite.ignored)} ignored"
        )
    print(f"  {'all':<24} {(time.monotonic() - since) / 60:6.1f}   with getting tools and building")
    outcomes = [one for suite in done for one in suite.outcomes]
    columns = [*runtimes, *claimed(runtimes)]
    table = matrix(ROOT / "docs/SPECIFICATION.md", columns, runtimes, outcomes)
    (REPORT / "matrix.json").write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n")
    print(show(table, columns))
    for name, reason in ignored:
        print(f"ignored: {name}: {reason}")
    for suite, name in failed:
        print(f"FAILED: {name}\n{beginning(suite, name)}")
    summary = {
        "passed": passed,
        "failed": len(failed),
        "ignored": [{"name": name, "reason": reason} for name, reason in ignored],
        "minutes": {suite.name: round(suite.seconds / 60, 2) for suite in done},
    }
    (REPORT / "summary.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    print(f"\n{passed} passed, {len(failed)} failed, {len(ignored)} skipped")
    return 1 if failed or passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main())

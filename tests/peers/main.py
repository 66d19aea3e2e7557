"""Starts of JupyterHub servers beside what else one would use, on one machine in one
run: `make bench-peers`. Contenders take turns; one that cannot take part is named.

Measures; never judges. Writes target/bench/peers.json and peers.md.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench_instance import ROOT
from contenders import DOCKER, Contender, Place, all_present, remove
from hub import Hub, StartError, environment_without_proxies

_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000


@dataclass
class Measured:
    starts: list[float] = field(default_factory=list)
    stops: list[float] = field(default_factory=list)
    storm_totals: list[float] = field(default_factory=list)
    storm: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def leave_the_hosts_namespaces() -> None:
    """Links, addresses and mounts of this run are nobody else's, and go with it."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS | _CLONE_NEWNET) != 0:
        sys.exit(f"failed to leave the host's namespaces: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def one(hub: Hub, contender: Contender, measured: Measured, counts: bool) -> None:
    user = user_of(contender, 1)
    try:
        taken = hub.start(user, contender.options)
        if counts:
            measured.starts.append(taken)
        stopped = hub.stop(user)
        if counts:
            measured.stops.append(stopped)
    except StartError as error:
        measured.failures.append(str(error))


def storm(hub: Hub, contender: Contender, measured: Measured, size: int) -> None:
    users = [user_of(contender, number) for number in range(1, size + 1)]

    def start(user: str) -> float | str:
        try:
            return hub.start(user, contender.options)
        except StartError as error:
            return str(error)

    def stop(user: str) -> str:
        try:
            hub.stop(user)
        except StartError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(size) as pool:
        since = time.perf_counter()
        for outcome in pool.map(start, users):
            (measured.failures if isinstance(outcome, str) else measured.storm).append(outcome)  # type: ignore[arg-type]
        measured.storm_totals.append((time.perf_counter() - since) * 1000)
        measured.failures += filter(None, pool.map(stop, users))


def user_of(contender: Contender, number: int) -> str:
    return f"{''.join(filter(str.isalnum, contender.name.lower()))}-{number}"


def quantiles(values: list[float]) -> dict[str, float] | None:
    """Values that were measured, by the nearest rank."""
    if not values:
        return None
    ordered = sorted(values)
    at = lambda percent: round(ordered[max(0, -(-len(ordered) * percent // 100) - 1)])  # noqa: E731
    return {"count": len(values), "p50": at(50), "p95": at(95), "p99": at(99)}


def measure(
    contenders: list[Contender], hubs: list[Hub], rounds: int, storms: int, size: int
) -> list[Measured]:
    measured = [Measured() for _ in contenders]
    for contender, hub in zip(contenders, hubs, strict=True):
        hub.add([user_of(contender, number) for number in range(1, size + 1)])
    turns = list(zip(contenders, hubs, measured, strict=True))
    # The first round fills caches and is not counted; each begins with another one.
    for number in range(rounds + 1):
        print(f"round {number} of {rounds}", file=sys.stderr)
        first = number % len(turns)
        for contender, hub, into in turns[first:] + turns[:first]:
            one(hub, contender, into, number > 0)
    for number in range(storms):
        first = number % len(turns)
        for contender, hub, into in turns[first:] + turns[:first]:
            print(f"{size} at once, {number + 1} of {storms}: {contender.name}", file=sys.stderr)
            storm(hub, contender, into, size)
    return measured


def page(report: dict) -> str:
    words = ["start, ms: p50", "p95", "p99", "stop p50", f"{report['storm']} at once: all", "p50", "failed"]
    lines = [f"| contender | {' | '.join(words)} |", "|---|" + "---:|" * len(words)]
    for name, row in report["contenders"].items():
        start, stop, storm = row["start_ms"] or {}, row["stop_ms"] or {}, row["storm_ms"] or {}
        total = row["storm_total_ms"] or {}
        cells = [start.get("p50"), start.get("p95"), start.get("p99"), stop.get("p50")]
        cells += [total.get("p50"), storm.get("p50"), len(row["failures"])]
        lines.append(f"| {name} | {' | '.join('-' if cell is None else str(cell) for cell in cells)} |")
    lines += ["", *(f"Missing: {name}: {reason}" for name, reason in report["missing"].items())]
    lines.append(f"Load over one minute: {report['load_before']} before, {report['load_after']} after.")
    return "\n".join(lines) + "\n"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=20)
    arguments.add_argument("--storm", type=int, default=10, help="starts at once")
    arguments.add_argument("--storms", type=int, default=3, help="how often")
    chosen = arguments.parse_args()
    if os.geteuid() != 0:
        sys.exit("must be run by root")
    leave_the_hosts_namespaces()
    environment_without_proxies()
    directory = Path(tempfile.mkdtemp(prefix="adrastea-peers-"))
    directory.chmod(0o711)
    load = os.getloadavg()[0]
    try:
        with ExitStack() as stack:
            place = Place(directory, stack)
            contenders = all_present(place)
            by_lines: dict[str, Hub] = {}
            for number, contender in enumerate(contenders):
                if contender.lines not in by_lines:
                    port = contender.hub_port or 18002 + 10 * number
                    hub = Hub(number, directory / f"hub-{number}", contender.hub_ip, port, contender.lines)
                    stack.callback(hub.end)
                    hub.serve(
                        DOCKER_HOST=f"unix://{directory}/docker.sock",
                        PYTHONPATH=str(DOCKER / "python"),
                    )
                    by_lines[contender.lines] = hub
            hubs = [by_lines[contender.lines] for contender in contenders]
            measured = measure(contenders, hubs, chosen.rounds, chosen.storms, chosen.storm)
    finally:
        remove(directory)
    report = {
        "contenders": {
            contender.name: {
                "start_ms": quantiles(into.starts),
                "stop_ms": quantiles(into.stops),
                "storm_ms": quantiles(into.storm),
                "storm_total_ms": quantiles(into.storm_totals) if into.storm else None,
                "failures": into.failures,
            }
            for contender, into in zip(contenders, measured, strict=True)
        },
        "missing": place.missing,
        "rounds": chosen.rounds,
        "storm": chosen.storm,
        "storms": chosen.storms,
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
    }
    out = ROOT / "target/bench"
    out.mkdir(parents=True, exist_ok=True)
    (out / "peers.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    (out / "peers.md").write_text(page(report))
    print(page(report), end="")


if __name__ == "__main__":
    main()

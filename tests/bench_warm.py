"""How long a start takes through a real hub, cold and with a sandbox that waits, interleaved in one run;
a part of `make bench-start`.

Measures; never judges: no figure here fails anything. Adds to target/bench/start.json.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/hub"))

import kernel  # noqa: E402
import place  # noqa: E402
from hub import Hub  # noqa: E402

from launcher import Launcher, profile  # noqa: E402

WARM, COLD = "bench-warm", "bench-cold"
# Steps of a claim that are the launcher's; the rest is the server's own.
LAUNCHER_STEPS = ("prove", "home", "egress", "claim")


def quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = lambda share: ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]  # noqa: E731
    return {"p50": round(at(0.5), 1), "p95": round(at(0.95), 1), "p99": round(at(0.99), 1)}


def pool(launcher: Launcher) -> dict[str, int]:
    lines = launcher.run("pool").stdout.splitlines()
    names, row = lines[0].split(), next((line.split() for line in lines if line.startswith(WARM)), [])
    return {name: int(row[names.index(name)]) if row else 0 for name in ("WAITING", "HITS", "FAILURES")}


def fill(launcher: Launcher, count: int) -> None:
    deadline = time.monotonic() + 120 + 30 * count
    while pool(launcher)["WAITING"] < count:
        if time.monotonic() > deadline:
            sys.exit(f"the pool is not filled:\n{launcher.run('pool').stdout}")
        time.sleep(0.2)


def server_cpu(launcher: Launcher, user: str, hub: Hub) -> tuple[dict[str, float], float]:
    """Milliseconds of the start's steps, and processor time of the sandbox so far."""
    text = launcher.run("inspect", "--user", user, "--hub", hub.name, "--json").stdout
    found = json.loads(text)
    steps = {step["step"]: step["microseconds"] / 1000 for step in found["steps"]}
    return steps, found["counters"].get("cpu_used_microseconds", 0) / 1000


def spawn(hub: Hub, user: str, name: str) -> float:
    """Milliseconds from the request until the hub says that the server is up."""
    since = time.perf_counter()
    answer = hub.spawn(user, options={"profile": name})
    if answer.status_code == 202:
        hub.wait(user, seconds=180)
    elif answer.status_code != 201:
        sys.exit(f"the start failed: {answer.text}")
    return (time.perf_counter() - since) * 1000


def one(launcher: Launcher, hub: Hub, name: str, number: int) -> dict[str, float]:
    user = f"{name}-{number}"
    hub.add_user(user)
    waited = pool(launcher)["HITS"]
    before = waiting_cpu(launcher) if name == WARM else 0.0
    since = time.perf_counter()
    took = {"hub_201_ms": spawn(hub, user, name)}
    hub.get(f"/user/{user}/api")
    took["first_api_ms"] = (time.perf_counter() - since) * 1000
    steps, cpu = server_cpu(launcher, user, hub)
    kernel.run_code(hub, f"/user/{user}/", "print(1)", hub.port)
    took["first_cell_ms"] = (time.perf_counter() - since) * 1000
    took["server_cpu_ms"] = cpu - before
    took["launcher_share_ms"] = sum(steps.get(step, 0) for step in LAUNCHER_STEPS)
    if name == WARM and pool(launcher)["HITS"] == waited:
        sys.exit("a start found no sandbox that waits")
    hub.stop(user)
    return took


def waiting_cpu(launcher: Launcher) -> float:
    """Milliseconds that the sandbox that will be taken has used by now."""
    lines = launcher.run("pool").stdout.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("SANDBOX"))
    return float(lines[start + 1].split()[-2])


def storm(launcher: Launcher, hub: Hub, name: str, size: int, number: int) -> dict[str, float]:
    users = [f"{name}-storm-{number}-{index}" for index in range(size)]
    for user in users:
        hub.add_user(user)
    since = time.perf_counter()
    with ThreadPoolExecutor(size) as threads:
        times = list(threads.map(lambda user: spawn(hub, user, name), users))
    total = (time.perf_counter() - since) * 1000
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(hub.stop, users))
    return {"total_ms": round(total, 1), **quantiles(times)}


def measure(launcher: Launcher, hub: Hub, rounds: int, storms: list[int], slots: int) -> dict:
    results: dict[str, list[dict[str, float]]] = {COLD: [], WARM: []}
    for number in range(rounds):
        for name in (COLD, WARM):
            fill(launcher, 1)
            results[name].append(one(launcher, hub, name, number))
        print(f"\rround {number + 1} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    report: dict = {}
    for kind, name in (("cold", COLD), ("warm", WARM)):
        rows = results[name]
        report[kind] = {
            key: quantiles([row[key] for row in rows])
            for key in ("hub_201_ms", "first_api_ms", "first_cell_ms")
        }
        report[kind]["server_cpu_ms_p50"] = round(statistics.median(row["server_cpu_ms"] for row in rows), 1)
        if kind == "warm":
            shares = [row["launcher_share_ms"] for row in rows]
            report[kind]["claim_launcher_share_ms_p50"] = round(statistics.median(shares), 1)
    report["storm"] = {}
    for number, size in enumerate(storms):
        fill(launcher, min(size, slots))
        with_pool = storm(launcher, hub, WARM, size, number)
        report["storm"][str(size)] = {
            "pool": with_pool,
            "no_pool": storm(launcher, hub, COLD, size, number),
        }
    report["failed_claims"] = pool(launcher)["FAILURES"]
    return report


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=10)
    arguments.add_argument("--storms", type=int, nargs="*", default=[20])
    chosen = arguments.parse_args()
    place.leave_the_hosts_namespaces()
    directory, hub_directory = (Path(tempfile.mkdtemp(prefix="adrastea-bench-")) for _ in range(2))
    directory.chmod(0o711)
    launcher = Launcher(f"warm{os.getpid() % 100000}", directory, number=4)
    slots = max([2, *chosen.storms])
    bounds = f"pool = {{ minimum = {slots}, maximum = {slots} }}\nenvironment_allowed"
    text = launcher.config.read_text() + profile(COLD)
    text += profile(WARM).replace("environment_allowed", bounds)
    # Filled as fast as it goes: what is measured is the claim.
    text += '[pool]\nmemory = "64GiB"\ncpu = 1000.0\n'
    launcher.config.write_text(text)
    hub = Hub(launcher, hub_directory, "6.1")
    try:
        launcher.start()
        launcher.import_image()
        hub.start()
        # The first of a kind fills caches.
        fill(launcher, 1)
        for name in (COLD, WARM):
            one(launcher, hub, name, 10_000)
        fill(launcher, slots)
        waiting = launcher.run("pool").stdout
        measured = measure(launcher, hub, chosen.rounds, chosen.storms, slots)
    finally:
        hub.clean()
        launcher.clean()
        shutil.rmtree(hub_directory, ignore_errors=True)
    out = ROOT / "target/bench/start.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    report = json.loads(out.read_text()) if out.exists() else {}
    runc = report.setdefault("runc", {})
    runc.setdefault("cold", {}).update(measured["cold"])
    runc["warm"] = measured["warm"]
    report["storm"] = measured["storm"]
    runc["failed_claims"] = measured["failed_claims"]
    report["load_of_claims"] = round(os.getloadavg()[0], 2)
    out.write_text(json.dumps(report, indent=2) + "\n")
    print(waiting)
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()

"""How long a start takes through a real hub and its proxy: cold and with a sandbox that waits, under each
runtime, beside the hub's own floor and DockerSpawner, interleaved in one run; a part of `make bench-start`.

Measures; never judges: no figure here fails anything. Adds to target/bench/start.json.
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[1:1] = [str(HERE / "peers"), str(HERE / "hub")]

import grpc  # noqa: E402
import kernel  # noqa: E402
from adrastea._proto import launcher_pb2 as wire  # noqa: E402
from bench_instance import INSTANCE, ROOT, RUN, RUNTIMES, options, running  # noqa: E402
from contenders import ADRASTEA, DOCKER, NULL_SPAWNER, Contender, Missing, Place, docker, null, remove  # noqa: E402
from hub import Hub, StartError, environment_without_proxies  # noqa: E402
from main import leave_the_hosts_namespaces  # noqa: E402

# Steps of a claim that are the launcher's; the rest is the server's own.
CLAIM_STEPS = ("prove", "home", "egress", "claim")
TIMES = ("hub_201_ms", "first_api_ms", "first_cell_ms")
# The first step that a start has behind it which finds a sandbox.
MADE = "engine-create"


def quantiles(values: list[float]) -> dict[str, float] | None:
    """By the nearest rank; null of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    at = lambda percent: round(ordered[max(0, -(-len(ordered) * percent // 100) - 1)], 1)  # noqa: E731
    return {"p50": at(50), "p95": at(95), "p99": at(99)}


def median(values: list[float]) -> float | None:
    return round(statistics.median(values), 1) if values else None


class Pools:
    """What the launcher says of sandboxes that wait, and of those that run."""

    def __init__(self) -> None:
        socket = f"unix://{RUN}/api/launcher.sock"
        channel = grpc.insecure_channel(socket, options=[("grpc.default_authority", "localhost")])
        self._list = channel.unary_unary(
            "/adrastea.v1.Admin/ListPool",
            wire.ListPoolRequest.SerializeToString,
            wire.ListPoolResponse.FromString,
        )

        self._inspect = channel.unary_unary(
            "/adrastea.v1.Admin/Inspect",
            wire.InspectRequest.SerializeToString,
            wire.InspectResponse.FromString,
        )

        refill = channel.unary_unary(
            "/adrastea.v1.Admin/RefillPool",
            wire.RefillPoolRequest.SerializeToString,
            wire.RefillPoolResponse.FromString,
        )
        # What was in the way before the image was there is in the way no more.
        refill(wire.RefillPoolRequest())

    def inspect(self, user: str) -> wire.InspectResponse:
        return self._inspect(wire.InspectRequest(key=wire.ServerKey(hub="jupyterhub", user=user)))

    def of(self, profile: str) -> wire.ProfilePool:
        return next(pool for pool in self._list(wire.ListPoolRequest()).profiles if pool.profile == profile)

    def settled(self) -> None:
        """Returns when none is missing that can be made: what is measured next has the node for itself."""
        deadline = time.monotonic() + 600
        for pool in self._list(wire.ListPoolRequest()).profiles:
            while not pool.problem and len(pool.waiting) < max(pool.target, pool.minimum):
                if time.monotonic() > deadline:
                    sys.exit(f"the pool of {pool.profile} is not filled: {len(pool.waiting)} wait")
                time.sleep(0.1)
                pool = self.of(pool.profile)


@dataclass
class Kind:
    """One who takes a turn in each round."""

    contender: Contender
    hub: Hub
    # For ours alone.
    runtime: str = ""
    profile: str = ""
    warm: bool = False
    rows: list[dict[str, float]] = field(default_factory=list)
    misses: int = 0
    failures: list[str] = field(default_factory=list)

    def user(self, number: object) -> str:
        return f"{''.join(filter(str.isalnum, self.contender.name))}-{number}".lower()


def ours(kind: Kind, pools: Pools, user: str, waiting: dict[str, float]) -> dict[str, float] | None:
    """What the launcher knows of a start of ours; none if it was not what it was to be."""
    found = pools.inspect(user)
    steps = {step.step: step.microseconds / 1000 for step in found.sandbox.steps}
    before = waiting.get(found.sandbox.sandbox_id)
    if (MADE in steps) is kind.warm or (kind.warm and before is None):
        return None
    cpu = found.counters["cpu_used_microseconds"] / 1000 - (before or 0)
    return {"server_cpu_ms": cpu, "claim_ms": sum(steps.get(step, 0) for step in CLAIM_STEPS)}


def one(kind: Kind, pools: Pools, number: int, counts: bool) -> None:
    """A start until its first cell, and the stop."""
    user, hub = kind.user(number), kind.hub
    hub.add([user])
    pools.settled()
    waiting, failures = {}, 0
    if kind.warm:
        pool = pools.of(kind.profile)
        waiting, failures = {slot.sandbox_id: slot.cpu_ms for slot in pool.waiting}, pool.failures
    is_null = kind.contender.name == NULL_SPAWNER
    since = time.perf_counter()
    elapsed = lambda: (time.perf_counter() - since) * 1000  # noqa: E731
    try:
        row = {"hub_201_ms": hub.spawn(user, kind.contender.options)}
        hub.answers(user)
        row["first_api_ms"] = elapsed()
        known = ours(kind, pools, user, waiting) if kind.profile else {}
        if not is_null:
            kernel.run_as(hub.token, f"/user/{user}/", "print(1)", hub.port)
            row["first_cell_ms"] = elapsed()
        hub.stop(user)
    except (StartError, AssertionError, OSError, TimeoutError) as error:
        kind.failures.append(str(error)[:300])
        return
    anew = kind.warm and pools.of(kind.profile).failures > failures
    if not counts:
        return
    if known is None or anew:
        kind.misses += 1
    else:
        kind.rows.append(row | known)


def storm(kind: Kind, pools: Pools, size: int) -> dict:
    """So many users at once, each for the first time."""
    users = [kind.user(f"storm-{size}-{index}") for index in range(size)]
    kind.hub.add(users)
    pools.settled()
    before = pools.of(kind.profile) if kind.warm else None

    def start(user: str) -> float | str:
        try:
            return kind.hub.spawn(user, kind.contender.options)
        except StartError as error:
            return str(error)

    since = time.perf_counter()
    with ThreadPoolExecutor(size) as threads:
        outcomes = list(threads.map(start, users))
    total = (time.perf_counter() - since) * 1000
    report = {"total_ms": round(total, 1)}
    report |= quantiles([time for time in outcomes if isinstance(time, float)]) or {}
    report["failed"] = sum(isinstance(outcome, str) for outcome in outcomes)
    if before:
        after = pools.of(kind.profile)
        report["hits"] = after.hits - before.hits - (after.failures - before.failures)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(kind.hub.stop, users))
    return report


def proportional_mib(sandbox: str) -> float:
    """PSS of all processes in a sandbox's control group."""
    groups = [Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")]
    group = next(found for root in groups if (found := root / INSTANCE / sandbox / "cgroup.procs").exists())
    total = 0
    for process in group.read_text().split():
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        total += int(rollup.split("\nPss:")[1].split()[0])
    return total / 1024


def slots(pools: Pools, profile: str) -> dict[str, float | int | None]:
    """What waiting sandboxes take, and took to make."""
    waiting = pools.of(profile).waiting
    return {
        "count": len(waiting),
        "memory_cgroup_mib_p50": median([slot.memory_bytes / 2**20 for slot in waiting]),
        "memory_pss_mib_p50": median([proportional_mib(slot.sandbox_id) for slot in waiting]),
        "cpu_to_make_ms_p50": median([slot.cpu_ms for slot in waiting]),
    }


def of_rows(kind: Kind) -> dict:
    rows = kind.rows
    report: dict = {
        name: quantiles([row[name] for row in rows]) for name in TIMES if any(name in row for row in rows)
    }
    if kind.profile:
        report["claim_launcher_share_ms_p50"] = median([row["claim_ms"] for row in rows])
        report["server_cpu_ms_p50"] = median([row["server_cpu_ms"] for row in rows])
        report["misses"] = kind.misses
    return report | {"count": len(rows), "failures": kind.failures}


def present(place: Place, sizes: dict[str, int], without: list[str]) -> tuple[list[Kind], dict[str, str]]:
    """Who takes part, each with its hub; and under which runtimes nothing can wait, and why."""
    others = null(place)
    if "DockerSpawner" in without:
        place.missing["DockerSpawner"] = "not asked for"
    else:
        try:
            others += docker(place)
        except Missing as reason:
            place.missing["DockerSpawner"] = str(reason)
    hubs: dict[str, Hub] = {}

    def hub_of(contender: Contender) -> Hub:
        if contender.lines not in hubs:
            number = len(hubs)
            port = contender.hub_port or 18002 + 10 * number
            hub = Hub(number, place.directory / f"hub-{number}", contender.hub_ip, port, contender.lines)
            place.stack.callback(hub.end)
            hub.serve(DOCKER_HOST=f"unix://{place.directory}/docker.sock", PYTHONPATH=str(DOCKER / "python"))
            hubs[contender.lines] = hub
        return hubs[contender.lines]

    kinds = [Kind(contender, hub_of(contender)) for contender in others]
    place.stack.enter_context(running(slots=sizes))
    pools, cannot_wait = Pools(), {}
    for runtime in sizes:
        for warm, profile in ((False, "standard"), (True, f"waiting-{runtime}")):
            if warm:
                while not (pool := pools.of(profile)).waiting and not pool.problem:
                    time.sleep(0.2)
                # The launcher's word, not ours.
                if pool.problem:
                    cannot_wait[runtime] = pool.problem
                    continue
            name = f"{'warm' if warm else 'cold'} {runtime}"
            chosen = {"profile": profile, "runtime": runtime}
            contender = Contender(name, ADRASTEA.format(run=RUN), "10.96.0.1", 8081, chosen)
            kinds.append(Kind(contender, hub_of(contender), runtime, profile, warm))
    return kinds, cannot_wait


def ratio(docker: Kind, own: Kind) -> float | None:
    """How much longer DockerSpawner took until the first answer, of medians."""
    times = [median([row["first_api_ms"] for row in kind.rows]) for kind in (docker, own)]
    return round(times[0] / times[1], 1) if all(times) else None  # type: ignore[operator]


def measure(kinds: list[Kind], rounds: int, storms: list[int]) -> dict:
    """Adds to the kinds' rows; what is not of one kind."""
    pools, waited, at_once = Pools(), {}, {}
    pools.settled()
    for kind in kinds:
        if kind.warm:
            waited[kind.runtime] = slots(pools, kind.profile)
    # The first round fills caches and is not counted; each begins with another one.
    for number in range(rounds + 1):
        print(f"\rround {number} of {rounds}", end="", file=sys.stderr, flush=True)
        first = number % len(kinds)
        for kind in kinds[first:] + kinds[:first]:
            one(kind, pools, number, number > 0)
    print(file=sys.stderr)
    for size in storms:
        names = {"warm runc": "pool", "cold runc": "no_pool", NULL_SPAWNER: "hub_floor"}
        for kind in kinds:
            name = names.get(kind.contender.name)
            if not kind.profile and kind.contender.name.startswith("DockerSpawner, runc"):
                name = "docker"
            if name:
                print(f"{size} at once: {kind.contender.name}", file=sys.stderr)
                at_once.setdefault(str(size), {})[name] = storm(kind, pools, size)
    return {"storm": at_once, "slots": waited}


def main() -> None:
    chosen = options(__doc__)
    runtimes = [name for name in RUNTIMES if name not in chosen.without]
    # A storm is of runc alone; of the others one is enough.
    sizes = {name: max([1, *chosen.storms]) if name == "runc" else 1 for name in runtimes}
    leave_the_hosts_namespaces()
    environment_without_proxies()
    directory = Path(tempfile.mkdtemp(prefix="adrastea-bench-"))
    directory.chmod(0o711)
    load = os.getloadavg()[0]
    try:
        with ExitStack() as stack:
            place = Place(directory, stack)
            kinds, cannot_wait = present(place, sizes, chosen.without)
            measured = measure(kinds, chosen.rounds, chosen.storms)
    finally:
        remove(directory)
        shutil.rmtree(directory, ignore_errors=True)
    out = ROOT / "target/bench/start.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    report = json.loads(out.read_text()) if out.exists() else {}
    others = {kind.contender.name: kind for kind in kinds if not kind.profile}
    own = [kind for kind in kinds if kind.profile]
    for kind in own:
        of_runtime = report.setdefault(kind.runtime, {})
        figures = of_rows(kind)
        if kind.warm:
            of_runtime["warm"] = figures
            of_runtime["slot"] = measured["slots"][kind.runtime]
        else:
            of_runtime.setdefault("cold", {}).update(figures)
    for runtime, reason in cannot_wait.items():
        report[runtime] |= {"warm": None, "warm_missing": reason}
    floor = others.pop(NULL_SPAWNER)
    report["hub_floor_ms"] = quantiles([row["hub_201_ms"] for row in floor.rows])
    report["storm"] = measured["storm"]
    report["peers"] = {name: of_rows(kind) for name, kind in others.items()}
    report["missing"] = place.missing
    docker_kind = others.get("DockerSpawner, runc")
    report["docker_takes_times"] = {
        kind.contender.name: ratio(docker_kind, kind)
        for kind in own
        if docker_kind and kind.runtime == "runc"
    }
    report["claims"] = {
        "rounds": chosen.rounds,
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
    }
    out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

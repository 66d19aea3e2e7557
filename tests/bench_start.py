"""How long a cold start takes, step by step, beside a bare `runc run` of the same
root file system with the same spec, interleaved in one run: `make bench-start`.

Measures; never judges: no figure here fails anything. Prints a table and writes
target/bench/start.json.
"""

import json
import os
import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path

import grpc
from adrastea._proto import launcher_pb2 as wire
from bench_instance import INSTANCE, ROOT, RUN, RUNTIMES, STATE, options, running

RUNC = RUNTIMES["runc"]
# The engine's: containerd, its shim and the runtime. Everything else is ours.
ENGINE_STEPS = ("engine-create", "engine-start", "init-waits")


class Client:
    """The few calls that are needed, without generated stubs."""

    def __init__(self) -> None:
        socket = f"unix://{RUN}/api/launcher.sock"
        self.channel = grpc.insecure_channel(socket, options=[("grpc.default_authority", "localhost")])
        self.run = self.channel.unary_stream(
            "/adrastea.v1.Admin/Run", wire.RunRequest.SerializeToString, wire.RunEvent.FromString
        )
        self.get = self.channel.unary_unary(
            "/adrastea.v1.Launcher/Get", wire.GetRequest.SerializeToString, wire.Sandbox.FromString
        )


def cold(client: Client, user: str, keep: list[dict]) -> tuple[float, dict[str, float]]:
    """One start: milliseconds until the first byte of output, and per step."""
    key = wire.ServerKey(hub="bench", user=user)
    start = wire.StartRequest(request_id=str(uuid.uuid4()), key=key)
    since = time.perf_counter()
    events = client.run(wire.RunRequest(start=start, command=["sh", "-c", "echo x; sleep 0.2"]))
    total, steps = 0.0, {}
    for event in events:
        kind = event.WhichOneof("event")
        if kind == "failed":
            sys.exit(f"failed to start: {event.failed.message}")
        if kind == "output" and not total:
            total = (time.perf_counter() - since) * 1000
            sandbox = client.get(wire.GetRequest(key=key))
            steps = {step.step: step.microseconds / 1000 for step in sandbox.steps}
            if not keep:
                state = RUN / "containerd/state/io.containerd.runtime.v2.task"
                keep.append(json.loads((state / INSTANCE / sandbox.sandbox_id / "config.json").read_text()))
    return total, steps


def bare_bundle(spec: dict, rootfs: str, bundle: Path) -> None:
    """The same spec, with namespaces that runc makes itself, and without the init."""
    linux = spec["linux"]
    for namespace in linux["namespaces"]:
        namespace.pop("path", None)
    ids = [{"containerID": 0, "hostID": 2_013_265_920, "size": 65_536}]
    linux["uidMappings"] = linux["gidMappings"] = ids
    linux["cgroupsPath"] = f"/{INSTANCE}/bare"
    spec["root"]["path"] = rootfs
    spec["process"]["args"] = ["/bin/sh", "-c", "echo x; exec sleep 0.2"]
    spec["process"]["terminal"] = False
    bundle.mkdir(parents=True, exist_ok=True)
    (bundle / "config.json").write_text(json.dumps(spec))


def bare(bundle: Path) -> float:
    since = time.perf_counter()
    command = [RUNC, "--root", RUN / "bare-state", "run", "--bundle", bundle, "bare"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout and process.stderr
    if process.stdout.read(1) != b"x":
        sys.exit(f"failed to run bare runc: {process.stderr.read().decode()}")
    taken = (time.perf_counter() - since) * 1000
    process.wait()
    return taken


def quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = lambda share: ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]  # noqa: E731
    return {"p50": round(at(0.5), 1), "p95": round(at(0.95), 1), "p99": round(at(0.99), 1)}


def layer_directory() -> str:
    """The unpacked layer of the image (it has one)."""
    snapshots = STATE / "containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
    return str(max((path / "fs" for path in snapshots.iterdir()), key=lambda path: len(list(path.iterdir()))))


def measure(rounds: int) -> dict:
    client, spec = Client(), []
    cold(client, "warm-up", spec)
    bundle, rootfs = RUN / "bare", RUN / "bare-rootfs"
    rootfs.mkdir()
    # containerd's own directories are closed to the ids that runc takes on.
    subprocess.run(["mount", "--bind", "-o", "ro", layer_directory(), rootfs], check=True)
    bare_bundle(spec[0], str(rootfs), bundle)
    bare(bundle)
    totals, bares, steps = [], [], {}
    for number in range(rounds):
        print(f"\rround {number + 1} of {rounds}", end="", file=sys.stderr, flush=True)
        total, taken = cold(client, f"user-{number}", spec)
        totals.append(total)
        for step, milliseconds in taken.items():
            steps.setdefault(step, []).append(milliseconds)
        bares.append(bare(bundle))
    print(file=sys.stderr)
    medians = {step: round(statistics.median(values), 2) for step, values in steps.items()}
    own = [
        sum(values[i] for step, values in steps.items() if step not in ENGINE_STEPS) for i in range(rounds)
    ]
    return {
        "steps_ms": medians,
        "total_ms": quantiles(totals),
        "bare_ms": quantiles(bares),
        "added_over_bare_ms_p50": round(statistics.median(totals) - statistics.median(bares), 1),
        "own_ms_p50": round(statistics.median(own), 1),
    }


def size(launcher: int) -> dict[str, int]:
    """What must stay flat over many starts: of the launcher, and of the machine."""
    status = Path(f"/proc/{launcher}/status").read_text()
    return {
        "resident KiB": int(status.split("VmRSS:")[1].split()[0]),
        "open files": len(list(Path(f"/proc/{launcher}/fd").iterdir())),
        "threads": len(list(Path(f"/proc/{launcher}/task").iterdir())),
        "mounts": Path("/proc/mounts").read_text().count(str(RUN)),
        "sandbox directories": len(list((RUN / "sandboxes").iterdir())),
        "containers": len(list((RUN / "containerd/state/io.containerd.runtime.v2.task").glob("*/*"))),
    }


def soak(launcher: int, rounds: int) -> None:
    """Starts and stops again and again; ends with an error if something grows."""
    client, before = Client(), {}
    for number in range(rounds):
        cold(client, f"user-{number % 7}", [{}])
        # The first starts fill caches.
        if number == min(100, rounds // 4):
            before = size(launcher)
        if number % 50 == 0:
            print(f"start {number} of {rounds}: {size(launcher)}", file=sys.stderr, flush=True)
    time.sleep(2)
    after = size(launcher)
    grown = {name: (before[name], after[name]) for name in after if after[name] > before[name] * 1.1 + 2}
    print(f"before {before}\nafter  {after}")
    if grown:
        sys.exit(f"these have grown over {rounds} starts: {grown}")


def main() -> None:
    chosen = options(__doc__)
    rounds = chosen.rounds
    with running() as launcher:
        if chosen.soak:
            soak(launcher.pid, chosen.soak)
            return
        idle = size(launcher.pid)["resident KiB"] / 1024
        report = {
            "runc": {"cold": measure(rounds)},
            "launcher_rss_mib": round(idle, 1),
            "load": round(os.getloadavg()[0], 2),
            "rounds": rounds,
        }
    out = ROOT / "target/bench/start.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n")
    figures = report["runc"]["cold"]
    print("cold start under runc, milliseconds, median of", rounds)
    for step, milliseconds in figures["steps_ms"].items():
        print(f"  {step:<16}{milliseconds:>8.1f}")
    print(
        f"  {'until it runs':<16}{figures['total_ms']['p50']:>8.1f}   (p95 {figures['total_ms']['p95']}, p99 {figures['total_ms']['p99']})"
    )
    print(f"  {'bare runc run':<16}{figures['bare_ms']['p50']:>8.1f}")
    print(f"  {'added':<16}{figures['added_over_bare_ms_p50']:>8.1f}   of which ours {figures['own_ms_p50']}")
    print(
        f"launcher, idle: {report['launcher_rss_mib']} MiB; load {report['load']}; written to {out.relative_to(ROOT)}"
    )


if __name__ == "__main__":
    main()

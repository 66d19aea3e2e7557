"""The spawner's watch with a real launcher: cut off, it catches up without a gap."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from adrastea._proto import launcher_pb2 as pb
from adrastea.client import LauncherClient
from adrastea.watch import Watch

from launcher import Launcher

KEY = pb.ServerKey(hub="watched", user="wim")
ENDS = (pb.PHASE_READY, pb.PHASE_GONE)


class Listener:
    def __init__(self) -> None:
        self.told: list[tuple[int, int] | None] = []

    def sandbox_changed(self, sandbox: pb.Sandbox | None) -> None:
        if sandbox is None:
            self.told.append(None)
        elif sandbox.phase in ENDS:
            self.told.append((sandbox.generation, sandbox.phase))


async def start(client: LauncherClient) -> int:
    request = pb.StartRequest(
        request_id=str(uuid4()),
        key=KEY,
        profile="test-light",
        environment={"JUPYTERHUB_SERVICE_PREFIX": "/"},
        ready_path="/api",
    )
    async for event in client.start(request, timeout=120):
        assert event.WhichOneof("event") != "failed", event.failed.message
        if event.WhichOneof("event") == "ready":
            return event.ready.generation
    raise AssertionError("the start ended without a result")


async def eventually(watch: Watch, phase: int, generation: int) -> None:
    async with asyncio.timeout(60):
        while (known := watch.get(("wim", ""))) is None or (known.generation, known.phase) != (
            generation,
            phase,
        ):
            await asyncio.sleep(0.05)


async def cut_off_and_back(launcher: Launcher) -> None:
    client = LauncherClient(f"unix://{launcher.socket}")
    watch, listener = Watch(client, "watched"), Listener()
    watch.listen(("wim", ""), listener)
    assert await watch.settle(30)
    listener.told.clear()
    first = await start(client)
    await eventually(watch, pb.PHASE_READY, first)
    await watch.close()
    # Two ends and a start that nobody sees.
    await client.stop(pb.StopRequest(key=KEY), timeout=60)
    second = await start(client)
    await client.stop(pb.StopRequest(key=KEY), timeout=60)
    watch.listen(("wim", ""), listener)
    await eventually(watch, pb.PHASE_GONE, second)
    assert listener.told == [(generation, phase) for generation in (first, second) for phase in ENDS]
    await watch.close()
    await client.close()


def test_a_watch_that_was_cut_off_catches_up_without_a_gap(launcher: Launcher) -> None:
    asyncio.run(cut_off_and_back(launcher))
    assert launcher.servers() == []

"""The watch: resumed where it broke, everything anew where it cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from conftest import eventually
from standin import StandIn

from adrastea._proto import launcher_pb2 as pb
from adrastea.watch import Watch, watch_for


class Listener:
    """Keeps what it is told: the exit code, the phase of a server that lives, or None."""

    def __init__(self) -> None:
        self.told: list[int | None] = []

    def sandbox_changed(self, sandbox: pb.Sandbox | None) -> None:
        self.told.append(sandbox and (sandbox.exit.code or sandbox.phase))


async def cut(launcher: StandIn, watch: Watch) -> None:
    """Ends the launcher, and waits until the watch has noticed."""
    await launcher.close()
    await eventually(lambda: not watch.synced)


def key(user: str) -> pb.ServerKey:
    return pb.ServerKey(user=user)


@pytest_asyncio.fixture
async def watch(launcher: StandIn) -> AsyncIterator[tuple[Watch, Listener]]:
    launcher.change(key("ana"), pb.PHASE_READY, 1)
    watch = watch_for(launcher.target, "jupyterhub")
    listener = Listener()
    watch.listen(("ana", ""), listener)
    assert await watch.settle(5)
    assert listener.told == [pb.PHASE_READY]
    yield watch, listener


async def test_what_was_missed_is_told_in_order_and_once(
    launcher: StandIn, watch: tuple[Watch, Listener]
) -> None:
    known, listener = watch
    await cut(launcher, known)
    assert known.get(("ana", "")) is not None, "unknown is not gone"
    launcher.end(key("ana"), pb.EXIT_CAUSE_EXITED, 11, generation=1)
    launcher.end(key("ana"), pb.EXIT_CAUSE_EXITED, 12, generation=2)
    launcher.end(key("ana"), pb.EXIT_CAUSE_EXITED, 13, generation=3)
    await launcher.open()
    await eventually(lambda: known.synced, 10)
    assert listener.told == [pb.PHASE_READY, 11, 12, 13]
    assert launcher.watches[0] == ""
    assert launcher.watches[-1] == "1"
    launcher.change(key("ana"), pb.PHASE_STARTING, 4)
    await eventually(lambda: len(listener.told) == 5)


async def test_a_stream_that_breaks_while_it_catches_up_goes_on_from_there(
    launcher: StandIn, watch: tuple[Watch, Listener]
) -> None:
    known, listener = watch
    await cut(launcher, known)
    launcher.end(key("ana"), pb.EXIT_CAUSE_EXITED, 11, generation=1)
    whole, launcher._watch = launcher._watch, broken_after(launcher, 2)  # pyright: ignore[reportAttributeAccessIssue]
    await launcher.open()
    await eventually(lambda: listener.told[-1] == 11, 10)
    await eventually(lambda: len(launcher.watches) > 2)
    await cut(launcher, known)
    launcher._watch = whole  # pyright: ignore[reportAttributeAccessIssue]
    launcher.end(key("ana"), pb.EXIT_CAUSE_EXITED, 12, generation=2)
    await launcher.open()
    await eventually(lambda: known.synced, 10)
    assert listener.told == [pb.PHASE_READY, 11, 12]
    assert launcher.watches[-1] == "2"


def broken_after(launcher: StandIn, events: int):  # type: ignore[no-untyped-def]
    whole = launcher._watch

    async def watch(request: pb.WatchRequest, context: object) -> AsyncIterator[pb.WatchEvent]:
        sent = 0
        async for event in whole(request, context):
            yield event
            sent += 1
            if sent == events:
                return

    return watch


async def test_who_cannot_resume_sends_everything_and_what_is_not_named_is_gone(
    launcher: StandIn, watch: tuple[Watch, Listener]
) -> None:
    known, listener = watch
    await cut(launcher, known)
    launcher.remembers = 0
    launcher.sandboxes.clear()
    launcher.change(key("bo"), pb.PHASE_READY, 1)
    await launcher.open()
    await eventually(lambda: known.synced, 10)
    assert listener.told == [pb.PHASE_READY, None]
    assert known.get(("ana", "")) is None
    assert known.get(("bo", "")) is not None


async def test_half_a_snapshot_is_no_place_to_resume_from(
    launcher: StandIn, watch: tuple[Watch, Listener]
) -> None:
    known, _ = watch
    await cut(launcher, known)
    launcher.remembers = 0
    launcher.change(key("bo"), pb.PHASE_READY, 1)

    whole = launcher._watch

    async def half(request: pb.WatchRequest, context: object) -> AsyncIterator[pb.WatchEvent]:
        launcher.watches.append(request.resume_token)
        yield pb.WatchEvent(sandbox=launcher.sandboxes["bo", ""], resume_token="77")

    launcher._watch = half  # pyright: ignore[reportAttributeAccessIssue]
    await launcher.open()
    await eventually(lambda: len(launcher.watches) >= 4, 10)
    assert set(launcher.watches[1:]) == {"1"}
    assert known.get(("ana", "")) is not None
    assert known.get(("bo", "")) is None
    await cut(launcher, known)
    launcher._watch = whole  # pyright: ignore[reportAttributeAccessIssue]
    await launcher.open()
    await eventually(lambda: known.synced, 10)
    assert known.get(("bo", "")) is not None


async def test_a_refused_token_is_dropped(launcher: StandIn, watch: tuple[Watch, Listener]) -> None:
    known, _ = watch
    await cut(launcher, known)
    known._token = "no number"
    whole = launcher._watch

    async def strict(request: pb.WatchRequest, context: object) -> AsyncIterator[pb.WatchEvent]:
        if request.resume_token:
            await refuse(context)
        async for event in whole(request, context):
            yield event

    launcher._watch = strict  # pyright: ignore[reportAttributeAccessIssue]
    await launcher.open()
    await eventually(lambda: known.synced, 10)


async def refuse(context: object) -> None:
    import grpc

    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no such token")  # type: ignore[attr-defined]


async def test_a_deleted_server_is_not_remembered(launcher: StandIn, watch: tuple[Watch, Listener]) -> None:
    known, _ = watch
    launcher.end(key("ana"), pb.EXIT_CAUSE_EXITED, 3, generation=1)
    await eventually(lambda: [sandbox.exit.code for sandbox in known.of_user("ana")] == [3])
    known.forget(("ana", ""))
    assert known.of_user("ana") == []
    await asyncio.sleep(0)

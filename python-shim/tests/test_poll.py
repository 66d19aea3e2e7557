"""What poll answers: the truth table, exits as they happen, and state across a hub's restart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from conftest import UnitSpawner, eventually
from standin import StandIn

from adrastea._proto import launcher_pb2 as pb
from adrastea.watch import watch_for

Make = Callable[..., UnitSpawner]

NEVER, BELIEVED = {}, {"api_token": "t", "generation": 3}


@pytest.mark.parametrize(
    ("state", "phase", "generation", "expected"),
    [
        (NEVER, None, 0, 0),
        (NEVER, pb.PHASE_READY, 1, None),  # alive, though the hub never saw it become so
        (NEVER, pb.PHASE_GONE, 1, 9),
        (BELIEVED, None, 0, 0),  # the launcher answers that it never had it
        (BELIEVED, pb.PHASE_STARTING, 3, None),
        (BELIEVED, pb.PHASE_READY, 3, None),
        (BELIEVED, pb.PHASE_GONE, 3, 9),
        (BELIEVED, pb.PHASE_READY, 4, None),
        (BELIEVED, pb.PHASE_STOPPING, 3, None),  # asked to stop, and still there
    ],
)
async def test_with_a_launcher(
    launcher: StandIn,
    make: Make,
    state: dict[str, object],
    phase: int | None,
    generation: int,
    expected: int | None,
) -> None:
    spawner = make()
    spawner.load_state(state)
    if phase is not None:
        fields = {"exit": pb.Exit(code=9)} if phase == pb.PHASE_GONE else {}
        launcher.change(spawner._key, phase, generation, **fields)
    assert await spawner.poll() == expected


async def test_an_end_is_known_before_it_is_cleared_up(launcher: StandIn, make: Make) -> None:
    spawner = make()
    await spawner.start()
    told = spawner.watch_exit()
    assert await spawner.poll() is None
    ended = pb.Exit(cause=pb.EXIT_CAUSE_OUT_OF_MEMORY, code=137)
    launcher.change(spawner._key, pb.PHASE_STOPPING, 1, exit=ended)
    await asyncio.wait_for(told.wait(), 2)
    assert await spawner.poll() == 137
    assert "memory" in await spawner.last_end()


@pytest.mark.parametrize(("state", "expected"), [(NEVER, 0), (BELIEVED, None), ({"api_token": "t"}, None)])
async def test_without_a_launcher(
    launcher: StandIn, make: Make, state: dict[str, object], expected: int | None
) -> None:
    await launcher.close()
    spawner = make()
    spawner.load_state(state)
    assert await spawner.poll() == expected


async def test_poll_never_raises(launcher: StandIn, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    spawner = make()

    def broken() -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(spawner, "_ask", broken)
    assert await spawner.poll() == 0
    spawner.load_state(BELIEVED)
    assert await spawner.poll() is None


async def test_old_news_are_not_about_this_server(launcher: StandIn, make: Make) -> None:
    spawner = make()
    launcher.end(spawner._key, pb.EXIT_CAUSE_EXITED, 1, generation=1)
    assert await spawner.poll() == 1
    launcher._generation = 1
    await spawner.start()
    assert await spawner.poll() is None
    watch = watch_for(launcher.target, "jupyterhub")
    await eventually(lambda: watch.get(("ana", "")) == launcher.sandboxes["ana", ""])
    launcher.end(spawner._key, pb.EXIT_CAUSE_EXITED, 1, generation=1)
    launcher.change(spawner._key, pb.PHASE_READY, generation=2)
    await asyncio.sleep(0.1)
    assert await spawner.poll() is None


async def test_polls_cost_the_launcher_nothing(launcher: StandIn, make: Make) -> None:
    spawners = [make(f"user{n}") for n in range(20)]
    for spawner in spawners:
        await spawner.start()
    watch = watch_for(launcher.target, "jupyterhub")
    await eventually(lambda: all(watch.get((f"user{n}", "")) for n in range(20)))
    for _ in range(3):
        assert {await spawner.poll() for spawner in spawners} == {None}
    assert launcher.gets == 0
    assert len(launcher.watches) == 1


async def test_an_exit_is_told_as_it_happens(launcher: StandIn, make: Make) -> None:
    spawner, other = make(), make("bo")
    for one in (spawner, other):
        await one.start()
    told, not_told = spawner.watch_exit(), other.watch_exit()
    assert await spawner.poll() is None
    launcher.end(spawner._key, pb.EXIT_CAUSE_OUT_OF_MEMORY, 137, generation=spawner._generation)
    await asyncio.wait_for(told.wait(), 2)
    assert await spawner.poll() == 137
    assert not not_told.is_set()


async def test_an_exit_during_an_outage_is_told_after_it(launcher: StandIn, make: Make) -> None:
    spawner = make()
    await spawner.start()
    told = spawner.watch_exit()
    assert await spawner.poll() is None
    await launcher.close()
    for _ in range(3):
        assert await spawner.poll() is None
        await asyncio.sleep(0.1)
    assert not told.is_set()
    launcher.sandboxes.clear()
    launcher.remembers = 0
    launcher.change(pb.ServerKey(user="bo"), pb.PHASE_READY)
    await launcher.open()
    await asyncio.wait_for(told.wait(), 10)
    assert await spawner.poll() == 0


async def test_a_server_outlives_an_outage(launcher: StandIn, make: Make) -> None:
    spawner = make()
    await spawner.start()
    told = spawner.watch_exit()
    await launcher.close()
    await asyncio.sleep(0.3)
    await launcher.open()
    await eventually(lambda: len(launcher.watches) >= 2 and spawner._watch.synced, 10)
    await asyncio.sleep(0.2)
    assert await spawner.poll() is None
    assert not told.is_set()


async def test_state_goes_round(launcher: StandIn, make: Make) -> None:
    spawner = make()
    await spawner.start()
    state = spawner.get_state()
    assert state == {"api_token": "s3cret", "generation": 1}
    after = make()
    after.clear_state()
    assert after.get_state() == {}
    after.load_state(state)
    assert after.api_token == "s3cret"
    assert await after.poll() is None
    assert await after.get_url() == "http://10.88.1.0:8888/user/ana/"
    await after.stop()
    assert launcher.stops[-1].generation == 1


async def test_the_token_is_in_the_state_before_the_hub_waits(launcher: StandIn, make: Make) -> None:
    spawner = make()

    class Row:
        state: dict[str, object] | None = None
        name = ""
        server = None

    row = Row()
    spawner.set_trait("orm_spawner", row)
    start = spawner.start()
    assert row.state == {"api_token": "s3cret"}
    await start


async def test_a_start_the_hub_did_not_survive_is_adopted(launcher: StandIn, make: Make) -> None:
    spawner = make()
    spawner.load_state({"api_token": "t"})
    launcher.change(spawner._key, pb.PHASE_STARTING, generation=4)
    assert await spawner.poll() is None
    asyncio.get_running_loop().call_later(
        0.3, lambda: launcher.change(spawner._key, pb.PHASE_READY, 4, address="10.88.1.7", port=8888)
    )
    assert await spawner.get_url() == "http://10.88.1.7:8888/user/ana/"
    await spawner.stop()
    assert launcher.stops[-1].generation == 4


async def test_an_address_that_was_never_known_is_waited_for(launcher: StandIn, make: Make) -> None:
    """The hub died in a start, and comes back before the launcher does."""
    spawner = make()
    spawner.load_state({"api_token": "t"})
    await launcher.close()
    assert await spawner.poll() is None
    url = asyncio.ensure_future(spawner.get_url())
    await asyncio.sleep(0.5)
    assert not url.done()
    launcher.change(spawner._key, pb.PHASE_READY, 4, address="10.88.1.7", port=8888)
    await launcher.open()
    assert await url == "http://10.88.1.7:8888/user/ana/"
    known = make()
    known.load_state(BELIEVED)
    await launcher.close()
    await eventually(lambda: not known._watch.synced)
    known._watch.forget(("ana", ""))
    assert (await asyncio.wait_for(known.get_url(), 2)).endswith("/user/ana/"), "the hub's own will do"

"""Start, stop and options against the stand-in launcher."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from conftest import UnitSpawner, eventually
from standin import Events, StandIn, progress

from adrastea._proto import launcher_pb2 as pb
from adrastea.failure import StartFailed

Make = Callable[..., UnitSpawner]


async def test_a_start_sends_what_the_hub_said(launcher: StandIn, make: Make) -> None:
    spawner = make(profile="small", mem_limit="1G", cpu_limit=0.5, args=["--debug"])
    assert await spawner.start() == ("10.88.1.0", 8888)
    (request,) = launcher.starts
    assert request.key == pb.ServerKey(hub="jupyterhub", user="ana", server="")
    assert request.profile == "small"
    assert request.limits == pb.Limits(memory_bytes=1 << 30, cpu_millis=500)
    assert list(request.arguments) == ["--debug"]
    assert request.ready_path == "/user/ana/api"
    assert request.environment["JUPYTERHUB_SERVICE_URL"] == "http://0.0.0.0:8888/user/ana/"
    assert request.environment["MEM_LIMIT"] == str(1 << 30)
    assert dict(request.secret_environment) == {"JUPYTERHUB_API_TOKEN": "s3cret"}
    # Nothing that an ordinary policy would refuse.
    prefixes = ("JUPYTERHUB_", "MEM_LIMIT", "CPU_LIMIT")
    assert all(name.startswith(prefixes) for name in request.environment)


async def test_a_user_chooses_within_the_hubs_words(launcher: StandIn, make: Make) -> None:
    spawner = make(mem_limit="1G")
    spawner.user_options = {"profile": "large", "memory": "2G", "cpu": 2}
    await spawner.start()
    (request,) = launcher.starts
    assert request.profile == "large"
    assert request.limits == pb.Limits(memory_bytes=2 << 30, cpu_millis=2000)
    assert request.environment["CPU_LIMIT"] == "2"


async def test_unknown_options_never_reach_the_launcher(launcher: StandIn, make: Make) -> None:
    spawner = make()
    spawner.user_options = {"mounts": ["/etc"]}
    with pytest.raises(StartFailed, match="mounts") as caught:
        await spawner.start()
    assert caught.value.status_code == 400
    assert launcher.starts == []
    assert await spawner.poll() == 0


async def test_each_start_has_its_own_request_id(launcher: StandIn, make: Make) -> None:
    for user in ("ana", "bo"):
        await make(user).start()
    assert len({request.request_id for request in launcher.starts}) == 2


async def test_a_denial_names_the_rule(launcher: StandIn, make: Make) -> None:
    async def denied(request: pb.StartRequest, context: Any) -> Events:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "8 GiB is not allowed (rule profiles.x)")
        yield progress("never", 0)

    await launcher.close()
    launcher._start = denied  # pyright: ignore[reportAttributeAccessIssue]
    await launcher.open()
    spawner = make()
    with pytest.raises(StartFailed) as caught:
        await spawner.start()
    assert caught.value.status_code == 403
    assert "rule profiles.x" in caught.value.jupyterhub_message
    assert await spawner.poll() == 0


async def test_a_failed_start_says_why(launcher: StandIn, make: Make) -> None:
    async def fail(request: pb.StartRequest) -> Events:
        yield progress("Starting", 60)
        launcher.end(request.key, pb.EXIT_CAUSE_FAILED_START, 1, generation=7)
        yield pb.StartEvent(
            failed=pb.Failed(reason=pb.FAILURE_REASON_SERVER_EXITED, message="it ended", log_tail="<boom>")
        )

    launcher.script = fail
    spawner = make()
    with pytest.raises(StartFailed) as caught:
        await spawner.start()
    assert "&lt;boom&gt;" in caught.value.jupyterhub_html_message
    await eventually(lambda: bool(launcher.sandboxes))
    assert await spawner.poll() is not None
    assert [event["message"] async for event in spawner.progress()] == ["Starting"]


async def test_a_cancelled_start_is_stopped(launcher: StandIn, make: Make) -> None:
    async def hang(request: pb.StartRequest) -> Events:
        launcher.change(request.key, pb.PHASE_STARTING, generation=5)
        yield progress("Starting", 60)
        await asyncio.sleep(60)

    launcher.script = hang
    spawner = make()
    start = asyncio.ensure_future(spawner.start())
    await eventually(lambda: bool(launcher.starts) and spawner._believed)
    assert await spawner.poll() is None
    await asyncio.sleep(0.1)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    # The hub asks first, and must be told to call stop.
    assert await spawner.poll() is None
    await spawner.stop()
    assert [stop.generation for stop in launcher.stops] == [5, 5]
    assert await spawner.poll() == 0


async def test_a_start_that_takes_too_long_is_given_up(launcher: StandIn, make: Make) -> None:
    async def hang(request: pb.StartRequest) -> Events:
        yield progress("Starting", 60)
        await asyncio.sleep(60)

    launcher.script = hang
    spawner = make(start_timeout=1)
    with pytest.raises(StartFailed, match="not ready in time"):
        await spawner.start()
    assert await spawner.poll() is None, "the hub must call stop"


async def test_a_start_outlives_a_restart_of_the_launcher(launcher: StandIn, make: Make) -> None:
    async def hang(request: pb.StartRequest) -> Events:
        yield progress("Starting", 60)
        await asyncio.sleep(60)

    launcher.script = hang
    spawner = make(launcher_patience=10)
    start = asyncio.ensure_future(spawner.start())
    await eventually(lambda: len(launcher.starts) == 1)
    await launcher.close()
    launcher.script = launcher.ready
    await asyncio.sleep(0.3)
    await launcher.open()
    assert await start == ("10.88.1.0", 8888)
    first, *_, last = launcher.starts
    assert first == last, "the same request joins its own start"


async def test_no_launcher_is_said_plainly(launcher: StandIn, make: Make) -> None:
    await launcher.close()
    spawner = make()
    with pytest.raises(StartFailed, match="does not answer") as caught:
        await spawner.start()
    assert caught.value.status_code == 503
    assert await spawner.poll() == 0, "nothing was started, so nothing must be stopped"
    assert "does not answer" in await spawner.get_options_form()


async def test_stop_is_fenced_and_knows_now(launcher: StandIn, make: Make) -> None:
    spawner = make()
    await spawner.start()
    await spawner.stop(now=True)
    assert launcher.stops == [
        pb.StopRequest(key=pb.ServerKey(hub="jupyterhub", user="ana"), generation=1, grace_ms=0)
    ]
    await spawner.stop()
    assert not launcher.stops[-1].HasField("grace_ms")


async def test_stop_waits_for_the_launcher(launcher: StandIn, make: Make) -> None:
    spawner = make(stop_patience=10)
    await spawner.start()
    await launcher.close()
    stop = asyncio.ensure_future(spawner.stop())
    await asyncio.sleep(0.7)
    assert not stop.done()
    await launcher.open()
    await stop
    assert len(launcher.stops) == 1


async def test_two_viewers_see_all_progress(launcher: StandIn, make: Make) -> None:
    spawner = make()

    async def view() -> list[str]:
        return [event["message"] async for event in spawner.progress()]

    start = spawner.start()
    early = asyncio.ensure_future(view())
    await start
    assert await early == await view() == ["Preparing the sandbox"]


async def test_the_form_offers_profiles_and_tells_the_last_end(launcher: StandIn, make: Make) -> None:
    launcher.offers = [pb.Offer(profile="standard", display_name="<Standard>")]
    spawner = make()
    await spawner.start()
    launcher.end(spawner._key, pb.EXIT_CAUSE_OUT_OF_MEMORY, 137)
    await eventually(lambda: bool(spawner._last_end()))
    page = await spawner.get_options_form()
    assert "&lt;Standard&gt;" in page
    assert "it ran out of memory" in page
    assert spawner.run_options_from_form({"profile": ["standard"]}) == {"profile": "standard"}


async def test_rename_only_what_is_stopped(launcher: StandIn, make: Make) -> None:
    spawner = make()
    await spawner.start()
    with pytest.raises(StartFailed, match="still running"):
        await spawner.rename("", "lab")
    await spawner.stop()
    await spawner.rename("", "lab")
    await launcher.close()
    with pytest.raises(StartFailed, match="does not answer"):
        await spawner.rename("", "lab")


async def test_deleting_stops(launcher: StandIn, make: Make) -> None:
    spawner = make()
    await spawner.start()
    await spawner.delete_forever()
    assert launcher.sandboxes["ana", ""].phase == pb.PHASE_GONE


def test_nothing_happens_in_init() -> None:
    UnitSpawner()  # outside of any event loop

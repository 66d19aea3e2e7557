"""Start, stop and options against the stand-in launcher."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from conftest import UnitSpawner, eventually
from standin import Events, StandIn, progress

from adrastea import ends, failure
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
    launcher.end(spawner._key, pb.EXIT_CAUSE_OUT_OF_MEMORY, 137, "1 GiB <was> the limit")
    await eventually(lambda: ends.unexpected(spawner._cached()))
    page = await spawner.get_options_form()
    assert "&lt;Standard&gt;" in page
    assert "Your last server ended: 1 GiB &lt;was&gt; the limit." in page
    assert list(await spawner.last_ends()) == [await spawner.last_end()]
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


async def test_deleting_a_user_stops_and_forgets(launcher: StandIn, make: Make) -> None:
    spawner = make()
    await spawner.start()
    await spawner.delete_forever()
    assert launcher.sandboxes["ana", ""].phase == pb.PHASE_GONE
    assert launcher.forgotten == ["ana"]


async def test_deleting_a_named_server_forgets_nobody(
    launcher: StandIn, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawner = make()
    monkeypatch.setattr(UnitSpawner, "name", "lab")
    await spawner.delete_forever()
    assert launcher.stops[-1].key.server == "lab"
    assert launcher.forgotten == []


async def test_a_user_whom_the_hub_will_not_delete_is_not_forgotten(launcher: StandIn, make: Make) -> None:
    spawner = make()
    spawner.user.spawners["lab"] = SimpleNamespace(name="lab", active=True)
    await spawner.delete_forever()
    assert launcher.forgotten == []


async def test_a_launcher_that_cannot_forget_still_stops(launcher: StandIn, make: Make) -> None:
    async def unknown(request: pb.ForgetRequest, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "what?")

    await launcher.close()
    launcher._forget = unknown  # pyright: ignore[reportAttributeAccessIssue]
    await launcher.open()
    spawner = make()
    await spawner.start()
    await spawner.delete_forever()
    assert launcher.sandboxes["ana", ""].phase == pb.PHASE_GONE


async def test_a_launcher_that_hangs_is_said_plainly_and_owes_the_stop(launcher: StandIn, make: Make) -> None:
    reads = asyncio.Event()

    async def hang(request: pb.StartRequest) -> Events:
        await reads.wait()
        yield progress("Starting", 60)

    launcher.script = hang
    spawner = make(launcher_patience=0.1)
    with pytest.raises(StartFailed, match="does not answer") as caught:
        await spawner.start()
    assert caught.value.status_code == 503
    assert await spawner.poll() == 0
    await eventually(lambda: len(launcher.stops) == 1)


async def test_a_stop_that_found_nobody_is_made_up_for(launcher: StandIn, make: Make) -> None:
    spawner = make(stop_patience=0.2)
    await spawner.start()
    await launcher.close()
    await spawner.stop()
    assert await spawner.poll() == 0
    await launcher.open()
    await eventually(lambda: [stop.generation for stop in launcher.stops] == [1], 10)
    assert launcher.sandboxes["ana", ""].phase == pb.PHASE_GONE


async def test_a_newer_start_withdraws_the_stop_that_is_owed(launcher: StandIn, make: Make) -> None:
    spawner = make(stop_patience=0.2, launcher_patience=10)
    await spawner.start()
    await launcher.close()
    await spawner.stop()
    start = asyncio.ensure_future(spawner.start())
    await asyncio.sleep(0.5)
    await launcher.open()
    await start
    await asyncio.sleep(1.5)
    assert launcher.stops == []
    assert await spawner.poll() is None


async def test_waiting_says_the_place_in_the_queue(launcher: StandIn, make: Make) -> None:
    async def wait(request: pb.StartRequest) -> Events:
        for place, message in ((3, ""), (2, "Waiting: 1 start is before yours"), (0, "Preparing")):
            said = pb.Progress(phase=pb.PHASE_QUEUED, percent=0, message=message, queue_place=place)
            yield pb.StartEvent(progress=said)
        async for event in launcher.ready(request):
            yield event

    launcher.script = wait
    spawner = make()
    await spawner.start()
    assert [event async for event in spawner.progress()][:3] == [
        {"message": "Waiting: place 3 in the queue", "progress": 0, "queue_place": 3},
        {"message": "Waiting: 1 start is before yours", "progress": 0, "queue_place": 2},
        {"message": "Preparing", "progress": 0},
    ]


async def test_users_configuration_can_be_switched_off(launcher: StandIn, make: Make) -> None:
    await make().start()
    await make("bo", disable_user_config=True).start()
    assert [request.disable_user_config for request in launcher.starts] == [False, True]


async def test_a_users_own_failure_never_ends_the_hub(launcher: StandIn, make: Make) -> None:
    async def fail(request: pb.StartRequest) -> Events:
        reason = pb.FAILURE_REASON_PROOF if request.key.user == "bo" else pb.FAILURE_REASON_SERVER_EXITED
        yield pb.StartEvent(failed=pb.Failed(reason=reason, message="it ended"))

    launcher.script = fail
    for user, users_own in (("ana", True), ("bo", False)):
        spawner = make(user, consecutive_failure_limit=3)
        with pytest.raises(StartFailed) as caught:
            await spawner.start()
        assert caught.value.users_own == users_own
        # JupyterHub 6 looks at the kind of error, 5 at nothing but this.
        counted = not users_own or failure.HUB_KNOWS_REFUSALS
        assert spawner.consecutive_failure_limit == (3 if counted else 0)


async def test_an_exit_while_the_hub_is_busy_with_the_start_is_told_right_after(
    launcher: StandIn, make: Make
) -> None:
    spawner = make()
    await spawner.start()
    told = spawner.watch_exit()
    spawner.hub_thinks_ready, spawner._spawn_pending = False, True
    launcher.end(spawner._key, pb.EXIT_CAUSE_EXITED, 3, generation=1)
    await asyncio.sleep(0.3)
    assert not told.is_set()
    spawner.hub_thinks_ready, spawner._spawn_pending = True, False
    await asyncio.wait_for(told.wait(), 5)


def test_nothing_happens_in_init() -> None:
    UnitSpawner()  # outside of any event loop

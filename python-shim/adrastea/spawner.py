"""The hub's side of a server: maps each call of the hub to one call of the launcher.

It decides nothing. It must never do I/O in `__init__` (the hub makes one per
user and server), never raise from `poll` (the hub would forget a live server),
and never report a server as ended because the launcher does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any
from uuid import uuid4

from jupyterhub.spawner import Spawner
from markupsafe import Markup
from traitlets import Float, List, Unicode, default

from . import ends, failure, form, owed
from ._proto import launcher_pb2 as pb
from .client import (
    LauncherClient,
    LauncherError,
    LauncherHangs,
    LauncherNotFound,
    LauncherTimeout,
    LauncherTooOld,
    LauncherUnavailable,
    client_for,
)
from .progress import ProgressLog
from .request import BadOptions, build_start, parse_options
from .watch import Watch, watch_for

_DEFAULT_CMD = ["jupyterhub-singleuser"]


class AdrasteaSpawner(Spawner):
    """Starts servers in sandboxes through the Adrastea launcher on this machine."""

    socket = Unicode(
        "unix:///run/adrastea/api/launcher.sock", help="Where the launcher listens, as a gRPC target."
    ).tag(config=True)
    hub_name = Unicode(
        "jupyterhub",
        help="The name of this hub, if several use one launcher. Keep it: it identifies servers.",
    ).tag(config=True)
    profile = Unicode(
        "", help="The profile when the user chooses none. Empty: the first one the user may use."
    ).tag(config=True)
    form_intro = Unicode("", help="Text above the start form; plain text.").tag(config=True)
    secret_names = List(
        Unicode(),
        help="Further environment variables whose values must never be shown. Tokens, passwords and keys "
        "are recognised by their names.",
    ).tag(config=True)
    launcher_patience = Float(
        5.0, help="Seconds a start waits for a launcher that does not answer (it may be restarting)."
    ).tag(config=True)
    stop_patience = Float(
        60.0,
        help="Seconds a stop waits for a launcher that does not answer. After that the hub forgets the "
        "server, and it is stopped as soon as the launcher is back.",
    ).tag(config=True)
    stop_timeout = Float(60.0, help="Seconds the launcher has for one stop.").tag(config=True)

    _starting = False
    # Something of ours may be alive: poll then answers "running" to whatever is unknown.
    _believed = False
    # A start was given up halfway; the hub must call stop before it forgets the server.
    _stop_owed = False
    _generation = 0
    _progress: ProgressLog | None = None
    _background: asyncio.Task[Any] | None = None

    @default("start_timeout")
    def _default_start_timeout(self) -> int:
        return 300  # waiting in a queue counts

    @default("ip")
    def _default_ip(self) -> str:
        return "0.0.0.0"  # noqa: S104  # inside the sandbox, which has one link

    @default("port")
    def _default_port(self) -> int:
        return 8888

    @default("env_keep")
    def _default_env_keep(self) -> list[str]:
        return []  # the hub's own environment is no business of a user's server

    @default("options_form")
    def _default_options_form(self) -> Any:
        return AdrasteaSpawner._render_form

    @default("options_from_form")
    def _default_options_from_form(self) -> Any:
        return form.read_form

    @default("apply_user_options")
    def _default_apply_user_options(self) -> Any:
        # Read in `start`, whole; without this the hub warns that nobody reads them.
        return lambda spawner, user_options: None

    # ---- names -------------------------------------------------------------------------------------------

    @property
    def _key(self) -> pb.ServerKey:
        return pb.ServerKey(hub=self.hub_name, user=self.user.name, server=self.name)

    @property
    def _client(self) -> LauncherClient:
        return client_for(self.socket)

    @property
    def _watch(self) -> Watch:
        watch = watch_for(self.socket, self.hub_name)
        watch.listen((self.user.name, self.name), self)
        return watch

    def _cached(self) -> pb.Sandbox | None:
        """The last news of this server, unless it is older than this server."""
        sandbox = self._watch.get((self.user.name, self.name))
        return sandbox if sandbox and sandbox.generation >= self._generation else None

    # ---- state -------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        state = super().get_state()
        if self.api_token:
            # The hub itself keeps only a hash, and could not revoke it after a restart.
            state["api_token"] = self.api_token
        if self._generation:
            state["generation"] = self._generation
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.api_token = str(state.get("api_token", ""))
        self._generation = int(state.get("generation", 0))
        self._believed = bool(self.api_token or self._generation)

    def clear_state(self) -> None:
        super().clear_state()
        self._generation = 0
        self._starting = self._believed = self._stop_owed = False

    # ---- start -------------------------------------------------------------------------------------------

    def start(self) -> Coroutine[Any, Any, tuple[str, int]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Starts the server; returns when it answers.

        No coroutine function: what is done here, before the hub awaits, is in the hub's next commit. So the
        token can be revoked even if the hub dies while the server starts.
        """
        self._starting = True
        self._progress = ProgressLog()
        if self.orm_spawner is not None:
            self.orm_spawner.state = self.get_state()
        return self._start(self._progress)

    async def _start(self, progress: ProgressLog) -> tuple[str, int]:
        # A newer start takes the older one's place by itself; a late stop would only hit the newer one.
        owed.withdraw(self._client, self._key)
        try:
            ready = await self._follow_start(self._build_request(), progress)
        except asyncio.CancelledError:
            # The hub gave up. It calls `stop` next, as `poll` says it runs; begin at once.
            self._believed = self._stop_owed = True
            self._background = asyncio.ensure_future(self._stop_quietly())
            raise
        except LauncherTimeout as error:
            self._stop_owed = self._believed
            raise failure.from_error(error) from error
        except LauncherError as error:
            self.log.error("The launcher at %s did not start %s: %s", self.socket, self._log_name, error)
            raise self._judged(failure.from_error(error)) from error
        except failure.StartFailed as error:
            raise self._judged(error) from None
        finally:
            self._starting = False
            progress.end()
        self._generation = ready.generation
        return ready.address, ready.port

    def _judged(self, error: failure.StartFailed) -> failure.StartFailed:
        if error.users_own and not failure.HUB_KNOWS_REFUSALS:
            # JupyterHub 5 counts every failure, and ends itself after too many: not because of this one.
            self.consecutive_failure_limit = 0
        return error

    def _build_request(self) -> pb.StartRequest:
        if self.internal_ssl:
            raise failure.StartFailed("internal_ssl is not supported by this spawner", reason="invalid")
        for name, ignored in (
            ("cmd", self.cmd and list(self.cmd) != _DEFAULT_CMD),
            ("mem_guarantee", self.mem_guarantee),
            ("cpu_guarantee", self.cpu_guarantee),
        ):
            if ignored:
                self.log.warning("Spawner.%s has no effect: the launcher's profile decides", name)
        try:
            choice = parse_options(self.user_options)
        except BadOptions as error:
            raise failure.StartRefused(str(error), reason="invalid") from None
        if choice.memory_bytes is None and self.mem_limit:
            choice = replace(choice, memory_bytes=int(self.mem_limit))
        if choice.cpu_millis is None and self.cpu_limit:
            choice = replace(choice, cpu_millis=round(self.cpu_limit * 1000))
        environment = self.get_env()
        # For the server's own display; the launcher enforces the limits.
        if choice.memory_bytes is not None:
            environment["MEM_LIMIT"] = str(choice.memory_bytes)
        if choice.cpu_millis is not None:
            environment["CPU_LIMIT"] = f"{choice.cpu_millis / 1000:g}"
        # No guarantees are given; the token's old name is for servers older than any that is supported.
        for name in ("MEM_GUARANTEE", "CPU_GUARANTEE", "JPY_API_TOKEN"):
            environment.pop(name, None)
        return build_start(
            request_id=str(uuid4()),
            key=self._key,
            choice=replace(choice, profile=choice.profile or self.profile),
            arguments=self.get_args(),
            environment=environment,
            secret_names=self.secret_names,
            api_token=self.api_token,
            disable_user_config=self.disable_user_config,
        )

    async def _follow_start(self, request: pb.StartRequest, progress: ProgressLog) -> pb.Ready:
        """Follows one start, across a restart of the launcher: the same request id joins it again."""
        self._watch  # noqa: B018  # listens from here on
        now = asyncio.get_running_loop().time
        # A little earlier than the hub, which would only say "timeout".
        deadline = now() + max(self.start_timeout * 0.97, 1.0)
        silent_since: float | None = None
        while True:
            try:
                async with aclosing(self._client.start(request, timeout=deadline - now())) as events:
                    async for event in self._heard(events):
                        silent_since = None
                        self._believed = True
                        kind = event.WhichOneof("event")
                        if kind == "ready":
                            return event.ready
                        if kind == "failed":
                            self._believed = False
                            raise failure.from_failed(event.failed)
                        if kind == "progress":
                            progress.tell(event.progress)
                raise LauncherUnavailable("the start ended without a result")
            except LauncherUnavailable as error:
                if silent_since is None:
                    silent_since = now()
                    self.log.warning("Waiting for the launcher at %s: %s", self.socket, error)
                    progress.add("Waiting for the launcher")
                if now() - silent_since >= min(self.launcher_patience, deadline - now()):
                    raise
                await asyncio.sleep(0.25)

    async def _heard(
        self, events: AsyncGenerator[pb.StartEvent, None]
    ) -> AsyncGenerator[pb.StartEvent, None]:
        """The same events. A launcher that takes the call and says nothing hangs: it may read it yet, and
        then has to stop what it starts."""
        try:
            # It says at once that the start waits its turn.
            first = await asyncio.wait_for(anext(events), self.launcher_patience * 4)
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError:
            owed.stop(self._client, pb.StopRequest(key=self._key), self.stop_timeout)
            raise LauncherHangs("it took the request and says nothing") from None
        yield first
        async for event in events:
            yield event

    async def progress(self) -> AsyncGenerator[dict[str, Any], None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self._progress is not None:
            async with aclosing(self._progress.follow()) as events:
                async for event in events:
                    yield event

    # ---- poll --------------------------------------------------------------------------------------------

    async def poll(self) -> int | None:
        if self._starting or self._stop_owed:
            return None
        try:
            return await self._ask()
        except Exception:
            self.log.exception("Failed to poll %s", self._log_name)
            return None if self._believed else 0

    async def _ask(self) -> int | None:
        synced = await self._watch.settle(timeout=5)
        sandbox = self._cached() if synced else None
        if sandbox is None:
            if synced and not self._believed:
                return 0
            try:
                sandbox = await self._client.get(self._key, timeout=5)
            except LauncherNotFound:
                return 0
            except LauncherError as error:
                self.log.debug("Nothing known of %s: %s", self._log_name, error)
                return None if self._believed else 0
        if ends.ended(sandbox):
            return sandbox.exit.code
        # Known by its name alone after a hub that died while it started.
        self._generation = self._generation or sandbox.generation
        self._believed = True
        return None

    def sandbox_changed(self, sandbox: pb.Sandbox | None) -> None:
        """An exit, told as it happens: the hub learns of it now, not at its next poll."""
        if not self._believed or not (self.ready or self.pending == "check" or self._spawn_ends):
            return
        if sandbox is not None and (not ends.ended(sandbox) or sandbox.generation < self._generation):
            return
        why = ends.words(sandbox) if sandbox is not None else "the launcher no longer knows it"
        self.log.warning("The server of %s ended: %s", self._log_name, why)
        self._background = asyncio.ensure_future(self._notify_hub())

    @property
    def _spawn_ends(self) -> bool:
        """The server is started, and the hub is still busy with making it known."""
        return self.pending == "spawn" and not self._starting and bool(self._generation)

    async def _notify_hub(self) -> None:
        # While something is pending the hub listens to nobody, and would learn of it by its next poll only.
        for _ in range(100):
            if not self.pending:
                break
            await asyncio.sleep(0.1)
        if self.ready:
            await self.poll_and_notify()

    async def get_url(self) -> str:
        """The server's address from the launcher; waits for a server that was starting when the hub died."""
        now = asyncio.get_running_loop().time
        deadline = now() + self.start_timeout
        while now() < deadline:
            synced = await self._watch.settle(timeout=5)
            sandbox = self._cached()
            if sandbox is not None and sandbox.phase >= pb.PHASE_READY:
                break
            # Without a generation the start was never finished: what the hub keeps as the address is none.
            if (self._generation and not synced) or (synced and sandbox is None):
                break
            await asyncio.sleep(0.1)
        sandbox = self._cached()
        if sandbox is None or not sandbox.address:
            return await super().get_url()
        return f"http://{sandbox.address}:{sandbox.port}{self.server.base_url if self.server else '/'}"

    # ---- stop --------------------------------------------------------------------------------------------

    async def stop(self, now: bool = False) -> None:
        """Stops the server; returns when nothing of it is left.

        A launcher that does not answer is waited for: the hub forgets the server once this ends. If it takes
        too long, the stop stays owed, so that the server and its token do not outlive the user's wish.
        """
        if self._background is not None and self._stop_owed:
            await asyncio.wait([self._background])
        request = pb.StopRequest(key=self._key, generation=self._generation, grace_ms=0 if now else None)
        try:
            await self._stop(request)
        except LauncherError as error:
            self.log.error("%s is stopped as soon as the launcher answers again: %s", self._log_name, error)
            owed.stop(self._client, request, self.stop_timeout)
        self._starting = self._believed = self._stop_owed = False

    async def _stop(self, request: pb.StopRequest) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.stop_patience
        waiting = False
        while True:
            try:
                await self._client.stop(request, timeout=self.stop_timeout)
                return
            except (LauncherUnavailable, LauncherTimeout) as error:
                if clock() >= deadline:
                    raise
                if not waiting:
                    self.log.warning("Waiting for the launcher to stop %s: %s", self._log_name, error)
                waiting = True
                await asyncio.sleep(0.5)

    async def _stop_quietly(self) -> None:
        """Ends what a given-up start left, in the background; `stop` follows and reports."""
        if not self._generation and (sandbox := self._cached()):
            self._generation = sandbox.generation
        try:
            await self._client.stop(
                pb.StopRequest(key=self._key, generation=self._generation), timeout=self.stop_timeout
            )
        except LauncherError as error:
            self.log.warning("Failed to stop the given-up start of %s: %s", self._log_name, error)

    async def delete_forever(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The user or the named server is deleted: nothing may run on.

        The hub never deletes a user's default server by itself: with that one goes the user, and the launcher
        does with the home what policy says.
        """
        await self._stop(pb.StopRequest(key=self._key))
        self._watch.forget((self.user.name, self.name))
        if self.name:
            self.log.info("Deleted the server of %s; the home is kept", self._log_name)
            return
        alive = [other.name for other in self.user.spawners.values() if other is not self and other.active]
        if alive:
            # The hub is about to refuse: the user stays, and so does the home.
            self.log.warning("Not forgetting %s, whose server %r is active", self.user.name, alive[0])
            return
        try:
            answer = await self._client.forget(self.hub_name, self.user.name, timeout=self.stop_timeout)
        except LauncherTooOld:
            self.log.info("Deleted the server of %s; the home is kept", self._log_name)
        else:
            self.log.info("Forgot user %s: %s", self.user.name, ends.home_words(answer))

    async def rename(self, old_name: str, new_name: str) -> None:
        """Only the launcher's key holds the name, so a stopped server may have another one."""
        for name in (old_name, new_name):
            key = pb.ServerKey(hub=self.hub_name, user=self.user.name, server=name)
            try:
                sandbox = await self._client.get(key)
            except LauncherNotFound:
                continue
            except LauncherError as error:
                raise failure.from_error(error) from error
            if not ends.ended(sandbox):
                raise failure.StartRefused(
                    f"the server {name!r} is still running; stop it before renaming",
                    reason="invalid",
                    status_code=409,
                )

    # ---- options -----------------------------------------------------------------------------------------

    def options_from_query(self, query_data: dict[str, list[str]]) -> dict[str, Any]:
        return form.read_query(query_data)

    async def _render_form(self) -> str:
        try:
            offers = await self._client.offers(self.user.name)
        except LauncherError as error:
            self.log.error("No offers for %s: %s", self.user.name, error)
            return form.alert(failure.from_error(error).jupyterhub_message)
        chosen = self.orm_spawner.user_options if self.orm_spawner is not None else None
        return form.render(
            offers,
            intro=self.form_intro,
            notice=await self.last_end(),
            chosen=chosen if isinstance(chosen, Mapping) else None,
            default_profile=self.profile,
        )

    # ---- pages -------------------------------------------------------------------------------------------

    async def last_end(self) -> Markup:
        """Why this server ended, if nobody asked it to: for the hub's pages. Empty while it runs."""
        await self._watch.settle(timeout=1)
        sandbox = self._cached()
        return ends.notice(sandbox) if sandbox is not None and ends.unexpected(sandbox) else Markup()

    async def last_ends(self) -> list[Markup]:
        """The same of all servers of this user."""
        await self._watch.settle(timeout=1)
        mine = self._watch.of_user(self.user.name)
        return [ends.notice(sandbox) for sandbox in mine if ends.unexpected(sandbox)]

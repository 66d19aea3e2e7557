"""Keeps what the launcher says of every server of this hub.

One per hub process and launcher, shared by all spawners: polling a thousand
servers costs the launcher nothing, and an exit reaches the hub when it happens.

    connecting ──snapshot, or what was missed──> synced ──stream breaks──> connecting (backoff)

A broken stream is resumed where it broke, with the token of the last event that
was taken in: nothing is missed, nothing is told twice. A launcher that cannot
resume sends everything anew, and what it no longer names is gone.

While it is connecting, what was known stays, marked as not synced. It must never
report a server as gone because the launcher cannot be reached.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from typing import Protocol
from weakref import WeakKeyDictionary, WeakValueDictionary

# The hub sends this one to its own log.
from tornado.log import app_log as log

from ._proto import launcher_pb2 as pb
from .client import LauncherClient, LauncherError, LauncherInvalid, client_for

Name = tuple[str, str]

_LONGEST_PAUSE = 2.0
_MOST_GONE = 2000


class Listener(Protocol):
    def sandbox_changed(self, sandbox: pb.Sandbox | None) -> None:
        """Told of each change of its server; None: the launcher no longer knows it."""


class Watch:
    def __init__(self, client: LauncherClient, hub: str) -> None:
        self._client = client
        self._hub = hub
        self._sandboxes: dict[Name, pb.Sandbox] = {}
        self._listeners: WeakValueDictionary[Name, Listener] = WeakValueDictionary()
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        # Everything up to here has been taken in.
        self._token = ""
        self.synced = False

    def listen(self, name: Name, listener: Listener) -> None:
        """Registers who is told; the last one wins. Starts the stream at the first call."""
        self._listeners[name] = listener
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def get(self, name: Name) -> pb.Sandbox | None:
        """What was last heard, synced or not."""
        return self._sandboxes.get(name)

    def of_user(self, user: str) -> list[pb.Sandbox]:
        """What was last heard of each server of this user."""
        return [sandbox for (owner, _), sandbox in sorted(self._sandboxes.items()) if owner == user]

    def forget(self, name: Name) -> None:
        """The hub has deleted this server: whoever gets its name next must not read of its end."""
        self._sandboxes.pop(name, None)

    async def settle(self, timeout: float) -> bool:
        """Waits until the first attempt either synced or failed; whether it is synced."""
        try:
            await asyncio.wait_for(self._tried.wait(), timeout)
        except asyncio.TimeoutError:
            return False
        return self.synced

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        pause = 0.1
        complained = False
        while True:
            try:
                await self._follow()
            except LauncherInvalid as error:
                log.warning("The launcher at %s refuses to resume the watch: %s", self._client.socket, error)
                self._token = ""
            except LauncherError as error:
                if not complained:
                    log.warning("The launcher at %s does not answer: %s", self._client.socket, error)
            except Exception:
                log.exception("Unexpected end of the watch at %s", self._client.socket)
                self._token = ""
            # A stream that got as far as being synced was good: start over quickly.
            pause, complained = (0.1, False) if self.synced else (min(pause * 2, _LONGEST_PAUSE), True)
            self.synced = False
            self._tried.set()
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311

    async def _follow(self) -> None:
        # None: what comes continues what is known.
        snapshot: dict[Name, pb.Sandbox] | None = {}
        async with aclosing(self._client.watch(self._hub, self._token)) as events:
            async for event in events:
                kind = event.WhichOneof("event")
                if kind == "resumed":
                    snapshot = None
                elif kind == "synced":
                    if snapshot is not None:
                        self._replace(snapshot)
                        snapshot = None
                    self.synced = True
                    self._tried.set()
                elif kind == "sandbox":
                    if snapshot is not None:
                        _keep_newest(snapshot, event.sandbox)
                    elif _keep_newest(self._sandboxes, event.sandbox):
                        self._tell(_name(event.sandbox), event.sandbox)
                # In the middle of a snapshot nothing has been taken in yet.
                if snapshot is None and event.resume_token:
                    self._token = event.resume_token

    def _replace(self, snapshot: dict[Name, pb.Sandbox]) -> None:
        self._sandboxes = snapshot
        self.synced = True
        self._tried.set()
        for name in list(self._listeners):
            self._tell(name, snapshot.get(name))

    def _tell(self, name: Name, sandbox: pb.Sandbox | None) -> None:
        self._forget_oldest()
        listener = self._listeners.get(name)
        if listener is not None:
            try:
                listener.sandbox_changed(sandbox)
            except Exception:
                log.exception("Failed to report a change of %s", name)

    def _forget_oldest(self) -> None:
        if len(self._sandboxes) > _MOST_GONE:
            gone = [name for name, sandbox in self._sandboxes.items() if sandbox.phase == pb.PHASE_GONE]
            for name in gone[: len(gone) // 2]:
                del self._sandboxes[name]


def _name(sandbox: pb.Sandbox) -> Name:
    return sandbox.key.user, sandbox.key.server


def _keep_newest(known: dict[Name, pb.Sandbox], sandbox: pb.Sandbox) -> bool:
    """Late news of an earlier generation never hides a newer one."""
    name = _name(sandbox)
    held = known.get(name)
    if held is not None and held.generation > sandbox.generation:
        return False
    known[name] = sandbox
    return True


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str], Watch]] = WeakKeyDictionary()


def watch_for(socket: str, hub: str) -> Watch:
    """The one watch of this launcher and hub in the running event loop."""
    watches = _watches.setdefault(asyncio.get_running_loop(), {})
    if (socket, hub) not in watches:
        watches[socket, hub] = Watch(client_for(socket), hub)
    return watches[socket, hub]

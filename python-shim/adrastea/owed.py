"""Stops that the launcher still owes: it did not answer when they were wanted.

Each is tried until it succeeds, in the background, for as long as this hub lives.
It must never hit a newer server: a new start withdraws what is owed for its key.
"""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

from tornado.log import app_log as log

from ._proto import launcher_pb2 as pb
from .client import LauncherClient, LauncherError

_Key = tuple[str, str, str]
_PAUSE = 1.0

_owed: WeakKeyDictionary[LauncherClient, dict[_Key, asyncio.Task[None]]] = WeakKeyDictionary()


def stop(client: LauncherClient, request: pb.StopRequest, timeout: float) -> None:
    """Stops a server as soon as the launcher answers."""
    withdraw(client, request.key)
    task = asyncio.ensure_future(_insist(client, request, timeout))
    _owed.setdefault(client, {})[_name(request.key)] = task


def withdraw(client: LauncherClient, key: pb.ServerKey) -> None:
    task = _owed.get(client, {}).pop(_name(key), None)
    if task is not None:
        task.cancel()


def _name(key: pb.ServerKey) -> _Key:
    return key.hub, key.user, key.server


async def _insist(client: LauncherClient, request: pb.StopRequest, timeout: float) -> None:
    while True:
        try:
            await client.stop(request, timeout=timeout)
        except LauncherError:
            await asyncio.sleep(_PAUSE)
            continue
        key = request.key
        log.warning("Stopped the server %r of %s, as was owed", key.server, key.user)
        _owed.get(client, {}).pop(_name(key), None)
        return

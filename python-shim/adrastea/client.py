"""Talks to the launcher; the only file that knows gRPC.

One channel per socket and event loop. Every call has a deadline, except the two
streams that may rightly last. No caller ever sees a gRPC error: each becomes
one of the errors below, which carry words only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any
from weakref import WeakKeyDictionary

import grpc
from google.protobuf.message import Message

from ._proto import launcher_pb2 as pb

SERVICE = "adrastea.v1.Launcher"
QUICK = 10.0

_CHANNEL_OPTIONS = [
    # The default would be the socket's path, which HTTP/2 servers refuse.
    ("grpc.default_authority", "localhost"),
    ("grpc.enable_http_proxy", 0),
    # The launcher is on this machine: notice its return within a second or two.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 64 << 20),
    # A launcher that is stopped or hangs keeps its connection open: ask whether it is there while it owes
    # an answer.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
]


class LauncherError(Exception):
    """The launcher could not do it; the text says what it said."""


class LauncherUnavailable(LauncherError):
    """Nobody answers at the socket, or the connection broke."""


class LauncherHangs(LauncherError):
    """Somebody takes the call at the socket, and says nothing."""


class LauncherDenied(LauncherError):
    """Policy says no."""


class LauncherInvalid(LauncherError):
    """The request makes no sense."""


class LauncherNotFound(LauncherError):
    """The launcher never had this server."""


class LauncherTimeout(LauncherError):
    """No answer within the deadline."""


class LauncherBusy(LauncherError):
    """No room for it now."""


class LauncherTooOld(LauncherError):
    """The launcher does not know this call."""


_ERRORS: dict[grpc.StatusCode, type[LauncherError]] = {
    grpc.StatusCode.UNAVAILABLE: LauncherUnavailable,
    # A launcher that shuts down cancels what it was asked.
    grpc.StatusCode.CANCELLED: LauncherUnavailable,
    grpc.StatusCode.PERMISSION_DENIED: LauncherDenied,
    grpc.StatusCode.UNAUTHENTICATED: LauncherDenied,
    grpc.StatusCode.INVALID_ARGUMENT: LauncherInvalid,
    grpc.StatusCode.ALREADY_EXISTS: LauncherInvalid,
    grpc.StatusCode.NOT_FOUND: LauncherNotFound,
    grpc.StatusCode.DEADLINE_EXCEEDED: LauncherTimeout,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LauncherBusy,
    grpc.StatusCode.UNIMPLEMENTED: LauncherTooOld,
}


def _translated(error: grpc.RpcError) -> LauncherError:
    code = error.code()  # pyright: ignore[reportAttributeAccessIssue]
    details = error.details() or code.name  # pyright: ignore[reportAttributeAccessIssue]
    return _ERRORS.get(code, LauncherError)(details)


class LauncherClient:
    """The launcher at one socket. Needs a running event loop."""

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self._channel = grpc.aio.insecure_channel(socket, options=_CHANNEL_OPTIONS)
        self._start = self._stream("Start", pb.StartRequest, pb.StartEvent)
        self._watch = self._stream("Watch", pb.WatchRequest, pb.WatchEvent)
        self._stop = self._unary("Stop", pb.StopRequest, pb.StopResponse)
        self._get = self._unary("Get", pb.GetRequest, pb.Sandbox)
        self._offers = self._unary("Offers", pb.OffersRequest, pb.OffersResponse)
        self._forget = self._unary("Forget", pb.ForgetRequest, pb.ForgetResponse)

    def _unary(self, name: str, request: type[Message], response: type[Message]) -> Callable[..., Any]:
        return self._channel.unary_unary(f"/{SERVICE}/{name}", request.SerializeToString, response.FromString)

    def _stream(self, name: str, request: type[Message], response: type[Message]) -> Callable[..., Any]:
        return self._channel.unary_stream(
            f"/{SERVICE}/{name}", request.SerializeToString, response.FromString
        )

    def start(self, request: pb.StartRequest, timeout: float) -> AsyncGenerator[pb.StartEvent, None]:
        """Streams a start. Ending the iteration early cancels the call, not the server."""
        return self._events(self._start(request, timeout=timeout))

    def watch(self, hub: str, resume_token: str = "") -> AsyncGenerator[pb.WatchEvent, None]:
        return self._events(self._watch(pb.WatchRequest(hub=hub, resume_token=resume_token)))

    async def stop(self, request: pb.StopRequest, timeout: float) -> bool:
        """Returns when nothing is left; whether there was something."""
        response: pb.StopResponse = await self._answer(self._stop(request, timeout=timeout))
        return response.stopped

    async def get(self, key: pb.ServerKey, timeout: float = QUICK) -> pb.Sandbox:
        return await self._answer(self._get(pb.GetRequest(key=key), timeout=timeout))

    async def offers(self, user: str, timeout: float = QUICK) -> list[pb.Offer]:
        response = await self._answer(self._offers(pb.OffersRequest(user=user), timeout=timeout))
        return list(response.offers)

    async def forget(self, hub: str, user: str, timeout: float) -> pb.ForgetResponse:
        """The hub has deleted the user: stops what runs, and does with the home what policy says."""
        return await self._answer(self._forget(pb.ForgetRequest(hub=hub, user=user), timeout=timeout))

    async def close(self) -> None:
        await self._channel.close()

    @staticmethod
    async def _answer(call: Any) -> Any:
        try:
            return await call
        except grpc.RpcError as error:
            raise _translated(error) from None

    @staticmethod
    async def _events(call: Any) -> AsyncGenerator[Any, None]:
        try:
            async for event in call:
                yield event
        except grpc.RpcError as error:
            raise _translated(error) from None
        finally:
            call.cancel()


_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, LauncherClient]] = WeakKeyDictionary()


def client_for(socket: str) -> LauncherClient:
    """The one client of this socket in the running event loop."""
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    if socket not in clients:
        clients[socket] = LauncherClient(socket)
    return clients[socket]

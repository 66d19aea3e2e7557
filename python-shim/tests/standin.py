"""A stand-in for the launcher: the contract's RPCs in this process, with no sandbox behind them.

What a start streams is set per test; everything that was asked is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import message_factory

from adrastea._proto import launcher_pb2 as pb

Events = AsyncIterator[pb.StartEvent]


def progress(message: str, percent: int, phase: int = pb.PHASE_PREPARING) -> pb.StartEvent:
    return pb.StartEvent(progress=pb.Progress(phase=phase, percent=percent, message=message))  # pyright: ignore[reportArgumentType]


class StandIn:
    def __init__(self, socket: Path) -> None:
        self.path = socket
        self.target = f"unix://{socket}"
        self.starts: list[pb.StartRequest] = []
        self.stops: list[pb.StopRequest] = []
        self.gets = 0
        # The resume token of each Watch, and how many of the last changes can be caught up on.
        self.watches: list[str] = []
        self.remembers = 1000
        self.forgotten: list[str] = []
        self.sandboxes: dict[tuple[str, str], pb.Sandbox] = {}
        self.offers: list[pb.Offer] = []
        self.script: Callable[[pb.StartRequest], Events] = self.ready
        self._generation = 0
        self._history: list[pb.Sandbox] = []
        self._watchers: set[asyncio.Event] = set()
        self._server: grpc.aio.Server | None = None

    async def open(self) -> None:
        methods = pb.DESCRIPTOR.services_by_name["Launcher"].methods_by_name
        handlers = {}
        for name in ("Start", "Stop", "Get", "Watch", "Offers", "Forget"):
            method: Any = methods[name]
            kind = (
                grpc.unary_stream_rpc_method_handler
                if method.server_streaming
                else grpc.unary_unary_rpc_method_handler
            )
            handlers[name] = kind(
                getattr(self, f"_{name.lower()}"),
                request_deserializer=message_factory.GetMessageClass(method.input_type).FromString,
                response_serializer=message_factory.GetMessageClass(method.output_type).SerializeToString,
            )
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("adrastea.v1.Launcher", handlers),)
        )
        self.path.unlink(missing_ok=True)
        server.add_insecure_port(self.target)
        await server.start()
        self._server = server

    async def close(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    def change(self, key: pb.ServerKey, phase: int, generation: int = 0, **fields: Any) -> pb.Sandbox:
        """Sets the state of a server and tells every watcher."""
        sandbox = pb.Sandbox(
            sandbox_id="s1",
            key=key,
            phase=phase,  # pyright: ignore[reportArgumentType]
            generation=generation or self._generation,
            **fields,
        )
        self.sandboxes[key.user, key.server] = sandbox
        self._history.append(sandbox)
        for changed in self._watchers:
            changed.set()
        return sandbox

    def end(self, key: pb.ServerKey, cause: int, code: int, message: str = "", generation: int = 0) -> None:
        ended = pb.Exit(cause=cause, code=code, message=message)  # pyright: ignore[reportArgumentType]
        self.change(key, pb.PHASE_GONE, generation, exit=ended)

    async def ready(self, request: pb.StartRequest) -> Events:
        yield progress("Preparing the sandbox", 10)
        self._generation += 1
        self.change(request.key, pb.PHASE_READY, address="10.88.1.0", port=8888)
        yield pb.StartEvent(
            ready=pb.Ready(sandbox_id="s1", address="10.88.1.0", port=8888, generation=self._generation)
        )

    async def _start(self, request: pb.StartRequest, context: Any) -> Events:
        self.starts.append(request)
        async for event in self.script(request):
            yield event

    async def _stop(self, request: pb.StopRequest, context: Any) -> pb.StopResponse:
        self.stops.append(request)
        sandbox = self.sandboxes.get((request.key.user, request.key.server))
        if sandbox is None or sandbox.phase == pb.PHASE_GONE:
            return pb.StopResponse(stopped=False)
        self.end(request.key, pb.EXIT_CAUSE_STOPPED, 0, generation=sandbox.generation)
        return pb.StopResponse(stopped=True)

    async def _get(self, request: pb.GetRequest, context: Any) -> pb.Sandbox:
        self.gets += 1
        sandbox = self.sandboxes.get((request.key.user, request.key.server))
        if sandbox is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such server")
        assert sandbox is not None
        return sandbox

    async def _offers(self, request: pb.OffersRequest, context: Any) -> pb.OffersResponse:
        return pb.OffersResponse(offers=self.offers)

    async def _forget(self, request: pb.ForgetRequest, context: Any) -> pb.ForgetResponse:
        self.forgotten.append(request.user)
        return pb.ForgetResponse(home=pb.HOME_FATE_KEPT)

    async def _watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.WatchEvent]:
        self.watches.append(request.resume_token)
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            since, place = int(request.resume_token or -1), len(self._history)
            if 0 <= since <= place and place - since <= self.remembers:
                yield pb.WatchEvent(resumed=pb.Resumed(), resume_token=str(since))
                for number in range(since, place):
                    yield pb.WatchEvent(sandbox=self._history[number], resume_token=str(number + 1))
            else:
                for sandbox in list(self.sandboxes.values()):
                    yield pb.WatchEvent(sandbox=sandbox)
            yield pb.WatchEvent(synced=pb.Synced(), resume_token=str(place))
            while True:
                changed.clear()
                while place < len(self._history):
                    place += 1
                    yield pb.WatchEvent(sandbox=self._history[place - 1], resume_token=str(place))
                await changed.wait()
        finally:
            self._watchers.discard(changed)

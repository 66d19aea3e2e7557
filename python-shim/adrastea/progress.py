"""Holds the progress of one start and replays it to every viewer.

Each browser tab makes its own iterator, at any time; each sees all of it, and
all end when the start ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from ._proto import launcher_pb2 as pb


class ProgressLog:
    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._ended = False
        self._changed = asyncio.Event()

    def add(self, message: str, percent: int | None = None, queue_place: int = 0) -> None:
        event: dict[str, Any] = {"message": message}
        if percent is not None:
            # 100 belongs to the hub, which says it once the proxy has the route.
            event["progress"] = min(percent, 99)
        if queue_place:
            # Not for the hub's page, which shows the message; for those who read the progress by the API.
            event["queue_place"] = queue_place
        if not self._events or self._events[-1] != event:
            self._events.append(event)
            self._wake()

    def tell(self, progress: pb.Progress) -> None:
        """What the launcher says. It has words of its own for a place in its queue, as a rule."""
        place = progress.queue_place
        message = progress.message or (f"Waiting: place {place} in the queue" if place else "Starting")
        self.add(message, progress.percent, place)

    def end(self) -> None:
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        # Each waiter holds the event it waits for, so none misses a change.
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self) -> AsyncGenerator[dict[str, Any], None]:
        seen = 0
        while True:
            while seen < len(self._events):
                seen += 1
                # A copy: the hub takes keys out of what it gets.
                yield dict(self._events[seen - 1])
            if self._ended:
                return
            await self._changed.wait()

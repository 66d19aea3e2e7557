"""Holds the progress of one start and replays it to every viewer.

Each browser tab makes its own iterator, at any time; each sees all of it, and
all end when the start ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any


class ProgressLog:
    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._ended = False
        self._changed = asyncio.Event()

    def add(self, message: str, percent: int | None = None) -> None:
        event: dict[str, Any] = {"message": message}
        if percent is not None:
            # 100 belongs to the hub, which says it once the proxy has the route.
            event["progress"] = min(percent, 99)
        if not self._events or self._events[-1] != event:
            self._events.append(event)
            self._wake()

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

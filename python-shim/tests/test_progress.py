"""Progress reaches every viewer, early or late, and ends."""

from __future__ import annotations

import asyncio
from typing import Any

from adrastea.progress import ProgressLog


async def collect(log: ProgressLog) -> list[dict[str, Any]]:
    return [event async for event in log.follow()]


async def test_every_viewer_sees_all_of_it() -> None:
    log = ProgressLog()
    early = [asyncio.ensure_future(collect(log)) for _ in range(3)]
    await asyncio.sleep(0)
    log.add("one", 10)
    await asyncio.sleep(0.01)
    late = asyncio.ensure_future(collect(log))
    log.add("two", 20)
    log.add("two", 20)
    log.end()
    after = collect(log)
    expected = [{"message": "one", "progress": 10}, {"message": "two", "progress": 20}]
    assert await asyncio.gather(*early, late, after) == [expected] * 5


async def test_events_are_copies_and_never_complete() -> None:
    log = ProgressLog()
    log.add("done", 100)
    log.end()
    (event,) = await collect(log)
    event.clear()
    assert await collect(log) == [{"message": "done", "progress": 99}]

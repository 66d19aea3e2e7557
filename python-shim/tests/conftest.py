"""Fixtures: the stand-in launcher, and spawners as the hub makes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from jupyterhub.objects import Server
from standin import StandIn
from traitlets.config import Config

from adrastea import AdrasteaSpawner
from adrastea.client import client_for
from adrastea.watch import watch_for


@pytest_asyncio.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[StandIn]:
    standin = StandIn(tmp_path / "l.sock")
    await standin.open()
    yield standin
    await watch_for(standin.target, "jupyterhub").close()
    await client_for(standin.target).close()
    await standin.close()


class UnitSpawner(AdrasteaSpawner):
    """As in production, and reports what the hub would be told."""

    @property
    def ready(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.hub_thinks_ready

    hub_thinks_ready = True

    def watch_exit(self) -> asyncio.Event:
        told = asyncio.Event()
        self.add_poll_callback(told.set)
        return told


@pytest.fixture
def make(launcher: StandIn) -> Callable[..., UnitSpawner]:
    def make(user: str = "ana", **settings: Any) -> UnitSpawner:
        spawner = UnitSpawner(
            config=Config(UnitSpawner={"socket": launcher.target, "launcher_patience": 0.5, **settings}),
            user=SimpleNamespace(name=user, url=f"/user/{user}/", escaped_name=user, spawners={}),
            hub=SimpleNamespace(api_url="http://10.88.0.1:8081/hub/api", public_host="", base_url="/hub/"),
            oauth_client_id=f"jupyterhub-user-{user}",
        )
        spawner.user.spawners[""] = spawner
        spawner.load_state({})
        spawner.server = Server(base_url=f"/user/{user}/")
        spawner.api_token = "s3cret"
        return spawner

    return make


async def eventually(condition: Callable[[], bool], seconds: float = 5) -> None:
    for _ in range(int(seconds * 50)):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not happen in time")

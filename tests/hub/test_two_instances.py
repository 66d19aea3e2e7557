"""Two instances on one host: each with a launcher, a containerd and a hub of its own, and undisturbed."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hub import LIGHT, Hub

from launcher import Launcher


def disk_id(launcher: Launcher) -> str:
    """The number on disk of the one user who has a server."""
    listed = launcher.run("ls").stdout.splitlines()
    assert len(listed) == 2, listed
    return next(word for word in listed[1].split() if len(word) == 10 and word.isdigit())


@pytest.mark.parametrize("hub", ["6.1"], indirect=True)
def test_two_instances_with_their_hubs_do_not_disturb_each_other(hub: Hub, launcher: Launcher) -> None:
    directory = Path(tempfile.mkdtemp(prefix="adrastea-hub-"))
    directory.chmod(0o711)
    hub_directory = Path(tempfile.mkdtemp(prefix="adrastea-hub-"))
    second = Launcher(f"two{os.getpid()}", directory, number=1)
    second_hub = Hub(second, hub_directory, "6.1")
    hub.up("twin", options=LIGHT)
    try:
        second.start()
        second.import_image()
        second_hub.start()
        # The same name on the other hub is another user, with another number and another home.
        second_hub.up("twin", options=LIGHT)
        assert disk_id(launcher) != disk_id(second)
        assert set(launcher.servers()).isdisjoint(second.servers())
        assert launcher.servers() and second.servers()
        for one in (hub, second_hub):
            assert one.get("/user/twin/api").status_code == 200
        # One hub's stop and one instance's end leave the other's server alone.
        second_hub.stop("twin")
        assert second.servers() == []
        assert hub.get("/user/twin/api").status_code == 200
        second_hub.up("twin", options=LIGHT)
        assert second_hub.get("/user/twin/api").status_code == 200
        second_hub.stop("twin")
    finally:
        second_hub.clean()
        second.clean()
        shutil.rmtree(hub_directory, ignore_errors=True)
    assert hub.get("/user/twin/api").status_code == 200
    hub.stop("twin")

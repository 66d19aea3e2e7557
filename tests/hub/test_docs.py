"""The documents tell the truth: their commands run, their configuration can be read."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from documents import Block, blocks
from place import IMAGE, LAUNCHER

from launcher import Launcher

ALL = blocks()


def named(block: Block) -> str:
    return block.name


@pytest.mark.parametrize("block", [block for block in ALL if block.kind == "commands"], ids=named)
def test_commands(launcher: Launcher, block: Block, tmp_path: Path) -> None:
    if block.reason:
        pytest.skip(f"not runnable here: {block.reason}")
    command = tmp_path / "adrastea"
    command.write_text(f'#!/bin/sh\nexec "{LAUNCHER}" --config "{launcher.config}" "$@"\n')
    command.chmod(0o755)
    text = block.text.replace("/path/image.tar", str(IMAGE))
    text = text.replace("/var/lib/adrastea", f"{launcher.directory}/state")
    # Where the word is the instance's name, and not the program's or the router's table's.
    text = re.sub(r"(?m)^(nft .*inet|ip netns exec|ip .*dev) adrastea\b", rf"\1 {launcher.instance}", text)
    done = subprocess.run(
        ["bash", "-euc", text],
        env={"PATH": f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(tmp_path)},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    launcher.run("undrain")
    if done.returncode == 1 and "adrastea doctor" in text:
        # A machine that builds all this may be short of room, which `doctor` rightly says.
        findings = json.loads(launcher.run("doctor", "--json").stdout)["findings"]
        problems = [finding["what"] for finding in findings if finding["severity"] == "problem"]
        assert problems and all(what.startswith("disk of ") for what in problems), done.stdout
        return
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("block", [block for block in ALL if block.kind == "toml"], ids=named)
def test_configuration_can_be_read(block: Block) -> None:
    tomllib.loads(block.text)


@pytest.mark.parametrize("block", [block for block in ALL if block.kind == "python"], ids=named)
def test_python_can_be_read(block: Block) -> None:
    compile(block.text, block.name, "exec")


def test_the_marks_are_used() -> None:
    """Were the marks misread, nothing would be run, and nothing would fail."""
    commands = [block for block in ALL if block.kind == "commands"]
    assert sum(not block.reason for block in commands) >= 5, commands

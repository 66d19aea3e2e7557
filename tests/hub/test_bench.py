"""The benchmark with a real image: what it measures inside, and that its report is as documented."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
from place import CHECKOUT

from launcher import Launcher

MEASURED = {
    "network, there and back",
    "network, to the sandbox",
    "network, from the sandbox",
    "Python loop",
    "numpy matmul",
    "system calls",
    "fork and exec",
    "import jupyter_server, first",
    "import jupyter_server, again",
    "import numpy, first",
    "import numpy, again",
    "import pandas, first",
    "import pandas, again",
    "small files",
    "git status",
    "pip install",
    "large file, write and fsync",
    "large file, read",
    "kernel until its first cell",
}


def test_a_whole_report(launcher: Launcher, tmp_path: Path) -> None:
    words = ["--quick", "--rounds", "1", "--storms", "1", "--inside", "1", "--profile", "test-programs"]
    done = launcher.run("bench", "--output", str(tmp_path / "report"), *words)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report/report.json").read_text())
    schema = json.loads((CHECKOUT / "docs/bench-report.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(report)
    # No profile of this image has a pool: that is told, and nothing else is missing.
    assert [reason.partition(":")[0] for reason in report["left_out"]] == [
        f"warm starts, {runtime['runtime']}" for runtime in report["runtimes"]
    ]
    for runtime in report["runtimes"]:
        cold = runtime["starts"]["cold"]
        # A kernel comes after the server that makes it, and takes longer than a way there and back.
        assert cold["first_cell_ms"]["count"] == 1
        assert cold["first_cell_ms"]["p50"] > cold["total_ms"]["p50"] + 50 > 50
        assert runtime["starts"]["cold"]["failures"]["count"] == 0
        # An idle server of Jupyter's takes tens of MiB; whoever sees less has looked at the wrong place.
        assert runtime["memory"]["points"][0]["sandboxes_mib"] > 20
        inside = {figure["name"]: figure for figure in runtime["inside"]}
        assert set(inside) == MEASURED
        assert {name: figure["missing"] for name, figure in inside.items() if figure["missing"]} == {}
        assert all(figure["value"]["p50"] > 0 for figure in inside.values())
    page = (tmp_path / "report/report.md").read_text()
    assert "kernel until its first cell" in page and "![Starts](start.svg)" in page
    assert "![Starts until the first cell](first-cell.svg)" in page and "first cell p50" in page
    # Nothing is left in the home that was measured in.
    for runtime in report["runtimes"]:
        user = f"bench-{runtime['runtime']}-1"
        words = ["--hub", "adrastea-bench", "--user", user, "--", "sh", "-c", "ls -A $HOME"]
        listed = launcher.run("run", *words)
        assert listed.returncode == 0 and ".adrastea-bench" not in listed.stdout, listed

"""Gets the project's tools into target/tools; see `tools/get --help`.

It must never change a package the host already has, nor its package sources.
"""

import argparse
import sys

import browser
import debian
import docker
import gvisor_shim
import node
import python
import youki
from common import TOOLS, ToolError, locked, record_versions, say

PARTS = {
    "packages": debian.get_build_packages,
    "containerd": debian.get_containerd,
    "runc": debian.get_runc,
    "runsc": debian.get_runsc,
    "python": python.get_python,
    "proxy": node.get_proxy,
    "containerd-1.7": debian.get_containerd_1_7,
    "registry": debian.get_registry,
    "browser": browser.get_browser,
    "docker": docker.get_docker,
    "faketime": debian.get_faketime,
    "youki": youki.get_youki,
    "gvisor-shim": gvisor_shim.get_gvisor_shim,
    "lint": debian.get_lint_packages,
    "pyright": node.get_pyright,
}
DEFAULT = ["packages", "containerd", "runc", "runsc", "python", "proxy"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/get", description=f"Gets tools into {TOOLS}.")
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"{', '.join(PARTS)} (default: {', '.join(DEFAULT)})",
    )
    parts = parser.parse_args().parts or DEFAULT
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]}; known are {', '.join(PARTS)}")
    try:
        with locked():
            for number, part in enumerate(parts, 1):
                versions = PARTS[part](f"[{number}/{len(parts)}] ")
                for name, version in versions.items():
                    say(f"  {name} {version}")
                record_versions(versions)
    except ToolError as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

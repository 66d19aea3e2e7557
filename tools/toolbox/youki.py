"""youki, compiled from Cargo's registry with what its lock file pins; for tests.

What it is compiled in must not stay: it is larger than what comes of it.
"""

import os
import shutil
from pathlib import Path

import debian
from common import TOOLS, ToolError, fingerprint, is_done, run, say, set_done, watch

VERSION = "0.7.0"
FEATURES = "v1,v2,seccomp"
PLACE = TOOLS / "youki"
SECCOMP = "libseccomp-dev"
# For tests the quicker build will do; its assertions would end it where a release goes on.
PROFILE = {"CARGO_PROFILE_DEV_DEBUG": "0", "CARGO_PROFILE_DEV_DEBUG_ASSERTIONS": "false"}


def get_youki(step: str) -> dict[str, str]:
    versions = debian.get_youki_packages(step)
    mark = fingerprint(Path(__file__), debian.pinned(SECCOMP))
    say(f"{step}youki")
    if not is_done("youki", mark, PLACE / "bin/youki"):
        if shutil.which("cargo") is None:
            raise ToolError("failed to find cargo on PATH (install Rust, see https://rustup.rs)")
        tree, _ = debian.unpack([SECCOMP], "youki")
        libraries = tree / "usr/lib/x86_64-linux-gnu"
        environment = {
            **os.environ,
            **PROFILE,
            "CARGO_TARGET_DIR": str(tree.parent / "build"),
            "PKG_CONFIG_PATH": str(libraries / "pkgconfig"),
            "LIBSECCOMP_LIB_PATH": str(libraries),
            "LIBSECCOMP_LINK_TYPE": "static",
        }
        source = ["youki", "--version", VERSION, "--locked", "--debug", "--force"]
        features = ["--no-default-features", "--features", FEATURES]
        try:
            watch(
                ["cargo", "install", *source, *features, "--root", PLACE],
                r"^ +Compiling (\S+)",
                title="crate",
                env=environment,
            )
        finally:
            shutil.rmtree(tree.parent)
        run([PLACE / "bin/youki", "--version"])
        set_done("youki", mark)
    return {**versions, "youki": VERSION}

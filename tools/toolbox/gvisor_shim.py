"""gVisor's own shim for containerd, compiled from the source of Debian's runsc with the Go and
the Go libraries of Debian's packages; for tests. No package has it.

What it is compiled in must not stay: it is larger than what comes of it.
"""

import os
import shutil
import tomllib
from pathlib import Path

import debian
from common import ROOT, TOOLS, ToolError, fingerprint, is_done, run, say, set_done

LOCK = ROOT / "tools" / "gvisor-shim.toml"
PROGRAM = TOOLS / "gvisor-shim/bin/containerd-shim-runsc-v1"
GVISOR = "usr/share/gocode/src/gvisor.dev/gvisor"

# It was written against containerd 1.4; Debian's libraries are those of 1.6.
ADAPTED = [
    ("proc/init.go", "CopyConsole(ctx, console, ", "CopyConsole(ctx, console, p.id, "),
    ("proc/exec.go", "CopyConsole(ctx, console, ", "CopyConsole(ctx, console, e.id, "),
    ("runsc/service_linux.go", "console console.Console, stdin", "console console.Console, id, stdin"),
    ("service.go", "shim.SetScore(", "shim.AdjustOOMScore("),
    (
        "service.go",
        "id, containerdBinary, containerdAddress, containerdTTRPCAddress string) (string, error) {",
        "o shim.StartOpts) (string, error) {\n"
        "\tid, containerdBinary, containerdAddress := o.ID, o.ContainerdBinary, o.Address",
    ),
]
# As in the source's own rules: what of the kernel is linked in looks for it when it starts.
VDSO = [
    "-O2",
    "-std=c++11",
    "-fPIC",
    "-fno-sanitize=all",
    "-fno-stack-protector",
    "-shared",
    "-nostdlib",
    "-Wl,-soname=linux-vdso.so.1",
    "-Wl,--hash-style=sysv",
    "-Wl,--no-undefined",
    "-Wl,-Bsymbolic",
    "-Wl,-z,max-page-size=4096",
    "-Wl,-z,common-page-size=4096",
    "-Wl,-Tvdso/vdso_amd64.lds",
]


def _lay_source(tree: Path) -> None:
    """Puts the shim, which Debian's package leaves out, beside the package's files."""
    source = tree.parent / "source"
    source.mkdir()
    archive = debian.download(debian.pinned("source", LOCK), tree.parent)
    run(["tar", "--extract", "--file", archive, "--directory", source, "--strip-components=1"])
    target = tree / GVISOR
    shutil.copytree(source / "pkg/shim", target / "pkg/shim", dirs_exist_ok=True)
    shutil.copytree(source / "shim", target / "shim", dirs_exist_ok=True)
    for name, old, new in ADAPTED:
        file = target / "pkg/shim" / name
        text = file.read_text()
        if old not in text:
            raise ToolError(f"failed to adapt `{name}` of gVisor's shim: `{old}` is not in it")
        file.write_text(text.replace(old, new))
    library = target / "pkg/sentry/loader/vdsodata/vdso_amd64.so"
    run(["c++", "-I.", *VDSO, "-o", library, "vdso/vdso.cc", "vdso/vdso_time.cc"], cwd=source)


def get_gvisor_shim(step: str) -> dict[str, str]:
    versions = debian.get_gvisor_shim_packages(step)
    mark = fingerprint(LOCK, Path(__file__), debian.MIRROR)
    version = debian.pinned("source", LOCK)["version"]
    say(f"{step}gvisor-shim")
    if not is_done("gvisor-shim", mark, PROGRAM):
        packages = [name for name in tomllib.loads(LOCK.read_text()) if name != "source"]
        tree, _ = debian.unpack(packages, "gvisor-shim", LOCK)
        try:
            _lay_source(tree)
            root = tree / "usr/lib/go-1.22"
            environment = {
                **os.environ,
                "GOROOT": str(root),
                "GOPATH": str(tree / "usr/share/gocode"),
                "GOCACHE": str(tree.parent / "cache"),
                "GOFLAGS": "",
                "GO111MODULE": "off",
                "GOTOOLCHAIN": "local",
                "CGO_ENABLED": "0",
            }
            say("  compiling it")
            PROGRAM.parent.mkdir(parents=True, exist_ok=True)
            fresh = PROGRAM.with_name(f".{PROGRAM.name}.new")
            run([root / "bin/go", "build", "-o", fresh, "gvisor.dev/gvisor/shim"], env=environment)
            run([fresh, "-v"])
            fresh.rename(PROGRAM)
        finally:
            shutil.rmtree(tree.parent)
        set_done("gvisor-shim", mark)
    return {**versions, "gvisor-shim": version}

"""Debian packages: missing ones for the build are installed, pinned ones are
unpacked into target/tools.

What is unpacked must never be installed, and the host's own package sources,
lists and packages stay as they are: apt is given its own directories.
"""

import os
import shutil
import sys
import tomllib
from pathlib import Path

from common import ROOT, TOOLS, ToolError, fingerprint, is_done, need_root, run, say, set_done, watch

MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
LOCK = ROOT / "tools" / "lock.toml"
SELF = Path(__file__)

# What must be there, and the package that brings it.
BUILD_NEEDS = {
    "/usr/bin/cc": "gcc",
    "/usr/include/stdio.h": "libc6-dev",
    "protoc": "protobuf-compiler",
    "/usr/include/google/protobuf/any.proto": "libprotobuf-dev",
    "patchelf": "patchelf",
    "debootstrap": "debootstrap",
    "nft": "nftables",
    "ip": "iproute2",
    "node": "nodejs",
    "npm": "npm",
    "python3-venv": "python3-venv",
}
LINT_NEEDS = {"shellcheck": "shellcheck"}
YOUKI_NEEDS = {"pkg-config": "pkg-config"}
GVISOR_SHIM_NEEDS = {"c++": "g++"}
BROWSER_NEEDS = {
    "chromium-headless-shell": "chromium-headless-shell",
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf": "fonts-dejavu-core",
}


def _is_there(need: str) -> bool:
    if need == "python3-venv":
        return Path(os.path.realpath(sys.executable)).parent != Path("/usr/bin") or any(
            Path("/usr/lib").glob("python3.*/ensurepip/__init__.py")
        )
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    path = f"{os.environ.get('PATH', '')}:{path}"
    return Path(need).exists() if need.startswith("/") else bool(shutil.which(need, path=path))


def _install_missing(title: str, needs: dict[str, str]) -> dict[str, str]:
    missing = sorted({package for need, package in needs.items() if not _is_there(need)})
    if not missing:
        say(f"{title} packages: nothing is missing")
        return {}
    say(f"{title} packages: installing {', '.join(missing)}")
    need_root(f"install {', '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    watch(["apt-get", "update"], r"^(?:Get|Hit):\d+ (\S+ \S+)", title="package lists", env=environment)
    watch(
        # --no-upgrade: what the host has stays as it is.
        ["apt-get", "install", "--yes", "--no-install-recommends", "--no-upgrade", *missing],
        r"^(?:Unpacking|Setting up) (\S+)",
        title="package",
        env=environment,
    )
    return dict.fromkeys(missing, "(installed)")


def get_build_packages(step: str) -> dict[str, str]:
    return _install_missing(f"{step}build", BUILD_NEEDS)


def get_lint_packages(step: str) -> dict[str, str]:
    return _install_missing(f"{step}lint", LINT_NEEDS)


def get_browser_packages(step: str) -> dict[str, str]:
    return _install_missing(f"{step}browser", BROWSER_NEEDS)


def get_youki_packages(step: str) -> dict[str, str]:
    return _install_missing(f"{step}youki", YOUKI_NEEDS)


def get_gvisor_shim_packages(step: str) -> dict[str, str]:
    return _install_missing(f"{step}gVisor's own shim", GVISOR_SHIM_NEEDS)


def private_apt(suite: str) -> list[str]:
    """Options that make apt work on one suite in a directory of its own."""
    base = TOOLS / "apt" / suite
    for part in ("lists/partial", "cache/archives/partial", "state"):
        (base / part).mkdir(parents=True, exist_ok=True)
    sources = base / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {MIRROR} {suite} main\n")
    settings = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "Dir::State": base / "state",
        "Dir::State::Lists": base / "lists",
        "Dir::State::Status": "/dev/null",
        "Dir::Cache": base / "cache",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "",
    }
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def _newest(package: str, suite: str, into: Path) -> tuple[Path, str]:
    """The suite's newest version, vouched for by the Debian keyring."""
    options = private_apt(suite)
    watch(["apt-get", *options, "update"], r"^Get:\d+ (.*)", title="package list")
    run(["apt-get", *options, "download", package], cwd=into)
    deb = next(into.glob(f"{package}_*.deb"))
    return deb, run(["dpkg-deb", "--field", deb, "Version"]).strip()


def pinned(name: str, lock: Path = LOCK) -> dict[str, str]:
    return tomllib.loads(lock.read_text())[name]


def download(pin: dict[str, str], into: Path) -> Path:
    """Gets the pinned file from the mirror."""
    file = into / Path(pin["file"]).name
    # apt's own helper knows the host's proxy settings, and checks the sum.
    helper = ["/usr/lib/apt/apt-helper", "-o", "APT::Sandbox::User="]
    run([*helper, "download-file", f"{MIRROR}/{pin['file']}", file, f"SHA256:{pin['sha256']}"])
    return file


def _fetch(name: str, into: Path, lock: Path) -> tuple[Path, str]:
    """Downloads what the lock file pins under this name; answers file and version."""
    pin = pinned(name, lock)
    package = pin.get("package", name)
    say(f"  getting {package} {pin['version']} from {pin['suite']}")
    deb = into / Path(pin["file"]).name
    try:
        download(pin, into)
    except ToolError as error:
        deb.unlink(missing_ok=True)
        if "404" not in str(error):
            raise ToolError(f"failed to download `{deb.name}`:\n{error}") from error
        say(
            f"  {package} {pin['version']} is not on the mirror any more: taking the newest of {pin['suite']}"
        )
        try:
            deb, version = _newest(package, pin["suite"], into)
        except ToolError as second:
            raise ToolError(f"failed to download `{package}`:\n{error}\n{second}") from second
        return deb, f"{version} (newest of {pin['suite']}, not the pinned {pin['version']})"
    return deb, pin["version"]


def unpack(names: list[str], place: str, lock: Path = LOCK) -> tuple[Path, dict[str, str]]:
    if (architecture := run(["dpkg", "--print-architecture"]).strip()) != "amd64":
        raise ToolError(f"failed to find tools for `{architecture}`: the lock file pins amd64 packages")
    work = TOOLS / "unpack" / place
    shutil.rmtree(work, ignore_errors=True)
    tree = work / "tree"
    tree.mkdir(parents=True)
    versions = {}
    for name in names:
        deb, versions[name] = _fetch(name, work, lock)
        run(["dpkg", "-x", deb, tree])
    return tree, versions


def _place(source: Path, target: Path) -> None:
    """Puts a program in place in one step, so that a running one is not disturbed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.new")
    shutil.copyfile(source.resolve(), fresh)
    fresh.chmod(0o755)
    fresh.rename(target)


def _get_containerd(step: str, name: str, programs: Path) -> dict[str, str]:
    mark = fingerprint(LOCK, SELF, MIRROR)
    versions_file = programs / f".{name}.version"
    wanted = ["containerd", "containerd-shim-runc-v2", "ctr"]
    say(f"{step}{name}")
    if not is_done(name, mark, versions_file, *(programs / program for program in wanted)):
        tree, versions = unpack([name], name)
        for program in wanted:
            _place(tree / "usr/bin" / program, programs / program)
        run([programs / "containerd", "--version"])
        versions_file.write_text(versions[name])
        shutil.rmtree(tree.parent)
        set_done(name, mark)
    return {name: versions_file.read_text()}


def get_containerd(step: str) -> dict[str, str]:
    return _get_containerd(step, "containerd", TOOLS / "bin")


def get_containerd_1_7(step: str) -> dict[str, str]:
    return _get_containerd(step, "containerd-1.7", TOOLS / "containerd-1.7" / "bin")


def _get_program(step: str, package: str, path: str) -> dict[str, str]:
    """A package of which one program is wanted, and which needs nothing the host does not have."""
    mark = fingerprint(LOCK, SELF, MIRROR)
    program, version_file = TOOLS / "bin" / Path(path).name, TOOLS / "bin" / f".{package}.version"
    say(f"{step}{package}")
    if not is_done(package, mark, program, version_file):
        tree, versions = unpack([package], package)
        _place(tree / path, program)
        run([program, "--version"])
        version_file.write_text(versions[package])
        shutil.rmtree(tree.parent)
        set_done(package, mark)
    return {package: version_file.read_text()}


def get_registry(step: str) -> dict[str, str]:
    """A registry for tests."""
    return _get_program(step, "docker-registry", "usr/bin/docker-registry")


def get_runsc(step: str) -> dict[str, str]:
    """gVisor's runtime."""
    return _get_program(step, "runsc", "usr/bin/runsc")


def _closure(program: Path, tree: Path) -> dict[str, Path]:
    """Every library the program needs, found in the unpacked tree only."""
    found: dict[str, Path] = {}
    todo = [program]
    while todo:
        for name in run(["patchelf", "--print-needed", todo.pop()]).split():
            if name in found:
                continue
            library = next(tree.rglob(name), None)
            if library is None:
                raise ToolError(
                    f"failed to find `{name}`, which {program.name} needs, in the pinned packages"
                )
            found[name] = library.resolve()
            todo.append(found[name])
    return found


def get_runc(step: str) -> dict[str, str]:
    """runc with libraries of its own, because it needs a newer libc than the host's."""
    mark = fingerprint(LOCK, SELF, MIRROR)
    runc, libraries = TOOLS / "bin" / "runc", TOOLS / "runc-libraries"
    version_file = TOOLS / "bin" / ".runc.version"
    say(f"{step}runc")
    if not is_done("runc", mark, runc, version_file, libraries):
        tree, versions = unpack(["runc", "libc6", "libseccomp2"], "runc")
        program = (tree / "usr/sbin/runc").resolve()
        for name, library in _closure(program, tree).items():
            _place(library, libraries / name)
        loader = next(tree.rglob("ld-linux-x86-64.so.2")).resolve()
        _place(loader, libraries / loader.name)
        # Absolute, because runc starts itself again from /proc/self/exe.
        run(["patchelf", "--set-interpreter", libraries / loader.name, "--set-rpath", libraries, program])
        _place(program, runc)
        run([runc, "--version"])
        version_file.write_text(versions["runc"])
        shutil.rmtree(tree.parent)
        set_done("runc", mark)
    return {"runc": version_file.read_text()}


def get_faketime(step: str) -> dict[str, str]:
    """The library that moves one process's wall clock, for tests."""
    mark = fingerprint(LOCK, SELF, MIRROR)
    library, version_file = TOOLS / "faketime" / "libfaketimeMT.so.1", TOOLS / "faketime" / ".version"
    say(f"{step}libfaketime")
    if not is_done("libfaketime", mark, library, version_file):
        tree, versions = unpack(["libfaketime"], "libfaketime")
        _place(next(tree.rglob(library.name)), library)
        version_file.write_text(versions["libfaketime"])
        shutil.rmtree(tree.parent)
        set_done("libfaketime", mark)
    return {"libfaketime": version_file.read_text()}


def get_docker_packages(step: str) -> dict[str, str]:
    """Docker's daemon and client, without a place on the host."""
    mark = fingerprint(LOCK, SELF, MIRROR)
    programs = TOOLS / "docker" / "bin"
    version_file = programs / ".version"
    wanted = ["usr/sbin/dockerd", "usr/sbin/docker-proxy", "usr/bin/docker"]
    say(f"{step}docker.io")
    if not is_done("docker.io", mark, version_file, *(programs / Path(one).name for one in wanted)):
        tree, versions = unpack(["docker.io"], "docker.io")
        for one in wanted:
            _place(tree / one, programs / Path(one).name)
        run([programs / "dockerd", "--version"])
        version_file.write_text(versions["docker.io"])
        shutil.rmtree(tree.parent)
        set_done("docker.io", mark)
    return {"docker.io": version_file.read_text()}

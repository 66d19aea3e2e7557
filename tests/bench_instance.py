"""An instance of the launcher for a benchmark, with an image of this tree: brought
up on this machine, and taken away afterwards. Measures nothing itself.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(os.environ.get("ADRASTEA_TOOLS", ROOT / "target/tools"))
LAUNCHER = Path(os.environ.get("ADRASTEA_LAUNCHER", ROOT / "target/release/adrastea"))
INIT = Path(os.environ.get("ADRASTEA_INIT", ROOT / "target/x86_64-unknown-linux-gnu/release/adrastea-init"))
# Every runtime that `tools/get` brings.
RUNTIMES = {"runc": TOOLS / "bin/runc", "gvisor": TOOLS / "bin/runsc"}
# Known holes that this measurement accepts.
ACCEPTED = {"runc": [], "gvisor": ["CVE-2025-2713"]}
INSTANCE = f"bench{os.getpid() % 100000}"
STATE, RUN = Path("/var/lib") / INSTANCE, Path("/run") / INSTANCE
# Archives or layouts in TOOLS.
IMAGES = {"singleuser": "singleuser.oci.tar", "programs": "programs.oci"}
CONFIG = RUN / "bench.toml"

TEXT = """
version = 1
instance = "{instance}"
[paths]
init = "{init}"
[access]
group = "0"
hub_users = []
[containerd]
binary = "{tools}/bin/containerd"
[network]
subnet = "10.96.0.0/16"
{runtimes}
[images.{image}]
reference = "{reference}"
digest = "{digest}"
[profiles.standard]
display_name = "Standard"
image = "{image}"
runtimes = [{names}]
egress = "hub"
command = ["jupyterhub-singleuser"]
user = {{ uid = 1000, gid = 1000, home = "/home/jovyan", name = "jovyan" }}
users = ["*"]
environment_allowed = ["JPY_API_TOKEN", "MEM_*", "CPU_*"]
[profiles.standard.environment]
PATH = "/opt/jupyter/bin:/usr/local/bin:/usr/bin:/bin"
LANG = "C.UTF-8"
"""

# As fast as it goes: what is measured is a start that finds one. Only where one is asked for.
POOL = '[pool]\nmemory = "64GiB"\ncpu = 1000.0\neach_profile = {{ maximum = 0 }}\n'


def options(description: str | None) -> argparse.Namespace:
    """Of all parts of `make bench-start`, so that each takes what is given to the whole."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=10, help="starts of each kind, one after the other")
    parser.add_argument("--soak", type=int, metavar="STARTS", help="start so often, and watch for growth")
    parser.add_argument(
        "--storms", type=int, nargs="*", default=[20, 50], help="starts at once, through a hub"
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="NAME",
        help="a runtime, or DockerSpawner; again for more",
    )
    return parser.parse_args()


def waiting(runtime: str, slots: int) -> str:
    """The same profile with sandboxes of this runtime that wait, where the launcher can have any."""
    profile = TEXT[TEXT.index("[profiles.standard]") :].replace(
        "profiles.standard", f"profiles.waiting-{runtime}"
    )
    bounds = f"pool = {{{{ minimum = {slots}, maximum = {slots} }}}}\n"
    return profile.replace("[{names}]", f'["{runtime}"]').replace("egress =", f"{bounds}egress =")


@contextlib.contextmanager
def running(
    image: str = "singleuser", slots: dict[str, int] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The launcher's process, with the image imported. So many sandboxes wait under each of
    these runtimes that can."""
    reference = f"localhost/adrastea/{image}:1"
    if os.geteuid() != 0:
        sys.exit("must be run by root")
    RUN.mkdir(mode=0o711)
    text = TEXT
    if slots:
        text += "".join(waiting(runtime, count) for runtime, count in slots.items())
    text += POOL
    CONFIG.write_text(
        text.format(
            instance=INSTANCE,
            init=INIT,
            tools=TOOLS,
            image=image,
            reference=reference,
            digest=(TOOLS / f"{image}.digest").read_text().strip(),
            runtimes="\n".join(
                f'[runtimes.{name}]\nbinary = "{path}"\naccept_vulnerable = {json.dumps(ACCEPTED[name])}'
                for name, path in RUNTIMES.items()
            ),
            names=", ".join(f'"{name}"' for name in RUNTIMES),
        )
    )
    log = (RUN / "serve.log").open("wb")
    launcher = subprocess.Popen(
        [LAUNCHER, "--config", CONFIG, "serve"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )
    try:
        while not (RUN / "api/launcher.sock").exists():
            if launcher.poll() is not None:
                sys.exit(f"the launcher ended: {(RUN / 'serve.log').read_text()}")
            time.sleep(0.05)
        print("importing the image", file=sys.stderr)
        # What lies on top of the single-user image leaves its layers out.
        for name in dict.fromkeys(["singleuser", image]):
            words = ["image", "import", TOOLS / IMAGES[name], f"localhost/adrastea/{name}:1"]
            command = [LAUNCHER, "--config", CONFIG, *words]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        yield launcher
    finally:
        launcher.send_signal(signal.SIGTERM)
        launcher.wait(30)
        # Before anything below it is removed: it shows the engine's own layer.
        if str(RUN / "bare-rootfs") in Path("/proc/mounts").read_text():
            subprocess.run(["umount", RUN / "bare-rootfs"], check=True)
        shutil.rmtree(STATE, ignore_errors=True)
        shutil.rmtree(RUN, ignore_errors=True)

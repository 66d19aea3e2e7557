"""What the demo makes on the host before anything runs, and takes away after.

The homes and the image store stay in the state directory until `make demo-clean`;
everything else must be gone when the demo ends.
"""

import json
import os
import pwd
import shutil
import subprocess
from pathlib import Path
from string import Template

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TOOLS = ROOT / "target" / "tools"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
LAUNCHER = TARGET / "release" / "adrastea"
INIT = TARGET / "x86_64-unknown-linux-gnu" / "release" / "adrastea-init"
ARCHIVE = TOOLS / "singleuser.oci.tar"
REFERENCE = "localhost/adrastea/singleuser:1"

INSTANCE = "adrastea-demo"
USER = "adrastea-demo"
STATE = Path("/var/lib/adrastea-demo")
RUN = Path("/run/adrastea-demo")
# The hub's own files, and the launcher's configuration.
HUB = Path("/run/adrastea-demo-hub")
CONFIG = HUB / "adrastea.toml"
# Where the hub's user finds the tools, whatever the checkout's own directory allows.
HUB_TOOLS = HUB / "tools"
SOCKET = RUN / "api" / "launcher.sock"
# A demo that was killed takes its programs along.
ENDS_WITH_DEMO = ["setpriv", "--pdeathsig=TERM"]


def run(*command: object) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def make_user() -> bool:
    """The unprivileged user of hub and proxy; false if it was there before.

    Made for the run only: a launcher knows its callers by user, so a nameless number
    would not do, and an existing user's other processes would be let in as well.
    """
    try:
        pwd.getpwnam(USER)
    except KeyError:
        run("useradd", "--system", "--user-group", "--no-create-home",
            "--home-dir", HUB, "--shell", "/usr/sbin/nologin", USER)  # fmt: skip
        return True
    return False


def remove_user() -> None:
    """Also one that a killed demo left; without a word if there is none."""
    subprocess.run(["userdel", USER], check=False, stderr=subprocess.DEVNULL)


def make_directories() -> None:
    """Fresh directories for one run; the configuration belongs to root."""
    remove_tree(HUB)
    HUB.mkdir(mode=0o755)
    HUB_TOOLS.mkdir()
    hub_state = HUB / "state"
    hub_state.mkdir(mode=0o700)
    shutil.chown(hub_state, USER, USER)
    shutil.copy(HERE / "jupyterhub_config.py", HUB)
    CONFIG.write_text(configuration())
    CONFIG.chmod(0o644)


def remove_directories() -> None:
    for directory in (HUB, RUN):
        remove_tree(directory)


def remove_tree(directory: Path) -> None:
    """Removes a directory, but never through a mount: a home may lie behind it."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    if below := [mount for mount in mounts if f"{mount}/".startswith(f"{directory}/")]:
        print(f"failed to remove {directory}: {below[0]} is still mounted", flush=True)
        return
    shutil.rmtree(directory, ignore_errors=True)


def configuration() -> str:
    """The launcher's configuration; with a profile for the web if there is a way out."""
    text = (HERE / "adrastea.toml.in").read_text()
    web_settings = ""
    if link := default_link():
        web_settings = f'uplink = "{link}"\nresolvers = {json.dumps(resolvers())}\n'
        text += (HERE / "web.toml.in").read_text()
    return Template(text).substitute(
        instance=INSTANCE,
        state=STATE,
        run=RUN,
        init=INIT,
        user=USER,
        tools=TOOLS,
        reference=REFERENCE,
        digest=image_digest(),
        web_settings=web_settings,
    )


def image_digest() -> str:
    return (TOOLS / "singleuser.digest").read_text().strip()


def default_link() -> str | None:
    routes = json.loads(run("ip", "-json", "-4", "route", "show", "default"))
    return routes[0].get("dev") if routes else None


def resolvers() -> list[str]:
    """The host's DNS servers; one on the host itself would be out of reach."""
    words = [line.split() for line in Path("/etc/resolv.conf").read_text().splitlines()]
    servers = [pair[1] for pair in words if len(pair) == 2 and pair[0] == "nameserver"]
    usable = [server for server in servers if ":" not in server and not server.startswith("127.")]
    return usable or ["9.9.9.9"]


def as_hub_user(*command: object) -> list[str]:
    """Runs a command as the hub's user, without any privilege, in a mount namespace
    where the tools are readable: a checkout may lie in a private directory."""
    enter = 'mount --bind "$1" "$2" && cd "$3" && shift 3 && exec "$@"'
    drop = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs",
            "--bounding-set=-all", "--inh-caps=-all", *ENDS_WITH_DEMO[1:]]  # fmt: skip
    return [
        *("unshare", "--mount", "--propagation", "private"),
        *("sh", "-c", enter, "sh", str(TOOLS), str(HUB_TOOLS), str(HUB / "state")),
        *drop,
        *(str(word) for word in command),
    ]

"""Brings up a whole JupyterHub with sandboxed servers on this machine, in the
foreground, and takes it all down again: `make demo`.

It must leave nothing behind but the state directory (homes, images), and must never
touch what it did not start.
"""

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import place
from children import Child

SNAPSHOT = place.ROOT / "tests" / "leak-snapshot"
HUB_PYTHON = place.HUB_TOOLS / "venv-6.1/bin/python"
PROXY = place.HUB_TOOLS / "node/node_modules/configurable-http-proxy/bin/configurable-http-proxy"


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


def say(text: str) -> None:
    print(f"demo     | {text}", flush=True)


def prepare() -> None:
    steps = [
        ("getting tools", place.ROOT / "tools/get"),
        ("building", place.ROOT / "tools/build"),
        ("building the single-user image", place.ROOT / "images/singleuser/build"),
    ]
    for number, (title, command) in enumerate(steps, 1):
        say(f"step {number} of {len(steps)}: {title}")
        # A session of its own, so that an end of the demo reaches all of it.
        step = subprocess.Popen([command], stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            code = step.wait()
        except KeyboardInterrupt:
            os.killpg(step.pid, signal.SIGTERM)
            step.wait()
            raise
        if code != 0:
            raise DemoError(f"failed at {title}")


def launcher(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [str(place.LAUNCHER), "--config", str(place.CONFIG), *(str(word) for word in arguments)]
    return subprocess.run(words, capture_output=True, text=True)


def wait_for(what: str, is_there: Callable[[], bool], children: list[Child], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_there():
        for child in children:
            if child.ended():
                raise DemoError(f"the {child.name} ended with code {child.wait()}")
        if time.monotonic() > deadline:
            raise DemoError(f"{what} did not come up within {seconds:g} seconds")
        time.sleep(0.1)


def launcher_answers() -> bool:
    return place.SOCKET.exists() and launcher("ls").returncode == 0


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise DemoError(f"failed to use port {port} (choose another: make demo PORT=9000)") from error


def import_image() -> None:
    digest = place.image_digest()
    if digest in launcher("image", "ls").stdout:
        say("the single-user image is imported already")
        return
    say("importing the single-user image, half a minute")
    command = [place.LAUNCHER, "--config", place.CONFIG, "image", "import", place.ARCHIVE, place.REFERENCE]
    if subprocess.run(command).returncode != 0:
        raise DemoError("failed to import the image")


def stop_servers() -> None:
    done = launcher("stop", "--all")
    if done.returncode != 0:
        say(f"failed to stop all servers: {done.stderr.strip()}")


def start(stack: ExitStack, port: int, password: str) -> list[Child]:
    """Starts everything; each thing's end is put on the stack before the next starts."""
    if place.make_user():
        stack.callback(place.remove_user)
    place.make_directories()
    stack.callback(place.remove_directories)

    def run(name: str, command: list[str], environment: dict[str, str] | None = None) -> Child:
        say(f"starting the {name}")
        child = Child(name, command, environment)
        stack.callback(stop, child)
        return child

    serve = [*place.ENDS_WITH_DEMO, str(place.LAUNCHER), "--config", str(place.CONFIG), "serve"]
    children = [run("launcher", serve)]
    wait_for("the launcher", launcher_answers, children, 60)
    stack.callback(stop_servers)
    import_image()

    url, api = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(place.HUB / "state"),
        "LANG": "C.UTF-8",
        "ADRASTEA_SOCKET": f"unix://{place.SOCKET}",
        "CONFIGPROXY_AUTH_TOKEN": secrets.token_hex(32),
        "DEMO_URL": url,
        "DEMO_PROXY_API": api,
        "DEMO_PASSWORD": password,
    }
    proxy = [shutil.which("node") or "node", PROXY, "--ip=127.0.0.1", f"--port={port}"]
    proxy += ["--api-ip=127.0.0.1", f"--api-port={port + 1}", "--log-level=warn"]
    proxy += ["--error-target=http://10.88.0.1:8081/hub/error"]
    children.append(run("proxy", place.as_hub_user(*proxy), environment))
    hub = [HUB_PYTHON, "-m", "jupyterhub", "-f", place.HUB / "jupyterhub_config.py"]
    children.append(run("hub", place.as_hub_user(*hub), environment))
    wait_for("the hub", lambda: answers(f"{url}/hub/health"), children, 60)
    return children


def stop(child: Child) -> None:
    say(f"stopping the {child.name}")
    if not child.stop(60):
        say(f"the {child.name} did not end when asked, and was killed")


def act_as_user(url: str, password: str) -> bool:
    environment = {**os.environ, "DEMO_URL": url, "DEMO_PASSWORD": password}
    script = Path(__file__).with_name("check.py")
    return Child("check", [place.TOOLS / "venv-6.1/bin/python", script], environment).wait() == 0


def run_demo(port: int, check: bool) -> bool:
    for used in (port, port + 1):
        check_port(used)
    if place.SOCKET.exists() and place.CONFIG.exists() and launcher_answers():
        raise DemoError("failed to start: a demo is running already")
    password = secrets.token_urlsafe(12)
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as stack:
        stack.callback(say, "everything is stopped")
        try:
            children = start(stack, port, password)
            if check:
                return act_as_user(url, password)
            say("")
            say(f"JupyterHub is at   {url}")
            say("user               any name, for instance ana")
            say(f"password           {password}")
            say("Ctrl-C stops everything; homes stay until `make demo-clean`")
            say("")
            wait_until_ended(children)
        finally:
            # A second Ctrl-C must not cut the clean-up short.
            ignore_signals()
    return True


def wait_until_ended(children: list[Child]) -> None:
    try:
        while True:
            for child in children:
                if child.ended():
                    raise DemoError(f"the {child.name} ended with code {child.wait()}")
            time.sleep(0.3)
    except KeyboardInterrupt:
        print(flush=True)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def run_checked(port: int) -> bool:
    """The demo between two looks at the host."""
    before = Path("/run") / f".adrastea-demo-before-{os.getpid()}.json"
    snapshot = json.loads(subprocess.run([SNAPSHOT], check=True, capture_output=True, text=True).stdout)
    snapshot["/run"].append(before.name)
    snapshot["/run"].sort()
    before.write_text(json.dumps(snapshot))
    try:
        good = run_demo(port, check=True)
        left = subprocess.run([SNAPSHOT, "--compare", before, "--patience", "10"]).returncode
    finally:
        before.unlink()
    say("nothing is left behind" if left == 0 else "the demo changed what is listed above")
    return good and left == 0


def clean() -> None:
    if place.SOCKET.exists() and place.CONFIG.exists() and launcher_answers():
        raise DemoError("failed to clean: a demo is running")
    place.remove_tree(place.STATE)
    place.remove_directories()
    place.remove_user()
    say(f"removed {place.STATE}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs the demo.")
    parser.add_argument("--check", action="store_true", help="act as a user, then end")
    parser.add_argument("--clean", action="store_true", help="remove homes and images of earlier runs")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    if os.geteuid() != 0:
        say("error: only root can make sandboxes (run it with sudo)")
        return 1
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        if options.clean:
            clean()
            return 0
        prepare()
        good = run_checked(options.port) if options.check else run_demo(options.port, check=False)
    except DemoError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    if options.check:
        say("the check passed" if good else "the check FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

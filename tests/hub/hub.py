"""Runs a JupyterHub and its proxy as an unprivileged user, and talks to them as an administrator would."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
from place import HUB_TOOLS, HUB_USER, PROXY, python_of

from launcher import Launcher

URL = "http://127.0.0.1:8000"
LIGHT = {"profile": "test-light"}

# What the tests' hub does beyond its defaults is chosen by the name of the user.
CONFIG = """\
import adrastea
from jupyterhub.auth import DummyAuthenticator

c = get_config()


class Tester(DummyAuthenticator):
    async def authenticate(self, handler, data):
        name = await super().authenticate(handler, data)
        return name and {{"name": name, "auth_state": {{"colour": "blue"}}}}


def pre_spawn(spawner):
    kind = spawner.user.name.partition("-")[0]
    if kind == "hasty":
        spawner.start_timeout = 4
    elif kind == "impatient":
        spawner.http_timeout = 3
    elif kind == "strict":
        spawner.consecutive_failure_limit = 3
    elif spawner.name == "tidy":
        spawner.disable_user_config = True
    elif kind == "limited":
        spawner.mem_limit, spawner.cpu_limit = "640M", 0.5
    elif kind == "telling":
        spawner.environment = {{**spawner.environment, "JUPYTERHUB_ACTIVITY_INTERVAL": "1"}}
    spawner.environment = {{**spawner.environment, "TEST_HOOK": kind}}


def auth_state(spawner, state):
    if state:
        spawner.environment = {{**spawner.environment, "TEST_COLOUR": state["colour"]}}


c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_ip = "{gateway}"
c.JupyterHub.hub_port = 8081
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False
c.JupyterHub.template_paths = [adrastea.TEMPLATES]
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api_port}"
c.ConfigurableHTTPProxy.auth_token = "{proxy_token}"
c.JupyterHub.authenticator_class = Tester
c.Authenticator.allow_all = True
c.Authenticator.enable_auth_state = True
c.DummyAuthenticator.password = "{password}"
c.JupyterHub.allow_named_servers = True
c.JupyterHub.spawner_class = "adrastea"
c.AdrasteaSpawner.socket = "unix://{socket}"
c.AdrasteaSpawner.launcher_patience = 2
c.AdrasteaSpawner.hub_name = "{name}"
c.Spawner.pre_spawn_hook = pre_spawn
c.Spawner.auth_state_hook = auth_state
c.Spawner.environment = {{"TEST_CONFIG": "yes"}}
c.Spawner.group_overrides = {{
    "large": {{"groups": ["large"], "spawner_override": {{"mem_limit": "896M", "default_url": "/group"}}}}
}}
c.JupyterHub.services = [{{"name": "tester", "api_token": "{token}"}}]
c.JupyterHub.load_roles = [
    {{
        "name": "tester",
        "services": ["tester"],
        "scopes": ["admin:users", "admin:servers", "admin:groups", "access:servers", "tokens", "read:hub"],
    }}
]
"""


@dataclass
class Answer:
    status_code: int
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


def _request(port: int, method: str, path: str, token: str, body: Any = None) -> Answer:
    """Sends the path as it is: a friendlier client would tidy up `..`, which is a user's name here."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read().decode(errors="replace"))
    finally:
        connection.close()


class Hub:
    def __init__(self, launcher: Launcher, directory: Path, version: str) -> None:
        # The first instance is at URL.
        self.port = 8000 + 10 * launcher.number
        self._gateway = launcher.gateway
        self.major = int(version.split(".")[0])
        self.name = f"hub-{version}"
        self.python = python_of(version, HUB_TOOLS)
        self.directory = directory
        self.log = directory / "hub.log"
        self.token = secrets.token_hex(16)
        self.password = secrets.token_hex(8)
        self._proxy_token = secrets.token_hex(16)
        self._crypt_key = secrets.token_hex(32)
        self._process: subprocess.Popen[bytes] | None = None
        self._proxy: subprocess.Popen[bytes] | None = None
        self._user = pwd.getpwnam(HUB_USER)
        config = CONFIG.format(
            gateway=launcher.gateway,
            port=self.port,
            api_port=self.port + 1,
            proxy_token=self._proxy_token,
            password=self.password,
            socket=launcher.socket,
            token=self.token,
            name=self.name,
        )
        (directory / "jupyterhub_config.py").write_text(config)
        os.chown(directory, self._user.pw_uid, self._user.pw_gid)

    def _popen(self, *command: object) -> subprocess.Popen[bytes]:
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [str(part) for part in command],
                cwd=self.directory,
                env={
                    "PATH": f"{self.python.parent}:/usr/local/bin:/usr/bin:/bin",
                    "HOME": str(self.directory),
                    "CONFIGPROXY_AUTH_TOKEN": self._proxy_token,
                    "JUPYTERHUB_CRYPT_KEY": self._crypt_key,
                    "LC_ALL": "C.UTF-8",
                },
                user=self._user.pw_uid,
                group=self._user.pw_gid,
                extra_groups=[],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self) -> None:
        """Returns when the hub answers through its proxy."""
        if self._proxy is None:
            self._proxy = self._popen(
                HUB_TOOLS / PROXY, "--ip", "127.0.0.1", "--port", self.port, "--api-ip", "127.0.0.1", "--api-port", self.port + 1,
                "--default-target", f"http://{self._gateway}:8081", "--error-target", f"http://{self._gateway}:8081/hub/error",
            )  # fmt: skip
        self._process = self._popen(self.python, "-m", "jupyterhub", "-f", "jupyterhub_config.py")
        deadline = time.monotonic() + 60
        while True:
            try:
                if requests.get(f"http://127.0.0.1:{self.port}/hub/api", timeout=5).status_code == 200:
                    return
            except requests.RequestException:
                pass
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the hub does not answer:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.2)

    def end(self, number: int = signal.SIGTERM) -> None:
        """Ends the hub alone; the proxy goes on, as it should."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def clean(self) -> None:
        self.end()
        if self._proxy is not None:
            self._proxy.terminate()
            self._proxy.wait(30)

    # ---- what an administrator does ----------------------------------------------------------------------

    def api(self, method: str, path: str, body: Any = None, token: str = "") -> Answer:
        return _request(self.port, method, f"/hub/api{path}", token or self.token, body)

    def server_path(self, user: str, server: str = "") -> str:
        return f"/users/{quote(user, safe='')}/" + (
            f"servers/{quote(server, safe='')}" if server else "server"
        )

    def add_user(self, user: str) -> Answer:
        """In the body, not in the path: the name may be anything."""
        return self.api("POST", "/users", {"usernames": [user]})

    def spawn(self, user: str, server: str = "", options: Any = None) -> Answer:
        """Asks for a server; 201 if it is up at once, 202 if it is on its way."""
        self.add_user(user)
        # Until JupyterHub 6 the body is nothing but the options.
        body = {"user_options": options} if options is not None and self.major >= 6 else options
        return self.api("POST", self.server_path(user, server), body)

    def model(self, user: str, server: str = "") -> dict[str, Any]:
        answer = self.api("GET", f"/users/{quote(user, safe='')}?include_stopped_servers=1")
        return answer.json().get("servers", {}).get(server, {})

    def wait(self, user: str, server: str = "", ready: bool = True, seconds: float = 90) -> dict[str, Any]:
        """Waits until a server is ready, or until nothing of it is."""
        deadline = time.monotonic() + seconds
        while True:
            model = self.model(user, server)
            pending = model.get("pending")
            if not pending and bool(model.get("ready")) == ready:
                return model
            if time.monotonic() > deadline or (ready and not pending and model):
                raise AssertionError(f"{user}:{server} is {model}\n{self.log.read_text()[-6000:]}")
            time.sleep(0.25)

    def up(self, user: str, server: str = "", options: Any = None) -> dict[str, Any]:
        answer = self.spawn(user, server, options)
        assert answer.status_code in (201, 202), answer.text
        return self.wait(user, server)

    def stop(self, user: str, server: str = "") -> None:
        answer = self.api("DELETE", self.server_path(user, server))
        assert answer.status_code in (202, 204, 404), answer.text
        if answer.status_code != 404:
            self.wait(user, server, ready=False)

    def get(self, path: str) -> Answer:
        """Asks a user's server through the proxy."""
        return _request(self.port, "GET", path, self.token)

    def run(self, user: str, code: str, server: str = "") -> str:
        """What `code` printed on a light server."""
        path = f"/user/{quote(user, safe='')}/" + (f"{server}/" if server else "")
        answer = self.get(f"{path}run/{quote(code, safe='')}")
        assert answer.status_code == 200, answer.text
        return answer.json()["output"]

    def page(self, user: str, path: str, **options: Any) -> requests.Response:
        """What a browser shows to this user."""
        return self.login(user).get(f"{URL}{path}", timeout=60, headers={"Accept": "text/html"}, **options)

    def end_server(self, user: str, code: str) -> None:
        """Lets a light server end itself, and waits until the hub knows."""
        with contextlib.suppress(OSError, HTTPException):
            self.get(f"/user/{user}/run/{quote(code, safe='')}")
        self.wait(user, ready=False, seconds=30)

    def progress(self, user: str, server: str = "") -> Iterator[dict[str, Any]]:
        headers = {"Authorization": f"token {self.token}"}
        url = f"{URL}/hub/api{self.server_path(user, server)}/progress"
        with requests.get(url, headers=headers, stream=True, timeout=90) as answer:
            assert answer.status_code == 200, answer.text
            for line in answer.iter_lines():
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])

    def login(self, user: str) -> requests.Session:
        """A browser's session, for pages."""
        url = f"http://127.0.0.1:{self.port}/hub/login"
        session = requests.Session()
        session.get(url, timeout=30)
        form = {
            "username": user,
            "password": self.password,
            "_xsrf": session.cookies.get("_xsrf", path="/hub/"),
        }
        answer = session.post(url, data=form, timeout=30, allow_redirects=False)
        assert answer.status_code == 302, answer.text
        return session

    def lines(self, needle: str) -> list[str]:
        return [line for line in self.log.read_text(errors="replace").splitlines() if needle in line]


@contextlib.contextmanager
def hub_of(launcher: Launcher, version: str) -> Iterator[Hub]:
    """One that runs, and is gone with its directory afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="adrastea-hub-"))
    hub = Hub(launcher, directory, version)
    try:
        hub.start()
        yield hub
    finally:
        hub.clean()
        shutil.rmtree(directory, ignore_errors=True)

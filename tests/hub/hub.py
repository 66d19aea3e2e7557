"""Runs a JupyterHub and its proxy as an unprivileged user, and talks to them as an administrator would."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
from place import HUB_TOOLS, HUB_USER, PROXY, PYTHON

from launcher import GATEWAY, Launcher

URL = "http://127.0.0.1:8000"

CONFIG = """\
c.JupyterHub.bind_url = "http://127.0.0.1:8000"
c.JupyterHub.hub_ip = "{gateway}"
c.JupyterHub.hub_port = 8081
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.auth_token = "{proxy_token}"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.DummyAuthenticator.password = "{password}"
c.JupyterHub.allow_named_servers = True
c.JupyterHub.spawner_class = "adrastea"
c.AdrasteaSpawner.socket = "unix://{socket}"
c.AdrasteaSpawner.launcher_patience = 1
c.JupyterHub.services = [{{"name": "tester", "api_token": "{token}"}}]
c.JupyterHub.load_roles = [
    {{
        "name": "tester",
        "services": ["tester"],
        "scopes": ["admin:users", "admin:servers", "access:servers", "tokens", "read:hub"],
    }}
]
"""


@dataclass
class Answer:
    status_code: int
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


def _request(method: str, path: str, token: str, body: Any = None) -> Answer:
    """Sends the path as it is: a friendlier client would tidy up `..`, which is a user's name here."""
    connection = HTTPConnection("127.0.0.1", 8000, timeout=120)
    try:
        headers = {"Authorization": f"token {token}", "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read().decode(errors="replace"))
    finally:
        connection.close()


class Hub:
    def __init__(self, launcher: Launcher, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "hub.log"
        self.token = secrets.token_hex(16)
        self.password = secrets.token_hex(8)
        self._proxy_token = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        self._proxy: subprocess.Popen[bytes] | None = None
        self._user = pwd.getpwnam(HUB_USER)
        config = CONFIG.format(
            gateway=GATEWAY,
            proxy_token=self._proxy_token,
            password=self.password,
            socket=launcher.socket,
            token=self.token,
        )
        (directory / "jupyterhub_config.py").write_text(config)
        os.chown(directory, self._user.pw_uid, self._user.pw_gid)

    def _popen(self, *command: object) -> subprocess.Popen[bytes]:
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [str(part) for part in command],
                cwd=self.directory,
                env={
                    "PATH": f"{HUB_TOOLS}/venv-6.1/bin:/usr/local/bin:/usr/bin:/bin",
                    "HOME": str(self.directory),
                    "CONFIGPROXY_AUTH_TOKEN": self._proxy_token,
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
                HUB_TOOLS / PROXY, "--ip", "127.0.0.1", "--port", "8000", "--api-ip", "127.0.0.1", "--api-port", "8001",
                "--default-target", f"http://{GATEWAY}:8081", "--error-target", f"http://{GATEWAY}:8081/hub/error",
            )  # fmt: skip
        self._process = self._popen(HUB_TOOLS / PYTHON, "-m", "jupyterhub", "-f", "jupyterhub_config.py")
        deadline = time.monotonic() + 60
        while True:
            try:
                if requests.get(f"{URL}/hub/api", timeout=5).status_code == 200:
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
        return _request(method, f"/hub/api{path}", token or self.token, body)

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
        return self.api("POST", self.server_path(user, server), options)

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
        return _request("GET", path, self.token)

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
        session = requests.Session()
        session.get(f"{URL}/hub/login", timeout=30)
        form = {
            "username": user,
            "password": self.password,
            "_xsrf": session.cookies.get("_xsrf", path="/hub/"),
        }
        answer = session.post(f"{URL}/hub/login", data=form, timeout=30, allow_redirects=False)
        assert answer.status_code == 302, answer.text
        return session

    def lines(self, needle: str) -> list[str]:
        return [line for line in self.log.read_text(errors="replace").splitlines() if needle in line]

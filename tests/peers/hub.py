"""A JupyterHub with one contender's spawner, and its proxy; and what a user waits for."""

import contextlib
import json
import os
import secrets
import subprocess
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from bench_instance import TOOLS

PYTHON = TOOLS / "venv-6.1/bin/python"
PROXY = TOOLS / "node/node_modules/configurable-http-proxy/bin/configurable-http-proxy"
LONGEST = 180

CONFIG = """\
c = get_config()
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_ip = "{ip}"
c.JupyterHub.hub_port = {hub_port}
c.JupyterHub.db_url = "sqlite:///hub.sqlite"
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api_port}"
c.ConfigurableHTTPProxy.auth_token = "{proxy_token}"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
# The hub answers when the server is up: nobody has to ask it again and again, which costs it.
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": {longest}, "slow_stop_timeout": {longest}}}
c.Spawner.start_timeout = c.Spawner.http_timeout = {longest}
# Nobody is counted out for what a storm does to him.
c.Spawner.consecutive_failure_limit = 0
c.JupyterHub.services = [{{"name": "peers", "api_token": "{token}"}}]
c.JupyterHub.load_roles = [
    {{"name": "peers", "services": ["peers"], "scopes": ["admin:users", "admin:servers", "access:servers"]}}
]
"""


class StartError(Exception):
    """A server did not start; the text says what the hub said."""


class Hub:
    def __init__(self, number: int, directory: Path, ip: str, hub_port: int, lines: str) -> None:
        self.port = 18000 + 10 * number
        self.token, self.directory = secrets.token_hex(16), directory
        self._proxy_token, self._ip, self._hub_port = secrets.token_hex(16), ip, hub_port
        self._processes: list[subprocess.Popen[bytes]] = []
        directory.mkdir()
        settings = CONFIG.format(
            port=self.port,
            api_port=self.port + 1,
            ip=ip,
            hub_port=hub_port,
            proxy_token=self._proxy_token,
            token=self.token,
            longest=LONGEST,
        )
        (directory / "jupyterhub_config.py").write_text(settings + lines)

    def _begin(self, *command: object, **environment: str) -> None:
        with open(self.directory / "hub.log", "ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=self.directory,
                env={
                    "PATH": f"{PYTHON.parent}:/usr/sbin:/usr/bin:/sbin:/bin",
                    "HOME": str(self.directory),
                    "CONFIGPROXY_AUTH_TOKEN": self._proxy_token,
                    "LC_ALL": "C.UTF-8",
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._processes.append(process)

    def serve(self, **environment: str) -> None:
        """Returns when the hub answers through its proxy."""
        there = f"http://{self._ip}:{self._hub_port}"
        words = ["--ip", "127.0.0.1", "--port", self.port, "--api-ip", "127.0.0.1"]
        words += ["--api-port", self.port + 1, "--default-target", there]
        self._begin(PROXY, *words, "--error-target", f"{there}/hub/error")
        self._begin(PYTHON, "-m", "jupyterhub", "-f", "jupyterhub_config.py", **environment)
        deadline = time.monotonic() + 60
        while self._ask("GET", "/hub/api")[0] != 200:
            if self._processes[-1].poll() is not None or time.monotonic() > deadline:
                log = (self.directory / "hub.log").read_text(errors="replace")
                raise SystemExit(f"the hub does not answer:\n{log[-3000:]}")
            time.sleep(0.2)

    def end(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            process.wait(60)

    def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Status and text; 0 if nobody is there."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=LONGEST)
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}
        with contextlib.closing(connection), contextlib.suppress(OSError, HTTPException):
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        return 0, ""

    def add(self, users: list[str]) -> None:
        self._ask("POST", "/hub/api/users", {"usernames": users})

    def spawn(self, user: str, options: dict[str, str]) -> float:
        """Milliseconds from the request until the hub says that the server is up."""
        since = time.perf_counter()
        status, text = self._ask("POST", f"/hub/api/users/{user}/server", {"user_options": options})
        if status != 201:
            raise StartError(f"{status}: {text}"[:300])
        return (time.perf_counter() - since) * 1000

    def start(self, user: str, options: dict[str, str]) -> float:
        """Milliseconds from the request until the server answers through the proxy."""
        since = time.perf_counter()
        self.spawn(user, options)
        self.answers(user)
        return (time.perf_counter() - since) * 1000

    def answers(self, user: str) -> None:
        """Returns when the server answers through the proxy."""
        since = time.perf_counter()
        while (found := self._ask("GET", f"/user/{user}/api"))[0] != 200:
            if time.perf_counter() - since > LONGEST:
                raise StartError(f"it does not answer: {found[0]}")
            time.sleep(0.05)

    def stop(self, user: str) -> float:
        """Milliseconds until the hub says that it is gone."""
        since = time.perf_counter()
        status, text = self._ask("DELETE", f"/hub/api/users/{user}/server")
        if status not in (202, 204, 404):
            raise StartError(f"failed to stop: {status}: {text}"[:300])
        while json.loads(self._ask("GET", f"/hub/api/users/{user}")[1])["servers"]:
            if time.perf_counter() - since > LONGEST:
                raise StartError("it did not stop")
            time.sleep(0.05)
        return (time.perf_counter() - since) * 1000


def environment_without_proxies() -> None:
    """Servers on this machine are asked directly."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]

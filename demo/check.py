"""Acts as a user of the demo, over HTTP as a browser would: logs in, starts a server
by the form, follows the progress, opens JupyterLab, runs a cell, stops the server.

It must know nothing that a user's browser does not know: no launcher, no files.
"""

import asyncio
import datetime
import json
import os
import re
import socket
import sys
import threading
import time
import uuid
from html.parser import HTMLParser

import requests
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

URL = os.environ["DEMO_URL"]
PASSWORD = os.environ["DEMO_PASSWORD"]
USER = "ana"
CELL = """
import os, re, socket, subprocess
from pathlib import Path
status = Path("/proc/self/status").read_text()
print("id:", subprocess.run(["id"], capture_output=True, text=True).stdout.strip())
print("host name:", socket.gethostname())
print("directory:", os.getcwd())
print("uid map:", ", ".join(" ".join(l.split()) for l in Path("/proc/self/uid_map").read_text().splitlines()))
for wall in ("CapBnd", "CapEff", "NoNewPrivs", "Seccomp"):
    print(f"{wall}:", re.search(rf"^{wall}:\\s*(\\S+)", status, re.M)[1])
Path("note.txt").write_text("kept")
print("written:", Path("note.txt").read_text())
"""


class CheckError(Exception):
    """Something a user would see is wrong."""


class Form(HTMLParser):
    """The fields of a page's form as a browser would send them untouched."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self._select = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        at = dict(attrs)
        name, value = at.get("name") or "", at.get("value") or ""
        if tag == "input" and name:
            chosen = at.get("type") not in ("radio", "checkbox") or "checked" in at
            if chosen:
                self.fields[name] = value
        elif tag == "select":
            self._select = name
        elif tag == "option" and self._select and ("selected" in at or self._select not in self.fields):
            self.fields[self._select] = value

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = ""


def expect(reply: requests.Response, *codes: int) -> requests.Response:
    if reply.status_code not in codes:
        text = " ".join(re.sub(r"<[^>]*>", " ", reply.text).split())
        raise CheckError(f"{reply.request.method} {reply.url} answered {reply.status_code}: {text[:600]}")
    return reply


def cookie(session: requests.Session, name: str, path: str) -> str:
    found = [c.value for c in session.cookies if c.name == name and c.path == path]
    if not found:
        raise CheckError(f"there is no cookie {name} for {path}")
    return found[-1] or ""


def log_in(session: requests.Session) -> str:
    page = expect(session.get(f"{URL}/hub/login"), 200)
    fields = Form(page.text).fields
    fields |= {"username": USER, "password": PASSWORD}
    reply = expect(session.post(f"{URL}/hub/login", data=fields), 200)
    if reply.url.endswith("/hub/login"):
        raise CheckError("the login was refused")
    return f"as {USER}"


def start(session: requests.Session) -> str:
    """Sends the start form and follows the progress events at the same time."""
    page = expect(session.get(f"{URL}/hub/spawn"), 200)
    fields = Form(page.text).fields
    if "profile" not in fields:
        raise CheckError("the start form offers no profile")
    xsrf = {"_xsrf": cookie(session, "_xsrf", "/hub/")}
    began = time.monotonic()
    answers: list[requests.Response] = []

    def send() -> None:
        target = f"{URL}/hub/spawn/{USER}"
        answers.append(session.post(target, params=xsrf, data=fields, allow_redirects=False))

    sender = threading.Thread(target=send)
    sender.start()
    events = follow_progress(session, xsrf)
    sender.join()
    expect(answers[0], 302)
    for event in events:
        print(f"  {event.get('progress', ''):>3} % {event.get('message', '')}")
    if not events[-1].get("ready"):
        raise CheckError(f"the server did not start: {events[-1].get('message')}")
    if len(events) < 2:
        raise CheckError("there were no progress events before the end")
    return f"profile {fields['profile']}, ready after {time.monotonic() - began:.1f} s"


def follow_progress(session: requests.Session, xsrf: dict[str, str]) -> list[dict[str, object]]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        url = f"{URL}/hub/api/users/{USER}/server/progress"
        with session.get(url, params=xsrf, stream=True, timeout=60) as reply:
            if reply.status_code == 200:
                lines = reply.iter_lines(decode_unicode=True)
                events = [json.loads(line[5:]) for line in lines if line.startswith("data:")]
                if events:
                    return events
        time.sleep(0.02)  # the form has not arrived yet
    raise CheckError("there were no progress events")


def open_lab(session: requests.Session) -> str:
    page = expect(session.get(f"{URL}/user/{USER}/lab"), 200)
    if "jupyter-config-data" not in page.text:
        raise CheckError(f"{page.url} is not JupyterLab")
    return page.url


def run_cell(session: requests.Session) -> str:
    base = f"/user/{USER}/"
    headers = {"X-XSRFToken": cookie(session, "_xsrf", base)}
    reply = expect(session.post(f"{URL}{base}api/kernels", headers=headers, json={}), 201)
    kernel = reply.json()["id"]
    cookies = {"Cookie": str(reply.request.headers["Cookie"])}
    printed = asyncio.run(execute(f"{URL}{base}api/kernels/{kernel}/channels", cookies))
    for line in printed.splitlines():
        print(f"  {line}")
    judge(dict(line.split(": ", 1) for line in printed.splitlines()))
    return "uid, walls and home are as promised"


async def execute(url: str, headers: dict[str, str]) -> str:
    """Runs the cell over the kernel's websocket and answers what it printed."""
    url = url.replace("http", "ws", 1)
    connection = await websocket_connect(HTTPRequest(url, headers=headers, connect_timeout=30))
    message_id = uuid.uuid4().hex
    header = {
        "msg_id": message_id,
        "msg_type": "execute_request",
        "session": uuid.uuid4().hex,
        "username": USER,
        "version": "5.3",
        "date": datetime.datetime.now(datetime.UTC).isoformat(),
    }
    content = {"code": CELL, "silent": False, "store_history": False, "allow_stdin": False}
    request = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content}
    await connection.write_message(json.dumps(request))
    printed = ""
    while True:
        data = await asyncio.wait_for(connection.read_message(), 60)
        if data is None:
            raise CheckError("the kernel's websocket was closed")
        message = json.loads(data)
        if message["parent_header"].get("msg_id") != message_id:
            continue
        if message["msg_type"] == "stream":
            printed += message["content"]["text"]
        elif message["msg_type"] == "error":
            raise CheckError("the cell failed: " + "\n".join(message["content"]["traceback"]))
        elif message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            connection.close()
            return printed


def judge(seen: dict[str, str]) -> None:
    host_view = int(seen["uid map"].split(",")[0].split()[1])
    promises = {
        "the user is the image's own": seen["id"].startswith("uid=1000(jovyan) gid=1000"),
        "the host name is not the host's": seen["host name"] != socket.gethostname(),
        "the cell runs in the home": seen["directory"] == "/home/jovyan",
        "ids are mapped away": host_view >= 100000,
        "there are no capabilities": int(seen["CapBnd"], 16) == int(seen["CapEff"], 16) == 0,
        "privileges cannot grow": seen["NoNewPrivs"] == "1",
        "system calls are filtered": seen["Seccomp"] == "2",
        "the home can be written": seen["written"] == "kept",
    }
    if broken := [promise for promise, kept in promises.items() if not kept]:
        raise CheckError("not so: " + "; ".join(broken))


def stop(session: requests.Session) -> str:
    headers = {"X-XSRFToken": cookie(session, "_xsrf", "/hub/")}
    server = f"{URL}/hub/api/users/{USER}/server"
    expect(session.delete(server, headers=headers), 202, 204)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        user = expect(session.get(f"{URL}/hub/api/users/{USER}", headers=headers), 200).json()
        if not user.get("servers"):
            return "the hub says it is gone"
        time.sleep(0.1)
    raise CheckError("the server did not stop within a minute")


def main() -> int:
    session = requests.Session()
    session.trust_env = False  # no proxy between this program and the loopback address
    steps = {
        "log in": log_in,
        "start a server by the form": start,
        "open JupyterLab": open_lab,
        "run a cell": run_cell,
        "stop the server": stop,
    }
    for name, step in steps.items():
        try:
            print(f"{name}: {step(session)}", flush=True)
        except (CheckError, requests.RequestException, OSError, KeyError) as error:
            print(f"{name}: FAILED: {error}", flush=True)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

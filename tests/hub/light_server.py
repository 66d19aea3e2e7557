"""A server that is up at once, for tests whose subject is not Jupyter.

Its text is a profile's command, so it runs in a sandbox and nowhere else: it
executes what it is asked to. Standard library only.
"""

import contextlib
import io
import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

HOW = sys.argv[1:]
PREFIX = os.environ["JUPYTERHUB_SERVICE_PREFIX"]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        # The prefix has the user's name, and anything may stand in one.
        _, _, action = unquote(self.path).removeprefix(unquote(PREFIX)).partition("run/")
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(action, {})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"version": "light", "output": said.getvalue()}).encode())

    def log_message(self, *_: object) -> None:
        pass


if HOW == ["silent"]:
    time.sleep(600)
if HOW == ["stubborn"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
server = ThreadingHTTPServer(("0.0.0.0", 8888), Handler)
if HOW == ["once"]:
    # The launcher, which asks first, finds it up; the hub finds nobody.
    server.handle_request()
    server.server_close()
    time.sleep(600)
server.serve_forever()

"""The same as `observer`, for the classic notebook, whose server is one of its own.

Planted beside it.
"""

import json

import observer
from notebook.base.handlers import IPythonHandler
from notebook.utils import url_path_join


def of_server(found, app):
    observer.SECRETS["cookie secret"] = repr(app.cookie_secret)
    if app.token:
        observer.SECRETS["server's token"] = app.token
    observer.traits(found, "NotebookApp", app)
    for name in (
        "contents_manager", "kernel_manager", "kernel_spec_manager", "session_manager", "config_manager",
        "hub_auth", "terminal_manager", "gateway_config",
    ):  # fmt: skip
        thing = getattr(app, name, None)
        if hasattr(thing, "trait_names"):
            observer.traits(found, name, thing)
    observer.of_web(found, app.web_app)
    found["sockets"] = [socket.getsockname() for socket in app.http_server._sockets.values()]


def load_jupyter_server_extension(app):
    class Observer(IPythonHandler):
        def get(self):
            found = {}
            observer.of_process(found)
            observer.of_python(found)
            of_server(found, app)
            self.finish(json.dumps(found, default=observer.shown))

    app.web_app.add_handlers(".*$", [(url_path_join(app.base_url, "observer"), Observer)])

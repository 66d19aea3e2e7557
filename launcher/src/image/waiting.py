"""Loads a single-user server before anybody is there to use it, and waits to become somebody's.

Runs in a sandbox that nobody has claimed, under the image's own Python: `python waiting.py SCRIPT`,
where SCRIPT is the image's `jupyterhub-singleuser`. It speaks with the sandbox's init on descriptor 0:
says that it is ready, gets the claim, says that it takes it, and runs SCRIPT with what the claim says.
Whatever it says instead is the reason why it steps aside; then the server is started as without it.

Must never wait for a claim with a module loaded that has read what only the claim knows.
"""

import contextlib
import gc
import os
import shutil
import site
import struct
import sys
import tempfile
import types

MAGIC = b"ADRCLAIM1\n"
ARGUMENT, VARIABLE, DIRECTORY = 1, 2, 3
# What a rehearsal is told instead of a user's words. It connects to nobody.
NOBODY = {
    "JUPYTERHUB_USER": "rehearsal",
    "JUPYTERHUB_API_TOKEN": "",
    "JUPYTERHUB_CLIENT_ID": "rehearsal",
    "JUPYTERHUB_BASE_URL": "/",
    "JUPYTERHUB_SERVICE_PREFIX": "/user/rehearsal/",
    "JUPYTERHUB_SERVICE_URL": "http://127.0.0.1:1/user/rehearsal/",
    "JUPYTERHUB_API_URL": "http://127.0.0.1:1/hub/api",
    "JUPYTERHUB_ACTIVITY_URL": "",
    "JUPYTERHUB_OAUTH_CALLBACK_URL": "/user/rehearsal/oauth_callback",
    "JUPYTERHUB_OAUTH_ACCESS_SCOPES": '["access:servers!user=rehearsal"]',
    "JUPYTERHUB_OAUTH_SCOPES": '["access:servers!user=rehearsal"]',
}


class StepAside(Exception):
    """Why this image, or this user, starts without a program that waits."""


class Init:
    """The other end: the sandbox's init."""

    def __init__(self):
        # Python's own descriptors are not inherited: what an image starts never gets hold of it.
        self.connection = os.dup(0)

    def say(self, word):
        os.write(self.connection, word.encode(errors="replace")[:200].replace(b"\n", b" ") + b"\n")

    def read(self, count):
        data = b""
        while len(data) < count:
            piece = os.read(self.connection, count - len(data))
            if not piece:
                # Nobody will ever claim this one.
                os._exit(0)
            data += piece
        return data

    def claim(self):
        """Arguments, environment and directory of the server."""
        if self.read(len(MAGIC)) != MAGIC:
            raise StepAside("the claim is in a form this program does not know")
        rest = self.read(struct.unpack("<I", self.read(4))[0])
        arguments, environment, directory = [], {}, "/"
        while rest:
            tag, length = struct.unpack_from("<BI", rest)
            text, rest = rest[5 : 5 + length].decode(), rest[5 + length :]
            if tag == ARGUMENT:
                arguments.append(text)
            elif tag == VARIABLE:
                name, _, value = text.partition("=")
                environment[name] = value
            elif tag == DIRECTORY:
                directory = text
        return arguments, environment, directory

    def leave(self):
        os.close(self.connection)


class Output:
    """Descriptors 0, 1 and 2: nowhere while nobody is there, then the log."""

    def __init__(self):
        self.log = {number: os.dup(number) for number in (1, 2)}
        nothing = os.open(os.devnull, os.O_RDONLY)
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
        except OSError:
            # gVisor opens no device for writing where its directory is for reading alone.
            nowhere, name = tempfile.mkstemp()
            os.unlink(name)
        for number, place in ((0, nothing), (1, nowhere), (2, nowhere)):
            os.dup2(place, number)
        os.close(nothing)
        os.close(nowhere)

    def open(self):
        sys.stdout.flush()
        sys.stderr.flush()
        for number, log in self.log.items():
            os.dup2(log, number)
            os.close(log)


def load():
    """Imports what the server imports, with what holds for every user of the image."""
    import jupyterhub.singleuser

    if not getattr(jupyterhub.singleuser, "_as_extension", False):
        # An older server, or the classic notebook: loaded, not rehearsed.
        return
    import jupyterhub.singleuser.extension
    from jupyter_core.paths import jupyter_config_path
    from jupyter_server.extension.config import ExtensionConfigManager
    from jupyter_server.extension.utils import get_metadata

    manager = ExtensionConfigManager(read_config_path=jupyter_config_path())
    for name, enabled in manager.get_jpserver_extensions().items():
        if enabled:
            # One that is broken is broken in the server, too, and told there.
            with contextlib.suppress(Exception):
                get_metadata(name)
    rehearse(jupyterhub.singleuser.extension.JupyterHubSingleUser)


async def do_nothing(*arguments, **names):
    """Instead of what would speak to the hub."""


def rehearse(server):
    """Builds the whole server for nobody, without a port, and takes it apart again."""
    from jupyter_server.serverapp import ServerApp
    from traitlets.config import SingletonConfigurable

    replaced = [
        (server, "check_hub_version", do_nothing),
        (server, "keep_activity_updated", do_nothing),
        (ServerApp, "init_httpserver", lambda app: None),
        (ServerApp, "init_signal", lambda app: None),
    ]
    kept = [(owner, name, owner.__dict__[name]) for owner, name, _ in replaced]
    environment = dict(os.environ)
    stage = tempfile.mkdtemp(prefix="rehearsal-")
    os.environ.update(NOBODY)
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        os.environ[name] = os.path.join(stage, name.lower())
    os.chdir(stage)
    try:
        for owner, name, stand_in in replaced:
            setattr(owner, name, stand_in)
        app = server.initialize_server(argv=[])
        loop = app.io_loop.asyncio_loop
        # What was begun in its threads is finished, or the server would find it half done.
        loop.run_until_complete(loop.shutdown_default_executor())
        app.io_loop.close(all_fds=True)
    finally:
        for owner, name, own in kept:
            setattr(owner, name, own)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir("/")
        shutil.rmtree(stage, ignore_errors=True)
    forget_instances(SingletonConfigurable)
    import asyncio

    asyncio.set_event_loop(None)
    asyncio.set_event_loop_policy(None)


def forget_instances(kind):
    for child in kind.__subclasses__():
        if "_instance" in child.__dict__:
            child._instance = None
        forget_instances(child)


def forget_logger():
    """Who logged before there was a server got a logger that writes nowhere: older traitlets keep it for all."""
    log = sys.modules.get("traitlets.log")
    if getattr(log, "_logger", None) is not None:
        log._logger = None


def look_at_home(environment):
    """What a user has installed would have been loaded instead of the image's."""
    base = environment.get("PYTHONUSERBASE") or os.path.join(environment.get("HOME", "/"), ".local")
    # JupyterLab looks for one of the user's own also where Python looks for no packages.
    places = [os.path.join(base, "share", "jupyter", "lab", "schemas")]
    if site.ENABLE_USER_SITE and not sys.flags.no_user_site:
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        places.append(os.path.join(base, "lib", version, "site-packages"))
    for place in places:
        if os.path.exists(place):
            raise StepAside(f"the user has packages of their own: `{place}`")


def become(script, arguments, environment, directory):
    """Everything the interpreter would have been started with."""
    os.environ.clear()
    os.environ.update(environment)
    try:
        os.chdir(directory)
    except OSError:
        os.chdir("/")
    sys.argv = [script, *arguments[1:]]
    prefix = environment.get("JUPYTERHUB_SERVICE_PREFIX")
    option = "--HubOAuth.base_url="
    if prefix and not any(argument.startswith(option) for argument in arguments):
        # The one thing that was read at import and is the user's own.
        sys.argv.append(option + prefix)


def run(script):
    """As the interpreter runs a script."""
    with open(script, "rb") as file:
        code = compile(file.read(), script, "exec")
    main = types.ModuleType("__main__")
    main.__file__ = script
    main.__builtins__ = __builtins__
    sys.modules["__main__"] = main
    exec(code, main.__dict__)


def wait(script):
    init, output = Init(), Output()
    if not getattr(sys.flags, "safe_path", False) and not sys.flags.isolated:
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    try:
        load()
        forget_logger()
        gc.collect()
        # What stays for ever is not looked at again by every later collection.
        gc.freeze()
        init.say("ready")
        arguments, environment, directory = init.claim()
        look_at_home(environment)
    except StepAside as reason:
        init.say(str(reason))
        os._exit(0)
    except BaseException as error:
        init.say(f"the server cannot be loaded beforehand: {type(error).__name__}: {error}")
        os._exit(0)
    become(script, arguments, environment, directory)
    output.open()
    init.say("taken")
    init.leave()
    run(script)


if __name__ == "__main__":
    wait(sys.argv[1])

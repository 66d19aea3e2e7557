"""A Jupyter server extension that tells everything it can see of its server, at `observer`.

Planted in a user's home by a test. Values that differ between any two servers (addresses of objects, times,
ports of a connection) are left out or named without them.
"""

import asyncio
import json
import logging
import os
import re
import resource
import sys
import threading
import time

from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join
from traitlets.log import get_logger

VOLATILE = re.compile(
    r"(?<=jpserver-)(file-to-run-)?\d+|(?<=nbserver-)\d+|(?<=age=)\d+|0x[0-9a-f]+|\d{4}-\d\d-\d\d[ T][0-9:.+]+|datetime\.datetime\([^)]*\)|\d{14}"
)

# Another one for each start, by name.
SECRETS = {"token": os.environ["JUPYTERHUB_API_TOKEN"]}


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        # Not every kernel has every file of /proc.
        return ""


def shown(value):
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=repr)
    text = repr(value)
    # First: what they are made of may look like anything.
    for name, secret in SECRETS.items():
        text = text.replace(secret, f"({name})")
    return VOLATILE.sub("…", text)[:2000]


def traits(found, name, thing):
    for trait in sorted(thing.trait_names()):
        try:
            found[f"trait.{name}.{trait}"] = shown(getattr(thing, trait))
        except Exception as error:
            found[f"trait.{name}.{trait}"] = f"error {type(error).__name__}"


def look_at_descriptor(number):
    """Where it leads and how it was opened; nowhere if it is closed. Another thread may close it between two looks, and
    open another file under its number: then it is looked at again."""
    path, target = f"/proc/self/fd/{number}", None
    try:
        for _ in range(20):
            target = os.readlink(path)
            flags = re.search(r"flags:\s*(\d+)", read(f"/proc/self/fdinfo/{number}"))
            if flags is not None and os.readlink(path) == target:
                return target, int(flags[1], 8)
            time.sleep(0.01)
    except OSError:
        return None, None
    return target, None


def of_process(found):
    found["command_line"] = read("/proc/self/cmdline").split("\0")
    found["initial_environment"] = sorted(read("/proc/self/environ").split("\0"))
    environment = {name: value for name, value in os.environ.items() if "TOKEN" not in name}
    for name in sorted(environment):
        found[f"environment.{name}"] = environment[name]
    found["directory"] = os.getcwd()
    mask = os.umask(0o77)
    os.umask(mask)
    found["umask"] = mask
    for line in read("/proc/self/status").splitlines():
        name, _, value = line.partition(":")
        if name.startswith(
            ("Cap", "Sig", "Shd", "NoNew", "Seccomp", "Uid", "Gid", "Groups", "Speculation", "CoreDump")
        ):
            found[f"status.{name}"] = value.strip()
    descriptors, of_packages = [], []
    for number in os.listdir("/proc/self/fd"):
        target, flags = look_at_descriptor(number)
        if target is None:
            continue
        writable = flags is None or flags & os.O_ACCMODE
        of_package = target.startswith(sys.prefix) and not writable
        (of_packages if of_package else descriptors).append(re.sub(r"\[\d+\]|/\d+/|:\d+(?=\])", "", target))
    found["descriptors.of_packages"] = of_packages
    found["descriptors"] = sorted(descriptors)
    found["descriptors.standard"] = [
        re.sub(r"\[\d+\]", "", os.readlink(f"/proc/self/fd/{number}")) for number in (0, 1, 2)
    ]
    for name in dir(resource):
        if name.startswith("RLIMIT_"):
            found[f"limit.{name}"] = resource.getrlimit(getattr(resource, name))
    for kind in ("uid", "gid"):
        found[f"maps.{kind}"] = [line.split() for line in read(f"/proc/self/{kind}_map").splitlines()]
    for line in read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        found.setdefault(f"mount.{fields[4]}", []).append([fields[5], after.split()[0]])
    found["nice"] = os.nice(0)
    found["schedule"] = [os.sched_getscheduler(0), sorted(os.sched_getaffinity(0))]
    found["session"] = [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()]
    found["oom"] = read("/proc/self/oom_score_adj")


def of_python(found):
    for name in ("argv0", "path", "prefix", "executable", "dont_write_bytecode", "warnoptions"):
        found[f"python.{name}"] = sys.argv[0] if name == "argv0" else getattr(sys, name)
    found["python.flags"] = repr(sys.flags)
    found["python.main"] = getattr(sys.modules["__main__"], "__file__", None)
    found["python.stdio"] = [
        (stream.encoding, stream.errors, stream.line_buffering) for stream in (sys.stdout, sys.stderr)
    ]
    found["threads"] = sorted(re.sub(r"\d+", "", thread.name) for thread in threading.enumerate())
    found["policy"] = type(asyncio.get_event_loop_policy()).__name__
    # Kept for good by whoever asks first.
    found["logger.of_traitlets"] = get_logger().name
    loggers = [name for name in logging.root.manager.loggerDict if "." not in name]
    for name in ["", *sorted(loggers)]:
        logger = logging.getLogger(name)
        found[f"logger.{name}"] = [
            [type(handler).__name__ for handler in logger.handlers],
            logger.level,
            logger.propagate,
            logger.disabled,
        ]


def of_web(found, web_app):
    for name, value in web_app.settings.items():
        # Made from a set, whose order is another one in each process.
        found[f"setting.{name}"] = shown(sorted(value) if name == "static_immutable_cache" else value)
    rules = []
    for group in web_app.default_router.rules:
        for rule in getattr(group.target, "rules", []):
            if hasattr(rule.matcher, "regex"):
                rules.append([rule.matcher.regex.pattern, getattr(rule.target, "__name__", "")])
    found["routes"] = sorted(rules)


def of_server(found, app):
    SECRETS["cookie secret"] = repr(app.cookie_secret)
    if app.identity_provider.token:
        # The older server makes one that nothing asks for.
        SECRETS["server's token"] = app.identity_provider.token
    traits(found, "ServerApp", app)
    for name, extensions in sorted(app.extension_manager.extension_apps.items()):
        for extension in extensions:
            traits(found, name, extension)
    for name in (
        "identity_provider", "authorizer", "contents_manager", "kernel_manager", "kernel_spec_manager",
        "session_manager", "config_manager", "gateway_config", "event_logger", "terminal_manager",
    ):  # fmt: skip
        thing = getattr(app, name, None)
        if hasattr(thing, "trait_names"):
            traits(found, name, thing)
    # The older server has it of its own, the extension puts it where the server asks who somebody is.
    traits(found, "hub_auth", getattr(app, "hub_auth", None) or app.identity_provider.hub_auth)
    of_web(found, app.web_app)
    found["sockets"] = [socket.getsockname() for socket in getattr(app, "_http_server_sockets", [])]
    found["signals"] = sorted(str(key) for key in app.extension_manager.extensions)


class Observer(JupyterHandler):
    def get(self):
        found = {}
        of_process(found)
        of_python(found)
        of_server(found, self.serverapp)
        self.finish(json.dumps(found, default=shown))


def _jupyter_server_extension_points():
    return [{"module": "observer"}]


def _load_jupyter_server_extension(app):
    place = url_path_join(app.base_url, "observer")
    app.web_app.add_handlers(".*", [(place, Observer)])

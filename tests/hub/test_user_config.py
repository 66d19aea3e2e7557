"""Servers that ignore what their user has configured in the home."""

from __future__ import annotations

from hub import LIGHT, Hub
from kernel import run_code

PLACE = "/home/jovyan/.jupyter/jupyter_server_config.py"
PLANT = f"""
import os
os.makedirs(os.path.dirname({PLACE!r}), exist_ok=True)
open({PLACE!r}, "w").write("boom")
"""
TRY = f"""
import os
print(os.path.exists({PLACE!r}), os.environ.get("JUPYTERHUB_DISABLE_USER_CONFIG"))
try:
    open({PLACE!r}, "w").write("evil")
except OSError as error:
    print(error.strerror)
"""


def test_users_configuration_is_ignored_if_the_hub_says_so(hub: Hub) -> None:
    """One server of the user has it, the other, of the same home, can neither read nor write it."""
    hub.up("cara", options=LIGHT)
    hub.run("cara", PLANT)
    # Both at once would see the same home in two ways: the launcher refuses that.
    answer = hub.spawn("cara", "tidy", options=LIGHT)
    assert answer.status_code == 403
    assert "user_config" in answer.json()["message"]
    hub.stop("cara")
    hub.up("cara", "tidy", options=LIGHT)
    assert hub.run("cara", TRY, "tidy") == "False 1\nRead-only file system\n"
    hub.stop("cara", "tidy")
    hub.up("cara", options=LIGHT)
    assert hub.run("cara", f"print(open({PLACE!r}).read())") == "boom\n"
    hub.stop("cara")


LAB = {"profile": "standard"}
MARKS = """
import os
home = os.path.expanduser("~")
def plant(path, text):
    os.makedirs(os.path.dirname(f"{home}/{path}"), exist_ok=True)
    open(f"{home}/{path}", "w").write(text)
def mark(name):
    return f"open('/tmp/mark-{name}', 'w').close()\\n"
plant(".jupyter/jupyter_server_config.py", mark("server"))
plant(".jupyter/jupyter_lab_config.py", mark("lab"))
plant(".ipython/profile_default/ipython_config.py", mark("ipython"))
plant(".ipython/profile_default/startup/00-first.py", mark("startup"))
start = "touch /tmp/mark-kernel; exec /opt/jupyter/bin/python -m ipykernel_launcher -f $0"
plant(
    ".local/share/jupyter/kernels/python3/kernel.json",
    __import__("json").dumps(
        {"argv": ["sh", "-c", start, "{connection_file}"], "display_name": "x", "language": "python"}
    ),
)
"""
LOOK = "import os; print(*sorted(name for name in os.listdir('/tmp') if name.startswith('mark-')))"


def test_a_real_lab_reads_nothing_of_what_its_user_configured(hub: Hub) -> None:
    """Server, lab, kernels and their startup files; and all of them count where nothing says otherwise."""
    hub.up("cleo", options=LIGHT)
    hub.run("cleo", MARKS)
    hub.stop("cleo")
    hub.up("cleo", "tidy", options=LAB)
    assert run_code(hub, "/user/cleo/tidy/", LOOK) == "\n"
    hub.stop("cleo", "tidy")
    hub.up("cleo", options=LAB)
    marks = run_code(hub, "/user/cleo/", LOOK).split()
    assert marks == [f"mark-{name}" for name in ("ipython", "kernel", "lab", "server", "startup")]
    hub.stop("cleo")

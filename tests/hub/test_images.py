"""Images as they come: one that imitates Jupyter's docker-stacks, unchanged."""

from __future__ import annotations

from hub import Hub
from kernel import run_code

from launcher import REFERENCE, STACKS_REFERENCE, Launcher

CODE = """
import os, sys
print(os.getuid(), os.getgid(), os.getcwd(), os.path.expanduser('~'))
print(os.environ['STACKS_HOOK'], os.environ['NB_USER'], os.environ['CONDA_DIR'], sys.version_info >= (3, 9))
print(os.path.exists('.bashrc'), os.path.exists('/opt/setup-scripts/first.sh'), os.path.ismount('/volume'))
open('mine', 'w').write('x')
print(os.stat('mine').st_uid, os.stat('mine').st_gid)
"""


def test_a_docker_stack_runs_unchanged(hub: Hub, launcher: Launcher) -> None:
    """Its user, its prefix and its environment; through its start script, because the profile
    names it; nothing of its entry point, volume and home."""
    hub.up("stan", options={"profile": "test-stacks"})
    lines = run_code(hub, "/user/stan/", CODE).splitlines()
    assert lines == [
        "1000 100 /home/jovyan /home/jovyan",
        "ran jovyan /opt/conda True",
        "False False False",
        "1000 100",
    ]
    hub.stop("stan")
    # The same home serves the other image, whose user has another group.
    hub.up("stan", options={"profile": "standard"})
    assert run_code(hub, "/user/stan/", "print(open('mine').read())") == "x\n"
    hub.stop("stan")


def test_check_says_what_an_image_supports(launcher: Launcher) -> None:
    single = launcher.run("image", "check", REFERENCE)
    assert single.returncode == 0, single.stdout + single.stderr
    for part in (
        "its Python is 3.11",
        "jupyterlab",
        "modules are compiled",
        "jovyan (1000:1000)",
        "can wait for its user",
    ):
        assert part in single.stdout, single.stdout
    assert "rfc3987" not in single.stdout and "pypi.org" not in single.stdout, single.stdout
    stacks = launcher.run("image", "check", STACKS_REFERENCE)
    assert stacks.returncode == 0, stacks.stdout + stacks.stderr
    for part in (
        "jovyan (1000:100)",
        'user = { uid = 1000, gid = 100, home = "/home/jovyan", name = "jovyan" }',
        "its volumes are ignored: /volume",
        "its entry point is ignored: tini -g -- start.sh start-notebook.sh",
        'cold and without a pool: command = ["/usr/local/bin/start-singleuser.sh"]',
        "its server can wait for its user",
    ):
        assert part in stacks.stdout, stacks.stdout

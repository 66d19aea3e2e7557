"""What comes from npm: configurable-http-proxy, which JupyterHub routes with, and
the type checker."""

import json

from common import ROOT, TOOLS, fingerprint, is_done, run, say, set_done


def _get(step: str, folder: str, package: str) -> dict[str, str]:
    """Installs what tools/<folder> locks."""
    say(f"{step}{package}")
    source, target = ROOT / "tools" / folder, TOOLS / folder
    manifest = target / "node_modules" / package / "package.json"
    mark = fingerprint(source / "package.json", source / "package-lock.json")
    if not is_done(package, mark, manifest):
        target.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            (target / name).write_bytes((source / name).read_bytes())
        run(["npm", "ci", "--no-audit", "--no-fund", "--omit=dev"], cwd=target)
        set_done(package, mark)
    return {
        "node": run(["node", "--version"]).strip(),
        package: json.loads(manifest.read_text())["version"],
    }


def get_proxy(step: str) -> dict[str, str]:
    return _get(step, "node", "configurable-http-proxy")


def get_pyright(step: str) -> dict[str, str]:
    return _get(step, "pyright", "pyright")

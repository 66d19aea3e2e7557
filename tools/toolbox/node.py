"""configurable-http-proxy, which JupyterHub routes with, from npm."""

import json

from common import ROOT, TOOLS, fingerprint, is_done, run, say, set_done

SOURCE = ROOT / "tools" / "node"
TARGET = TOOLS / "node"
PACKAGE = TARGET / "node_modules" / "configurable-http-proxy" / "package.json"


def get_proxy(step: str) -> dict[str, str]:
    say(f"{step}configurable-http-proxy")
    mark = fingerprint(SOURCE / "package.json", SOURCE / "package-lock.json")
    if not is_done("proxy", mark, PACKAGE):
        TARGET.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            (TARGET / name).write_bytes((SOURCE / name).read_bytes())
        run(["npm", "ci", "--no-audit", "--no-fund", "--omit=dev"], cwd=TARGET)
        set_done("proxy", mark)
    return {
        "node": run(["node", "--version"]).strip(),
        "configurable-http-proxy": json.loads(PACKAGE.read_text())["version"],
    }

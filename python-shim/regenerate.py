"""Writes adrastea/_proto from the wire contract.

Only the messages are generated; the few methods are written out in client.py,
because generated service code would import `adrastea.v1`, which is no package.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROTO = HERE.parent / "proto"
SOURCE = "adrastea/v1/launcher.proto"


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(PROTO)]
        command += [f"--python_out={work}", f"--pyi_out={work}", SOURCE]
        subprocess.run(command, check=True)  # noqa: S603
        for name in ("launcher_pb2.py", "launcher_pb2.pyi"):
            shutil.copy(Path(work) / "adrastea/v1" / name, HERE / "adrastea/_proto" / name)


if __name__ == "__main__":
    main()

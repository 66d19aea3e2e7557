"""Measures what a program gets inside a sandbox. Its text is a command of the
benchmark, so it runs in a sandbox and nowhere else. Standard library only; what
the image has beyond that is measured if it is there, and named if it is not.

Prints a line of JSON for each figure. Everything it writes lies in one
directory of the home, and is removed.
"""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile

PORT, QUICK = int(sys.argv[1]), sys.argv[2] == "quick"


def tell(name, unit, better, value=None, missing=None):
    line = {"name": name, "unit": unit, "better": better, "value": value, "missing": missing}
    print(json.dumps(line), flush=True)


def measure(name, unit, better, act):
    """What cannot be measured is told with its reason, and the rest goes on."""
    try:
        tell(name, unit, better, act())
    except Exception as error:
        kind = "" if isinstance(error, Absent) else f"{type(error).__name__}: "
        tell(name, unit, better, missing=f"{kind}{error}"[:300])


class Absent(Exception):
    """The image does not have it."""


def best(act, times=3):
    """The shortest of a few: what disturbs only adds."""
    taken = []
    for _ in range(times):
        since = time.perf_counter()
        act()
        taken.append(time.perf_counter() - since)
    return min(taken)


def run(command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        said = done.stderr.strip()[-200:] or "and said nothing"
        raise RuntimeError(f"{os.path.basename(command[0])} ended with {done.returncode}: {said}")


def python_loop():
    def loop():
        total = 0
        for number in range(1_000_000):
            total += number * number % 7
        return total

    return best(loop) * 1000


def matmul():
    if importlib.util.find_spec("numpy") is None:
        raise Absent("the image has no numpy")
    import numpy

    matrix = numpy.random.default_rng(1).random((768, 768))
    return best(lambda: matrix @ matrix) * 1000


def system_calls():
    count = 50_000 if QUICK else 200_000
    call = os.getppid

    def loop():
        for _ in range(count):
            call()

    return count / best(loop)


def processes():
    program, count = shutil.which("true"), 30 if QUICK else 100
    if program is None:
        raise Absent("the image has no program `true`")

    def loop():
        for _ in range(count):
            os.waitpid(os.posix_spawn(program, [program], os.environ), 0)

    return count / best(loop)


def small_files(folder):
    count = 200 if QUICK else 1000

    def loop():
        for number in range(count):
            path = f"{folder}/small-{number}"
            with open(path, "wb") as file:
                file.write(b"x" * 1024)
            os.stat(path)
            with open(path, "rb") as file:
                file.read()
            os.unlink(path)

    return count / best(loop)


def git_status(folder):
    git = shutil.which("git")
    if git is None:
        raise Absent("the image has no git")
    tree = f"{folder}/tree"
    for number in range(20):
        os.makedirs(f"{tree}/{number}")
        for file in range(25):
            with open(f"{tree}/{number}/{file}.py", "w") as out:
                out.write("x = 1\n" * 40)
    for command in (["init", "-q"], ["add", "."]):
        run([git, "-C", tree, *command])
    status = [git, "-C", tree, "status", "--short"]
    return best(lambda: run(status)) * 1000


def pip_install(folder):
    if importlib.util.find_spec("pip") is None:
        raise Absent("the image has no pip")
    # A wheelhouse of one wheel, made here: what is measured is pip and the files, no network.
    wheel, info = f"{folder}/bench_wheel-1-py3-none-any.whl", "bench_wheel-1.dist-info"
    files = {f"bench_wheel/m{number}.py": f"VALUE = {number}\n" * 50 for number in range(200)}
    files[f"{info}/METADATA"] = "Metadata-Version: 2.1\nName: bench_wheel\nVersion: 1\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in files) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--disable-pip-version-check", "--no-cache-dir", "--target", f"{folder}/installed", wheel]
    return best(lambda: run(command), 1) * 1000


def large_file(folder):
    size, block = (32 if QUICK else 256) << 20, os.urandom(1 << 20)
    path = f"{folder}/large"

    def write():
        with open(path, "wb", buffering=0) as file:
            for _ in range(size >> 20):
                file.write(block)
            os.fsync(file.fileno())

    def read():
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.read(1 << 20):
                pass

    measure("large file, write and fsync", "MiB/s", "higher", lambda: (size >> 20) / best(write, 1))
    measure("large file, read", "MiB/s", "higher", lambda: (size >> 20) / best(read, 1))
    os.unlink(path)


def imports():
    """A new interpreter each time: the first one in this sandbox, and one after it."""
    for module in ("jupyter_server", "numpy", "pandas"):
        for when in ("first", "again"):

            def act(module=module):
                if importlib.util.find_spec(module) is None:
                    raise Absent(f"the image has no {module}")
                command = [sys.executable, "-c", f"import {module}"]
                return best(lambda: run(command), 1) * 1000

            measure(f"import {module}, {when}", "ms", "lower", act)


def first_cell():
    if importlib.util.find_spec("jupyter_client") is None or importlib.util.find_spec("ipykernel") is None:
        raise Absent("the image has no jupyter_client with ipykernel")
    from jupyter_client.manager import KernelManager

    # Importing the client is not a part of it: the server has done that long before.
    kernel = KernelManager()
    since = time.perf_counter()
    kernel.start_kernel()
    client = kernel.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        reply = client.execute_interactive("1 + 1", timeout=60, output_hook=lambda _: None)
        taken = time.perf_counter() - since
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
    if reply["content"]["status"] != "ok":
        raise RuntimeError("the cell failed")
    return taken * 1000


def serve():
    """Answers the benchmark, which asks from the host: `p` gives back each byte, `u` takes what comes
    and says when it had it all, `d` sends as many MiB as the next byte says; `q` ends it."""
    listener = socket.create_server(("0.0.0.0", PORT))
    print(json.dumps({"listening": PORT}), flush=True)
    block = bytes(1 << 20)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            order = connection.recv(1)
            if order == b"q":
                return
            if order == b"p":
                while connection.recv(1):
                    connection.sendall(b"p")
            elif order == b"u":
                while connection.recv(1 << 20):
                    pass
                connection.sendall(b"u")
            elif order == b"d":
                for _ in range(connection.recv(1)[0]):
                    connection.sendall(block)


def main():
    # Whatever hangs ends with this process.
    limit = threading.Timer(170, os._exit, [70])
    limit.daemon = True
    limit.start()
    serve()
    measure("Python loop", "ms", "lower", python_loop)
    measure("numpy matmul", "ms", "lower", matmul)
    measure("system calls", "1/s", "higher", system_calls)
    measure("fork and exec", "1/s", "higher", processes)
    imports()
    with tempfile.TemporaryDirectory(prefix=".adrastea-bench-", dir=os.environ["HOME"]) as folder:
        measure("small files", "1/s", "higher", lambda: small_files(folder))
        measure("git status", "ms", "lower", lambda: git_status(folder))
        measure("pip install", "ms", "lower", lambda: pip_install(folder))
        large_file(folder)
    measure("kernel until its first cell", "ms", "lower", first_cell)
    print(json.dumps({"done": True}), flush=True)


main()

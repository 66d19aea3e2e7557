"""Runs `adrastea bench` against an instance of its own: `make bench`. What is
given here is given to it. The report is in target/bench.
"""

import subprocess
import sys

from bench_instance import CONFIG, LAUNCHER, ROOT, RUNTIMES, running


def main() -> int:
    output = ROOT / "target/bench"
    output.mkdir(parents=True, exist_ok=True)
    # Each takes seconds of a processor to make, and 100 MiB while it waits.
    count = 5 if "--quick" in sys.argv else 20
    # The image that has what the benchmark looks for.
    with running("programs", dict.fromkeys(RUNTIMES, count)):
        command = [LAUNCHER, "--config", CONFIG, "bench", "--output", output, *sys.argv[1:]]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

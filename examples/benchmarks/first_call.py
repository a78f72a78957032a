"""Seconds that a new process takes to its first force call, and what they are spent on.

    python examples/benchmarks/first_call.py --repeat 5

Each time is the shortest of several processes. What is compiled is kept from an earlier process, so the
first of all, whose times are not counted, takes longer.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

GLASS = Path(__file__).parents[1] / "glass.xyz"
PARTS = ("python and torch", "other imports", "model", "structure", "first call", "second call")
PROGRAM = """
import sys, time
times = [float(sys.argv[2])]
now = lambda: times.append(time.time())
import torch; now()
from mlh_driver import Engine, System; now()
engine = Engine(); now()
import ase.io
system = System.from_ase(ase.io.read(sys.argv[1])); now()
engine.compute(system); now()
engine.compute(system); now()
print(*(after - before for before, after in zip(times, times[1:])))
"""


def seconds() -> list[float]:
    """Of each part, in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, str(GLASS), str(time.time())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=5, help="processes")
    options = parser.parse_args()
    seconds()
    rows = [seconds() for _ in range(options.repeat)]
    shortest = [min(column) for column in zip(*rows, strict=True)]
    for part, value in zip(PARTS, shortest, strict=True):
        print(f"{part:16s} {value:.2f} s")
    print(f"to the end of the first call: {min(sum(row[:-1]) for row in rows):.2f} s")


if __name__ == "__main__":
    main()

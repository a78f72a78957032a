"""How much longer a force call takes beside other programs that keep cores busy, from Python.

    python examples/benchmarks/busy_machine.py [--busy 1] [--calls 10]

OpenMP threads that wait for each other spin for a while before they sleep. Beside a busy program they wait
for a thread that has no core, and keep the core that it needs. So the package tells them to sleep soon, which
has an effect if it is imported before torch. Both orders are measured, each in a process of its own, on the
glass of 96 atoms, with and without busy programs. Nothing else should run; the load is printed first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GLASS = Path(__file__).resolve().parents[1] / "glass.xyz"
ORDERS = {"mlh_driver, torch": "torch imported last", "torch, mlh_driver": "torch imported first"}
CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
MEASURE = """
import {order}
import statistics, sys, time, warnings
import ase.io
from mlh_driver import Engine, System
warnings.simplefilter("ignore")
system, engine, seconds = System.from_ase(ase.io.read(sys.argv[1])), Engine(), []
for _ in range(int(sys.argv[2]) + 2):
    start = time.perf_counter()
    engine.compute(system)
    seconds.append(time.perf_counter() - start)
print(statistics.median(seconds[2:]))
"""


@contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """As many processes that compute all the time."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def force_call(order: str, calls: int) -> float:
    """Median seconds of a force call in a fresh process without settings of the user's own."""
    environment = {key: value for key, value in os.environ.items() if key not in CHOICES}
    command = [sys.executable, "-c", MEASURE.format(order=order), str(GLASS), str(calls)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--busy", type=int, default=1, help="number of busy programs")
    parser.add_argument("--calls", type=int, default=10)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load before the start {os.getloadavg()[0]:.1f}")
    for order, title in ORDERS.items():
        quiet = force_call(order, options.calls)
        with busy_programs(options.busy):
            beside = force_call(order, options.calls)
        print(
            f"{title}: {quiet:.3f} s; beside {options.busy} busy {beside:.3f} s, {beside / quiet:.1f} times"
        )


if __name__ == "__main__":
    main()

"""Time, memory and traffic of a force call that several processes share.

    python examples/benchmarks/ranks.py [--ranks 1 2] [--cells 48] [--calls 3]

A row of cells of alpha-cristobalite, 10 x 10 Å wide, in which each process has a piece, with the solver
``sp2`` in float32. The processes share all cores. Prints, for each number of processes: the median time of
a call, the largest peak memory of a process, atoms of the halo for each own one, the bytes that the busiest
process sends for each of its atoms in a product of matrices, and the products of a call.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
from typing import Any

import torch
from ase import Atoms
from force_call import walk
from scaling import cristobalite

from mlh_driver import System
from mlh_driver.distributed.patterns import SharedPattern
from mlh_driver.distributed.ranks import launcher, world
from mlh_driver.distributed.team import SharedEngine
from mlh_driver.runtime import configure, launched_ranks

WARM_UP = 1
SINGLE_BYTES = 4


def measure(frames: list[Atoms]) -> None:
    """In each process; the first one prints."""
    configure()
    ranks, patterns, seconds = world(launched_ranks()), [], []
    products = 0
    engine = SharedEngine(ranks, "asio2-minimal", solver="sp2")
    make = engine._make_pattern
    engine.solver._make_pattern = lambda *of: patterns.append(make(*of)) or patterns[-1]
    multiply = SharedPattern.product

    def counted(*of: Any, **how: Any) -> Any:
        nonlocal products
        products += 1
        return multiply(*of, **how)

    SharedPattern.product = counted  # type: ignore[method-assign]
    for frame in frames:
        products = 0
        timings = engine.compute(System.from_ase(frame)).timings
        seconds.append(sum(timings.values()))
    pattern: SharedPattern = patterns[-1]
    n_own = engine.graphs.part.n_own
    here = {
        "seconds": statistics.median(seconds[WARM_UP:]),
        "peak_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "halo": len(pattern._unit) / n_own - 1.0,
        "bytes": pattern.sent_blocks * pattern.n**2 * SINGLE_BYTES / n_own,
    }
    everywhere = ranks.swap([here] * ranks.size)
    if ranks.rank == 0:
        most = {name: max(found[name] for found in everywhere) for name in here}
        print(
            f"{len(frames[0])} atoms, {ranks.size} processes of {torch.get_num_threads()} threads: "
            f"{most['seconds']:.2f} s, "
            f"{most['peak_MB']:.0f} MB each, {most['halo']:.2f} atoms of the halo for each own one, "
            f"{most['bytes'] / 1024:.1f} KB for each own atom and product, {products} products",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cells", type=int, default=48, help="along the row")
    parser.add_argument("--calls", type=int, default=3, help="of which the first does not count")
    parser.add_argument("--single", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.single:
        measure(walk(cristobalite((2, 2, options.cells)), options.calls))
        return
    same = ["--single", "--cells", str(options.cells), "--calls", str(options.calls)]
    for count in options.ranks:
        threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count))}
        command = [*launcher(count), sys.executable, __file__, *same]
        subprocess.run(command, env=os.environ | threads, check=True)


if __name__ == "__main__":
    main()

"""What share of its time a force call would need at the speed of a large matrix product.

    python examples/benchmarks/arithmetic.py --repeat 1 6

Operations of matrix products are counted in a call of the network and of its derivative, without those of
the kernels that this package has written itself and of the solver. The speed is that of a product of two
square matrices of 2000 rows in the same process, on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import ase.io
import torch
from torch.utils.flop_counter import FlopCounterMode

from mlh_driver import Engine, System

GLASS = Path(__file__).parents[1] / "glass.xyz"
ROWS = 2000


def shortest_s(call: Callable[[], object], repeats: int = 5) -> float:
    """Of several calls, after one that does not count."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, nargs="+", default=[1], help="times 96 atoms")
    options = parser.parse_args()
    torch.set_num_threads(1)
    engine = Engine()
    square = torch.randn(ROWS, ROWS)
    for repeat in options.repeat:
        system = System.from_ase(ase.io.read(GLASS).repeat((1, 1, repeat)))
        with FlopCounterMode(display=False) as counter:
            engine.compute(system)
        whole_s = shortest_s(lambda: engine.compute(system))  # noqa: B023
        per_s = 2 * ROWS**3 / shortest_s(lambda: square @ square)
        least_s = counter.get_total_flops() / per_s
        print(
            f"{len(system)} atoms: {counter.get_total_flops() / 1e9:.1f} GFlop at {per_s / 1e9:.0f} GFlop/s "
            f"need {least_s:.3f} s; a call takes {whole_s:.3f} s: {100 * least_s / whole_s:.0f} %"
        )


if __name__ == "__main__":
    main()

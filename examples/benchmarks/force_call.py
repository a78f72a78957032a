"""Time of a force call, by stage and by size, beside GFN1-xTB in the same run where it is installed.

    python examples/benchmarks/force_call.py [--repeat 1 2 3 4 6]

The glass cell of 96 atoms is repeated along x. Each figure is the median of five calls of a short random
walk, so that neighbor lists are updated as in MD. The peer is optional: ``pip install tblite``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms
from rich.console import Console
from rich.table import Table

from mlh_driver import Engine, System

GLASS = Path(__file__).resolve().parents[1] / "glass.xyz"
CALLS = 5


def walk(atoms: Atoms, steps: int) -> list[Atoms]:
    """The structure after small random moves, as in MD."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(steps):
        atoms = atoms.copy()
        atoms.positions += 0.01 * rng.normal(size=atoms.positions.shape)
        frames.append(atoms)
    return frames


def median_time(call: Callable[[Atoms], object], frames: list[Atoms]) -> float:
    """Median seconds of a call; the first one warms up and does not count."""
    seconds = []
    for atoms in frames:
        start = time.perf_counter()
        call(atoms)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def time_engine(atoms: Atoms, dtype: str) -> tuple[float, dict[str, float]]:
    engine, timings = Engine(dtype=dtype), []

    def call(frame: Atoms) -> None:
        timings.append(engine.compute(System.from_ase(frame)).timings)

    seconds = median_time(call, walk(atoms, CALLS + 1))
    return seconds, {stage: statistics.median(t[stage] for t in timings[1:]) for stage in timings[0]}


def time_xtb(atoms: Atoms) -> float | None:
    """Seconds of a GFN1-xTB energy and force call, or None when tblite is not installed."""
    try:
        from tblite.ase import TBLite
    except ImportError:
        return None
    frames = walk(atoms, 3)
    for frame in frames:
        frame.calc = TBLite(method="GFN1-xTB", verbosity=0)
    return median_time(lambda frame: frame.get_forces(), frames)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, nargs="+", default=[1, 2, 3, 4, 6])
    options = parser.parse_args()
    glass = ase.io.read(GLASS)
    console = Console()
    console.print(f"{os.cpu_count()} processors, {torch.get_num_threads()} threads, float32")
    table = Table(title="force call (energy, forces, stress, observables)")
    for column in ("atoms", "total (s)", "ms/atom", "graph", "network", "solver", "gradient (ms)"):
        table.add_column(column, justify="right")
    sizes, totals = [], []
    for n in options.repeat:
        atoms = glass * (n, 1, 1)
        seconds, stages = time_engine(atoms, "float32")
        sizes.append(len(atoms))
        totals.append(seconds)
        cells = [f"{1e3 * stages[stage]:.1f}" for stage in ("graph", "network", "solver", "gradient")]
        table.add_row(f"{len(atoms)}", f"{seconds:.3f}", f"{1e3 * seconds / len(atoms):.2f}", *cells)
    console.print(table)
    if len(sizes) > 2:
        exponent = np.polyfit(np.log(sizes), np.log(totals), 1)[0]
        console.print(f"fitted exponent of time over {sizes[0]} ... {sizes[-1]} atoms: {exponent:.2f}")
    peer = time_xtb(glass)
    if peer is None:
        console.print("GFN1-xTB: tblite is not installed, no ratio")
    else:
        ratio = peer / time_engine(glass, "float32")[0]
        console.print(f"GFN1-xTB at {len(glass)} atoms: {peer:.2f} s, {ratio:.1f} times the model's")


if __name__ == "__main__":
    main()

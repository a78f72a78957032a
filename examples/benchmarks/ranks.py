"""Time, memory and traffic of a force call that several processes share.

    python examples/benchmarks/ranks.py [--ranks 1 2] [--cells 48] [--calls 3] [--plot ranks.png]

A row of cells of alpha-cristobalite, 10 x 10 Å wide, in which each process has a piece, with the solver
``sp2`` in float32. Two series:

strong: the same row for each number of processes, which share all cores
weak:   a row that grows with the number of processes, each with the same number of cores

Prints the median time of a call, the largest peak memory of a process, atoms of the halo for each own one,
the bytes that the busiest process sends for each of its atoms in a product of matrices, and the products of
a call; and draws the times.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from force_call import walk
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scaling import cristobalite

from mlh_driver import System
from mlh_driver.distributed.patterns import SharedPattern
from mlh_driver.distributed.ranks import launcher, world
from mlh_driver.distributed.team import SharedEngine
from mlh_driver.runtime import configure, launched_ranks

WARM_UP = 1
COLUMNS = {
    "processes": ("ranks", ".0f"),
    "threads each": ("threads", ".0f"),
    "atoms": ("atoms", ".0f"),
    "s": ("seconds", ".2f"),
    "MB each": ("peak_MB", ".0f"),
    "halo / own": ("halo", ".2f"),
    "KB sent": ("sent_KB", ".1f"),
    "products": ("products", ".0f"),
}
"""Of the table: what stands in each, and how."""
SINGLE_BYTES = 4


def measure(frames: list[Atoms]) -> None:
    """In each process; the first one prints the largest figures as JSON."""
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
        "sent_KB": pattern.sent_blocks * pattern.n**2 * SINGLE_BYTES / n_own / 1024,
    }
    everywhere = ranks.swap([here] * ranks.size)
    if ranks.rank == 0:
        most = {name: max(found[name] for found in everywhere) for name in here}
        own = {"atoms": len(frames[0]), "threads": torch.get_num_threads(), "products": products}
        print(json.dumps(own | most), flush=True)


def launch(ranks: int, threads: int, cells: int, calls: int) -> dict[str, float]:
    """What the processes have measured."""
    command = [*launcher(ranks), sys.executable, __file__, "--single", "--cells", str(cells)]
    command += ["--calls", str(calls)]
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, threads))}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return {"ranks": ranks, **json.loads(done.stdout.splitlines()[-1])}


def print_table(series: dict[str, list[dict[str, float]]]) -> None:
    table = Table(title="force call with sp2, shared by processes")
    for head in ("series", *COLUMNS):
        table.add_column(head, justify="right")
    for name, rows in series.items():
        for row in rows:
            table.add_row(name, *(f"{row[key]:{form}}" for key, form in COLUMNS.values()))
    Console(width=110).print(table)


def draw(series: dict[str, list[dict[str, float]]], path: Path) -> None:
    figure = Figure(figsize=(5.0, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, rows in series.items():
        axes.plot([row["ranks"] for row in rows], [row["seconds"] for row in rows], "o-", label=name)
    axes.set(xlabel="processes", ylabel="seconds of a force call", ylim=(0.0, None))
    axes.set_xticks(sorted({row["ranks"] for rows in series.values() for row in rows}))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cells", type=int, default=48, help="along the row, of the most processes")
    parser.add_argument("--calls", type=int, default=3, help="of which the first does not count")
    parser.add_argument("--plot", type=Path, default=Path("ranks.png"))
    parser.add_argument("--single", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.single:
        measure(walk(cristobalite((2, 2, options.cells)), options.calls))
        return
    cores, most = os.cpu_count() or 1, max(options.ranks)
    series: dict[str, list[dict[str, float]]] = {"strong": [], "weak": []}
    for count in options.ranks:
        series["strong"].append(launch(count, cores // count, options.cells, options.calls))
        series["weak"].append(
            series["strong"][-1]
            if count == most
            else launch(count, cores // most, options.cells * count // most, options.calls)
        )
    print_table(series)
    draw(series, options.plot)


if __name__ == "__main__":
    main()

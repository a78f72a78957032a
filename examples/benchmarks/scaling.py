"""Time and memory of a force call against the number of atoms, with the linear-time solver and with
diagonalization.

    python examples/benchmarks/scaling.py [--largest 9216] [--plot scaling.png]

Supercells of alpha-cristobalite with random displacements of 0.05 Å, each in a process of its own, so that
peak memory is that of one size. Figures are medians over a short random walk, as in MD. Prints a table, the
fitted exponent of time, the slope of memory, the size at which the solvers cross, and the errors against
diagonalization.
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

import numpy as np
from ase import Atoms
from ase.spacegroup import crystal
from force_call import walk
from rich.console import Console
from rich.table import Table

from mlh_driver import Engine, System
from mlh_driver.runtime import configure

SUPERCELLS = ((3, 3, 2), (4, 4, 2), (4, 4, 3), (4, 6, 4), (6, 8, 4), (8, 8, 6), (8, 12, 8))
FIT_FROM, LEAST_LARGEST = 576, 1152
LARGEST_DENSE = 1152
CALLS = 3


def cristobalite(repeat: tuple[int, int, int]) -> Atoms:
    """12 atoms per cell; displaced, so that no symmetry is left."""
    cell = crystal(
        ["Si", "O"],
        [(0.3003, 0.3003, 0), (0.2392, 0.1044, 0.1787)],
        spacegroup=92,
        cellpar=[4.9717, 4.9717, 6.9223, 90, 90, 90],
    )
    atoms = Atoms(numbers=cell.numbers, positions=cell.positions, cell=cell.cell, pbc=True).repeat(repeat)
    atoms.rattle(0.05, seed=1)
    return atoms


def measure(repeat: tuple[int, int, int], solver: str) -> dict[str, object]:
    """Median stage times in seconds, peak memory in MB, and the last energy and forces."""
    configure()
    engine, timings = Engine(solver=solver), []
    frames = walk(cristobalite(repeat), CALLS + 2)
    for frame in frames:
        results = engine.compute(System.from_ase(frame))
        timings.append(results.timings)
    stages = {stage: statistics.median(t[stage] for t in timings[2:]) for stage in timings[0]}
    return {
        "atoms": len(frames[0]),
        "stages": stages,
        "seconds": sum(stages.values()),
        "peak_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "energy": results.energy,
        "forces": results.forces.tolist() if len(frames[0]) <= LARGEST_DENSE else None,
    }


def in_own_process(repeat: tuple[int, int, int], solver: str) -> dict:
    command = [sys.executable, __file__, "--single", solver, *map(str, repeat)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    row = json.loads(answer.stdout.splitlines()[-1])
    print(f"{row['atoms']} atoms, {solver}: {row['seconds']:.2f} s", flush=True)
    return row


def crossover(sparse: list[dict], dense: list[dict]) -> float:
    """Atoms at which both solvers take the same time, on straight lines in the log-log plot."""
    sizes = np.log([row["atoms"] for row in dense])
    excess = [
        np.log(d["stages"]["solver"] / s["stages"]["solver"]) for s, d in zip(sparse, dense, strict=False)
    ]
    return float(np.exp(np.interp(0.0, excess, sizes)))


def plot(sparse: list[dict], dense: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.0, 4.2), layout="constrained")
    sizes = [row["atoms"] for row in sparse]
    axes.loglog(sizes, [row["seconds"] for row in sparse], "o-", label="force call, solver sp2")
    for stage, style in (("network", "s:"), ("solver", "^:"), ("gradient", "v:")):
        axes.loglog(sizes, [row["stages"][stage] for row in sparse], style, label=f"  {stage}", alpha=0.7)
    axes.loglog([r["atoms"] for r in dense], [r["seconds"] for r in dense], "x--", label="force call, dense")
    axes.loglog(
        sizes[2:], sparse[2]["seconds"] * np.array(sizes[2:]) / sizes[2], "k-", lw=0.6, label="linear"
    )
    axes.set_xlabel("atoms")
    axes.set_ylabel("seconds")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--largest", type=int, default=9216, help="number of atoms")
    parser.add_argument("--plot", type=Path, default=Path("scaling.png"))
    parser.add_argument("--single", nargs=4, metavar=("SOLVER", "A", "B", "C"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.largest < LEAST_LARGEST:
        parser.error(f"--largest is {options.largest}; a fit needs {LEAST_LARGEST} at least")
    if options.single:
        solver, *repeat = options.single
        print(json.dumps(measure(tuple(map(int, repeat)), solver)))
        return
    console = Console()
    import torch  # after mlh_driver, as its threads want it

    console.print(f"{os.cpu_count()} processors, {torch.get_num_threads()} threads, float32")
    supercells = [s for s in SUPERCELLS if 12 * np.prod(s) <= options.largest]
    sparse = [in_own_process(s, "sp2") for s in supercells]
    dense = [in_own_process(s, "dense") for s in supercells if 12 * np.prod(s) <= LARGEST_DENSE]
    table = Table(title="force call with solver sp2 (in brackets: dense)")
    for column in ("atoms", "total (s)", "ms/atom", "network (s)", "solver (s)", "gradient (s)", "peak (MB)"):
        table.add_column(column, justify="right")
    for k, row in enumerate(sparse):
        stages = row["stages"]
        beside = f" ({dense[k]['stages']['solver']:.2f})" if k < len(dense) else ""
        total = f" ({dense[k]['seconds']:.2f})" if k < len(dense) else ""
        table.add_row(
            f"{row['atoms']}",
            f"{row['seconds']:.2f}{total}",
            f"{1e3 * row['seconds'] / row['atoms']:.2f}",
            f"{stages['network']:.2f}",
            f"{stages['solver']:.2f}{beside}",
            f"{stages['gradient']:.2f}",
            f"{row['peak_MB']:.0f}",
        )
    console.print(table)
    large = [row for row in sparse if row["atoms"] >= FIT_FROM]
    sizes = np.array([row["atoms"] for row in large])
    exponent = np.polyfit(np.log(sizes), np.log([row["seconds"] for row in large]), 1)[0]
    memory = np.polyfit(sizes, [row["peak_MB"] for row in large], 1)[0]
    console.print(f"fitted over {sizes[0]} ... {sizes[-1]} atoms: exponent of time {exponent:.3f}, "
                  f"memory {memory:.2f} MB per atom")  # fmt: skip
    console.print(f"solvers sp2 and dense cross at {crossover(sparse, dense):.0f} atoms")
    for s, d in zip(sparse, dense, strict=False):
        energy = 1e3 * abs(s["energy"] - d["energy"]) / s["atoms"]
        force = 1e3 * np.abs(np.array(s["forces"]) - d["forces"]).max()
        console.print(
            f"{s['atoms']} atoms, sp2 against dense: {energy:.4f} meV/atom, largest {force:.2f} meV/Å"
        )
    plot(sparse, dense, options.plot)
    console.print(f"wrote {options.plot}")


if __name__ == "__main__":
    main()

"""Glasses of finished melt-quench runs: relaxed, analyzed, and compared with published values.

    python examples/melt_quench/analyze.py melt_quench_output --output figures

The last frame of each run is relaxed with the model at fixed cell (BFGS, forces below 0.05 eV/Å), that of
the classical potential too, so that all stand at a minimum of the same energy; it is written to
``glass.xyz`` of the run, ready for ``mlh-driver label``, and not relaxed again. Runs of one MD engine are
averaged. Writes ``structure.png``, ``structure.json``, and ``thermo-ENGINE.png``.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import BFGS
from rich.console import Console
from rich.table import Table
from runs import Run, finished_runs

from mlh_driver import MLHCalculator
from mlh_driver.analysis import PUBLISHED, Structure, summary
from mlh_driver.analysis.plots import RING_SIZES, plot_structures, plot_thermo

FMAX_eV_A = 0.05
MOST_STEPS = 500


def relaxed_glass(run: Run, calculator: MLHCalculator, most_steps: int) -> Atoms:
    """The glass at the model's minimum; a relaxation that ``glass.xyz`` does not show at its end goes on."""
    path = run.folder / "glass.xyz"
    atoms = ase.io.read(path) if path.exists() else run.final()
    if not path.exists() or largest_force(atoms) > FMAX_eV_A:
        atoms = relaxed(atoms, calculator, most_steps, f"{run.name}_relaxed_T0")
        ase.io.write(path, atoms)
    largest = largest_force(atoms)
    note = "" if largest <= FMAX_eV_A else f" after {most_steps} steps, NOT RELAXED"
    print(
        f"{run.name}: {atoms.get_potential_energy() / len(atoms):.4f} eV/atom, largest force "
        f"{largest:.3f} eV/Å{note}, gap {atoms.info['gap']:.2f} eV, "
        f"extrapolation {atoms.info['extrapolation']:.2f}",
        flush=True,
    )
    return atoms


def largest_force(atoms: Atoms) -> float:
    """In eV/Å."""
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())


def relaxed(atoms: Atoms, calculator: MLHCalculator, most_steps: int, name: str) -> Atoms:
    """Relax ``atoms``; keep energy, forces and the electrons' figures with it."""
    atoms.calc = calculator
    with BFGS(atoms, logfile=None) as optimizer:
        optimizer.run(fmax=FMAX_eV_A, steps=most_steps)
    results = calculator.last_results
    atoms.info |= {"name": name, "gap": results.band_gap, "extrapolation": results.extrapolation}
    atoms.calc = SinglePointCalculator(atoms, energy=results.energy, forces=results.forces)
    return atoms


def table(structures: dict[str, Structure]) -> Table:
    """A row for each figure and each size of rings, a column for each MD engine."""
    rows = Table("quantity")
    for engine in structures:
        rows.add_column(engine, justify="right")
    rows.add_column("published")
    rows.add_column("source")
    columns = [structure.figures() for structure in structures.values()]
    for quantity in columns[0]:
        published = PUBLISHED.get(quantity)
        reference = [str(published), published.source] if published else []
        rows.add_row(quantity, *(f"{figures[quantity]:.4g}" for figures in columns), *reference)
    for size in RING_SIZES:
        counts = (structure.rings.get(size, 0.0) for structure in structures.values())
        rows.add_row(f"rings of {size} Si per cell", *(f"{count:.3g}" for count in counts))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--model", default="asio2-minimal")
    parser.add_argument("--steps", type=int, default=MOST_STEPS, help="of each relaxation at most")
    parser.add_argument("--output", type=Path, default=Path("."), metavar="DIR")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    calculator = MLHCalculator(model=options.model)
    glasses: defaultdict[str, list[Atoms]] = defaultdict(list)
    logs: defaultdict[str, dict] = defaultdict(dict)
    for run in finished_runs(options.runs):
        glasses[run.engine].append(relaxed_glass(run, calculator, options.steps))
        logs[run.engine][run.name] = run.columns()
    structures = {engine: summary(frames) for engine, frames in glasses.items()}
    Console(width=150).print(table(structures))
    report = {engine: s.figures() | {"rings": s.rings} for engine, s in structures.items()}
    (options.output / "structure.json").write_text(json.dumps(report, indent=2))
    plot_structures(structures, options.output / "structure.png")
    for engine, columns in logs.items():
        plot_thermo(columns, options.output / f"thermo-{engine}.png")
    print(f"wrote structure.png, structure.json and thermo-*.png to {options.output}")


if __name__ == "__main__":
    main()

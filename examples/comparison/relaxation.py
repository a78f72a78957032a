"""Minima of a model, checked by DFT: relaxation and formation energies of oxygen vacancies.

    python relaxation.py DATA NAME ... [--model NAME] [--output relaxed.h5] [--threads 2]

Every structure NAME of the data set DATA, whose DFT energy is known, is relaxed with the model at fixed cell.
CP2K then labels where it ends, into an HDF5 file of that model; a second call only reads it. Both
energies are compared between the same two geometries; at a minimum of DFT its forces would be zero. Hosts and
vacancies of one network share their number (h106_min, v106_0) and give formation energies, up to the energy
of an oxygen atom, at the relaxed geometries.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.optimize import BFGS
from compare import Prediction, formation_errors
from rich.console import Console
from rich.table import Table

from mlh_driver import Engine, MLHCalculator
from mlh_driver.data import LabelledStructure, hdf5, read_structure
from mlh_driver.model import Model
from mlh_driver.reference import label_into, make_labeler

FMAX_eV_A = 0.03
MOST_STEPS = 300


def relaxed(label: LabelledStructure, model: Model) -> Atoms:
    """The model's minimum from a labelled structure."""
    atoms = label.system.to_ase()
    atoms.calc = MLHCalculator(model=model)
    with BFGS(atoms, logfile=None) as optimizer:
        if not optimizer.run(fmax=FMAX_eV_A, steps=MOST_STEPS):
            raise SystemExit(f"{label.name}: forces are above {FMAX_eV_A} eV/Å after {MOST_STEPS} steps")
    return atoms


def shortest_si_si(label: LabelledStructure) -> float:
    """Å; in a vacancy, of the two that face each other."""
    silicon = label.system.to_ase()[label.system.numbers == 14]
    return float(silicon.get_all_distances(mic=True)[np.triu_indices(len(silicon), 1)].min())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--model", default="asio2-minimal")
    parser.add_argument("--output", type=Path, default=Path("relaxed.h5"))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    table = Table(title=f"relaxed with {options.model}, then CP2K at the same geometries")
    for column in (
        "structure", "Si-Si (Å)", "relaxed", "relaxation energy (eV)", "DFT", "DFT force left, rms (meV/Å)",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    engine, labeler = Engine(options.model), make_labeler("cp2k", options.threads)
    ends: list[LabelledStructure] = []
    predictions: dict[str, Prediction] = {}
    for name in options.names:
        start = read_structure(options.data, name)
        if not options.output.exists() or name not in hdf5.read_names(options.output):
            frames = {name: relaxed(start, engine.model)}
            if label_into(options.output, frames, labeler, "train", print):
                raise SystemExit(f"{name}: CP2K gave no label for the relaxed structure")
        end = read_structure(options.output, name)
        before, after = engine.compute(start.system), engine.compute(end.system)
        if np.linalg.norm(after.forces, axis=1).max() > 2 * FMAX_eV_A:
            raise SystemExit(
                f"{options.output} holds {name} as another model relaxed it; choose another --output"
            )
        ends.append(end)
        predictions[name] = Prediction(after.energy, after.forces)
        table.add_row(
            name,
            f"{shortest_si_si(start):.3f}",
            f"{shortest_si_si(end):.3f}",
            f"{before.energy - after.energy:.3f}",
            f"{start.energy - end.energy:.3f}",
            f"{1e3 * np.sqrt((end.forces**2).mean()):.0f}",
        )
    Console().print(table)
    for name, error in formation_errors(ends, predictions).items():
        print(f"{name}: formation energy between the model's minima, model - DFT: {1e3 * error:.0f} meV")


if __name__ == "__main__":
    main()

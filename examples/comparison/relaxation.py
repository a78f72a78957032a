"""Minima of a model against minima of DFT: relaxed geometries, relaxation and formation energies.

    python relaxation.py DATA NAME ... [--model NAME] [--minima dft-minima.h5] [--threads 2]

Every structure NAME of the data set DATA, whose DFT energy is known, is relaxed at fixed cell, once with the
model and once with DFT. The minima of DFT stand in an HDF5 file, which holds the labels of all steps (NAME_1,
NAME_2, ...; the one in this folder without their Hamiltonians). One that is not there yet is searched with
CP2K, from the model's minimum, in a few steps: each relaxes the model with the difference of DFT and model
forces at the step before as a constant force, so that the model serves as the second derivatives. Hosts and
vacancies of one network share their number (h106_min, v106_0) and give formation energies, up to the energy
of an oxygen atom, each structure at the minimum of its own method.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.optimize import BFGS
from compare import Prediction, formation_errors
from rich.console import Console
from rich.table import Table

from mlh_driver import MLHCalculator
from mlh_driver.data import LabelledStructure, hdf5, read_structure
from mlh_driver.reference import Labeler, label_into, make_labeler

FMAX_eV_A = 0.01
MOST_STEPS = 500
#: A minimum of DFT has forces below this, root mean square.
DFT_FORCE_eV_A = 0.01
MOST_LABELS = 10
#: Keeps soft modes near the labelled structure, where the difference of forces holds.
SPRING_eV_A2 = 0.3


class Corrected(Calculator):
    """A calculator with constant forces added, (N, 3) in eV/Å, and weak springs to ``origin``, (N, 3)."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, base: Calculator, forces: np.ndarray, origin: np.ndarray) -> None:
        super().__init__()
        self.base, self.extra, self.origin = base, forces, origin

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        moved = self.atoms.positions - self.origin
        work = float((self.extra * moved - 0.5 * SPRING_eV_A2 * moved**2).sum())
        self.results = {
            "energy": self.base.get_potential_energy(self.atoms) - work,
            "forces": self.base.get_forces(self.atoms) + self.extra - SPRING_eV_A2 * moved,
        }


def relaxed(name: str, start: Atoms, calculator: Calculator) -> Atoms:
    """The minimum that BFGS finds."""
    atoms = start.copy()
    atoms.calc = calculator
    with BFGS(atoms, logfile=None) as optimizer:
        if not optimizer.run(fmax=FMAX_eV_A, steps=MOST_STEPS):
            raise SystemExit(f"{name}: forces are above {FMAX_eV_A} eV/Å after {MOST_STEPS} steps of BFGS")
    return atoms


def rms(x: np.ndarray) -> float:
    return float(np.sqrt((x**2).mean()))


def corrected_minimum(label: LabelledStructure, calculator: Calculator) -> Atoms:
    """The model's minimum when forces are added that make it right at the labelled structure."""
    here = label.system.to_ase()
    forces = label.forces - calculator.get_forces(here)
    return relaxed(label.name, here, Corrected(calculator, forces, here.positions))


def dft_minimum(
    path: Path, name: str, model_minimum: Atoms, calculator: Calculator, labeler: Labeler
) -> LabelledStructure:
    """The minimum of DFT in ``path``; missing steps towards it are labelled, first the model's minimum."""
    label = None
    for step in range(1, MOST_LABELS + 1):
        label_name = f"{name}_{step}"
        if not path.exists() or label_name not in hdf5.read_names(path):
            atoms = model_minimum if label is None else corrected_minimum(label, calculator)
            if label_into(path, {label_name: atoms}, labeler, "test", print):
                raise SystemExit(f"{label_name}: CP2K gave no label")
        label = read_structure(path, label_name)
        print(
            f"{label_name}: {label.energy:.4f} eV, rms force {1e3 * rms(label.forces):.1f} meV/Å", flush=True
        )
        if rms(label.forces) < DFT_FORCE_eV_A:
            return label
    raise SystemExit(f"{name}: DFT forces are above {DFT_FORCE_eV_A} eV/Å after {MOST_LABELS} labels")


def closest_pair(atoms: Atoms) -> tuple[int, int]:
    """The two Si closest to each other; in a vacancy, those that face each other."""
    silicon = np.flatnonzero(atoms.numbers == 14)
    distances = atoms[silicon].get_all_distances(mic=True) + 1e3 * np.eye(len(silicon))
    i, j = np.unravel_index(distances.argmin(), distances.shape)
    return int(silicon[i]), int(silicon[j])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--model", default="asio2-minimal")
    parser.add_argument("--minima", type=Path, default=Path(__file__).parent / "dft-minima.h5")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    table = Table(title=f"minima of {options.model} / of DFT")
    for column in ("structure", "Si-Si (Å)", "relaxation energy (eV)", "atoms apart, rms / max (Å)"):
        table.add_column(column, justify="right")
    calculator, labeler = MLHCalculator(model=options.model), make_labeler("cp2k", options.threads)
    minima: list[LabelledStructure] = []
    predictions: dict[str, Prediction] = {}
    for name in options.names:
        start = read_structure(options.data, name)
        beginning = start.system.to_ase()
        atoms = relaxed(name, beginning, calculator)
        found = Prediction(atoms.get_potential_energy(), atoms.get_forces())
        minimum = dft_minimum(options.minima, name, atoms, calculator, labeler)
        minima.append(replace(minimum, name=name))
        predictions[name] = found
        reference = minimum.system.to_ase()
        i, j = closest_pair(reference)
        distances = [frame.get_distance(i, j, mic=True) for frame in (beginning, atoms, reference)]
        apart = np.linalg.norm(atoms.positions - reference.positions, axis=1)
        gain = calculator.get_potential_energy(beginning) - found.energy
        table.add_row(
            name,
            "{:.3f} -> {:.3f} / {:.3f}".format(*distances),
            f"{gain:.3f} / {start.energy - minimum.energy:.3f}",
            f"{rms(apart):.3f} / {apart.max():.3f}",
        )
    Console().print(table)
    for name, error in formation_errors(minima, predictions).items():
        print(f"{name}: formation energy, each at its own minimum, model - DFT: {1e3 * error:.0f} meV")


if __name__ == "__main__":
    main()

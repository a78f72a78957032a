"""A stand-in for a reference code, in no time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from mlh_driver.reference import Calculation, UnconvergedError, overlap_matrices


class SomeLabeler:
    """Overlap of the real basis and a diagonal H; long cells do not converge. Counts its calculations.

    calculator: gives energy and forces, which are -1 eV and zero without it
    """

    name = "some"

    def __init__(self, cutoff: float = 1.0, calculator: Calculator | None = None) -> None:
        self.cutoff = cutoff
        self.calculator = calculator
        self.calls = 0

    def reference(self) -> dict[str, Any]:
        return {"engine": self.name, "cutoff": self.cutoff}

    def calculate(self, atoms: Atoms, workdir: Path) -> Calculation:
        self.calls += 1
        if atoms.cell.lengths()[0] > 6.0:
            raise UnconvergedError("the SCF did not converge")
        S, _, _ = overlap_matrices(atoms.numbers, atoms.positions, atoms.cell.array)
        H = np.diag(np.arange(len(S), dtype=float))
        energy, forces = -1.0, np.zeros((len(atoms), 3))
        if self.calculator:
            energy, forces = self.calculator.get_potential_energy(atoms), self.calculator.get_forces(atoms)
        return Calculation(energy, forces, None, H, S, 7, "some 1.0")

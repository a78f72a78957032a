"""One labeled structure, and its compressed file in atomic units.

Keys: ``numbers`` (N,), ``positions`` (N, 3) Å, ``cell`` (3, 3) Å rows, ``energy_Ha``, ``forces_Ha_bohr``
(N, 3), ``h_min_Ha`` (m, m) float32 with orbitals s, px, py, pz per atom, ``eig_Ha`` (n,), ``nocc``, ``info``
(JSON text) and, where computed, ``stress_eV_A3`` (3, 3) with ASE's sign.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mlh_driver.reference.constants import BOHR_A, HARTREE_EV, count_occupied
from mlh_driver.reference.cp2k import Cp2kError, Cp2kSettings, run_cp2k
from mlh_driver.reference.downfold import downfold, overlap_matrices

#: CP2K and PySCF agree to about 5e-9; more than this means another basis, order or geometry.
_MAX_OVERLAP_DIFFERENCE = 1e-6


@dataclass(frozen=True, eq=False)
class Labels:
    """Reference values of one periodic structure of N atoms (n orbitals, m minimal orbitals)."""

    numbers: np.ndarray  # (N,)
    positions: np.ndarray  # (N, 3)
    cell: np.ndarray  # (3, 3), rows
    energy_eV: float
    forces_eV_A: np.ndarray  # (N, 3)
    stress_eV_A3: np.ndarray | None  # (3, 3)
    H_min_eV: np.ndarray  # (m, m)
    eigenvalues_eV: np.ndarray  # (n,)
    n_occupied: int
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def gap_eV(self) -> float:
        """Lowest empty minus highest occupied level."""
        return float(self.eigenvalues_eV[self.n_occupied] - self.eigenvalues_eV[self.n_occupied - 1])

    def save(self, path: str | Path) -> None:
        """Write the compressed file; a reader never sees a partial one."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {
            "numbers": self.numbers,
            "positions": self.positions,
            "cell": self.cell,
            "energy_Ha": self.energy_eV / HARTREE_EV,
            "forces_Ha_bohr": self.forces_eV_A * (BOHR_A / HARTREE_EV),
            "h_min_Ha": (self.H_min_eV / HARTREE_EV).astype(np.float32),
            "eig_Ha": self.eigenvalues_eV / HARTREE_EV,
            "nocc": self.n_occupied,
            "info": json.dumps(self.info),
        }
        if self.stress_eV_A3 is not None:
            arrays["stress_eV_A3"] = self.stress_eV_A3
        partial = path.with_name(f".{path.stem}.partial.npz")
        np.savez_compressed(partial, **arrays)
        partial.replace(path)


def label_structure(
    atoms: Atoms,
    workdir: str | Path,
    settings: Cp2kSettings | None = None,
    info: dict[str, Any] | None = None,
) -> Labels:
    """Run CP2K in ``workdir`` and downfold; ``info`` is stored beside the settings."""
    settings = settings or Cp2kSettings()
    n_occupied = count_occupied(atoms.numbers)
    S, S12, S22 = overlap_matrices(atoms.numbers, atoms.positions, atoms.cell.array)
    result = run_cp2k(atoms, workdir, settings)
    difference = float(abs(result.S - S).max()) if result.S.shape == S.shape else np.inf
    if difference > _MAX_OVERLAP_DIFFERENCE:
        raise Cp2kError(
            f"overlap matrices of CP2K and PySCF differ by {difference:.1e} "
            f"(limit {_MAX_OVERLAP_DIFFERENCE:.0e}); is it the same basis file and orbital order?"
        )
    H_min, eigenvalues = downfold(result.H_eV, result.S, n_occupied, S12, S22)
    return Labels(
        numbers=atoms.numbers.copy(),
        positions=atoms.positions.copy(),
        cell=atoms.cell.array.copy(),
        energy_eV=result.energy_eV,
        forces_eV_A=result.forces_eV_A,
        stress_eV_A3=result.stress_eV_A3,
        H_min_eV=H_min,
        eigenvalues_eV=eigenvalues,
        n_occupied=n_occupied,
        info=(info or {}) | {"n_scf_steps": result.n_scf_steps, "cp2k": asdict(settings)},
    )

"""What every reference code has to deliver, and the errors it may raise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ase import Atoms

from mlh_driver.errors import MLHError
from mlh_driver.reference.constants import FULL_BASIS
from mlh_driver.system import Array

#: What all labelers share.
METHOD = {
    "functional": "PBE",
    "pseudopotentials": "GTH-PBE",
    "basis": FULL_BASIS,
    "sampling": "Gamma point, closed shell",
}


class LabelingError(MLHError):
    """A reference code did not deliver a complete, trustworthy result."""


class UnconvergedError(LabelingError):
    """The self-consistent field did not converge; nothing of the run may be used."""


@dataclass(frozen=True, eq=False)
class Calculation:
    """A converged calculation of N atoms with n orbitals (PySCF's order: by shell, p as x, y, z).

    energy: eV; forces: (N, 3) eV/Å; stress: (3, 3) eV/Å^3 with ASE's sign, or None; H: (n, n) eV; S: (n, n)
    electronic_temperature_K: T_e of the occupations; above zero the energy is the free energy E - T_e S_e
    """

    energy: float
    forces: Array
    stress: Array | None
    H: Array
    S: Array
    n_scf_steps: int
    version: str
    electronic_temperature_K: float = 0.0


class Labeler(Protocol):
    """A reference code at fixed settings."""

    name: str

    def reference(self) -> dict[str, Any]:
        """The settings that determine energies; equal settings give comparable energies."""

    def calculate(self, atoms: Atoms, workdir: Path) -> Calculation:
        """Energy, forces and H of a periodic cell; raises LabelingError if they cannot be trusted."""

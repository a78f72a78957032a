"""What every density-matrix solver takes and returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

KELVIN_eV = 8.617333262e-5
"""Boltzmann's constant in eV / K (CODATA 2018)."""


@dataclass(frozen=True)
class ElectronicState:
    """The spin-less one-particle state that minimises the free energy 2 Tr[P H] - T_e S_e.

    density:      P, (n, n), trace = half the number of electrons (with S: Tr[P S])
    weighted:     energy-weighted density matrix W = P H P at zero temperature, (n, n); None when S is None
    band_energy:  2 Tr[P H] in eV
    entropy_term: T_e S_e in eV, to be subtracted from the energy
    fermi_level:  chemical potential in eV; the middle of the gap at zero temperature
    homo, lumo:   the levels around the gap in eV, as a zero-temperature filling orders them
    """

    density: Tensor
    weighted: Tensor | None
    band_energy: float
    entropy_term: float
    fermi_level: float
    homo: float
    lumo: float

    @property
    def band_gap(self) -> float:
        return self.lumo - self.homo


class Solver(Protocol):
    """Finds the electronic state of a Hamiltonian."""

    name: str

    def solve(self, H: Tensor, S: Tensor | None, n_electrons: float, kT: float) -> ElectronicState:
        """Solve for ``n_electrons`` (both spins) at electronic temperature ``kT`` in eV.

        H: (n, n) symmetric, eV, float64.  S: (n, n) overlap, or None for an orthonormal basis.
        Raises SolverError when the state cannot be determined reliably.
        """
        ...

"""What every density-matrix solver takes and returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mlh_driver.errors import SolverError
from mlh_driver.hamiltonian import BlockMatrix
from mlh_driver.parts import WHOLE, Whole
from mlh_driver.system import Array, System

ERROR_PER_ATOM_meV = 0.1
"""What the linear-time solvers may miss of the energy, unless the user says otherwise."""


@dataclass(frozen=True, eq=False)
class ElectronicProblem:
    """The electrons of one structure.

    H:           Hamiltonian in eV, in single or double precision; P is in double precision
    S:           overlap in the pattern of H, or None for an orthonormal basis
    n_electrons: of both spins
    kT:          electronic temperature in eV
    system:      where the atoms are
    part:        the atoms whose rows H has

    Raises SolverError for NaN in H and for more electrons than orbitals hold.
    """

    H: BlockMatrix
    S: BlockMatrix | None
    n_electrons: float
    kT: float
    system: System
    part: Whole = WHOLE

    def __post_init__(self) -> None:
        if not bool(torch.isfinite(self.H.blocks).all()):
            raise SolverError(
                "the predicted Hamiltonian has NaN or infinite elements; the structure is probably far "
                "outside the model's range (atoms on top of each other?)"
            )
        if not 0 <= self.n_occupied <= self.H.n_orbitals:
            raise SolverError(f"{self.n_electrons:g} electrons do not fit into {self.H.n_orbitals} orbitals")

    @property
    def n_occupied(self) -> float:
        return 0.5 * self.n_electrons


@dataclass(frozen=True, eq=False)
class ElectronicState:
    """The spin-less one-particle state that minimises the free energy 2 Tr[P H] - T_e S_e.

    density:      P in the pattern of H, trace = half the number of electrons (with S: Tr[P S])
    energy_weighted: density matrix W = P H P at zero temperature; None when S is None
    band_energy:  2 Tr[P H] in eV
    entropy_term: T_e S_e in eV, to be subtracted from the energy
    fermi_level:  chemical potential in eV; the middle of the gap at zero temperature
    homo, lumo:   the levels around the gap in eV, as a zero-temperature filling orders them
    susceptibility: for k atoms (k,), how their electrons answer to potentials on them: dn_i/dv_j, (k, k) in
                  electrons per eV, at fixed number of all electrons; None where the solver does not know
    single_precision: whether P was found in it, whatever that of H, so that populations have its noise
    """

    density: BlockMatrix
    energy_weighted: BlockMatrix | None
    band_energy: float
    entropy_term: float
    fermi_level: float
    homo: float
    lumo: float
    susceptibility: Callable[[NDArray[np.int64]], Array] | None = None
    single_precision: bool = False

    @property
    def band_gap(self) -> float:
        return self.lumo - self.homo


class Solver(Protocol):
    """Finds the electronic state of a Hamiltonian.

    Solvers may keep state: what one call has found makes the next faster if the structure is similar, and
    never changes its result by more than the tolerated error.
    """

    @property
    def name(self) -> str: ...

    def solve(self, problem: ElectronicProblem) -> ElectronicState:
        """Raises SolverError when the state cannot be determined reliably."""
        ...

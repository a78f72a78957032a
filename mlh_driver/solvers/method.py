"""What finds the density matrix in a sparse pattern, and the levels around the gap that it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mlh_driver.solvers.lanczos import lanczos
from mlh_driver.solvers.sparse import Matrix, Operator, SparsePattern

#: Zero temperature is a good approximation if the gap is at least this many kT: occupations are off by e^-10.
MIN_GAP_IN_KT = 20.0
#: For the levels around the gap. Lanczos starts from the last orbital and a random vector of this weight, and
#: takes a least number of steps: a level that has risen above the last one may be anywhere in the structure,
#: where the last orbital has nothing.
LANCZOS_STEPS, LEAST_LANCZOS_STEPS = 200, 60
RANDOM_WEIGHT = 10.0
LANCZOS_TOLERANCE_eV = 0.005


class FrontierOrbitals:
    """The orbitals around the gap, in the order of a pattern; each search starts from those before."""

    def __init__(self, pattern: SparsePattern) -> None:
        self._pattern = pattern
        self._homo = self._lumo = pattern.random_vector()

    def levels(self, P: Matrix, hamiltonian: Operator, bounds: tuple[float, float]) -> tuple[float, float]:
        """Highest occupied and lowest empty level in eV, by Lanczos within the range of P and of 1 - P.

        bounds: of the spectrum, in eV
        """
        pattern = self._pattern
        random = pattern.normalized(pattern.random_vector())
        occupied = pattern.operator(P)

        def empty(v: Matrix) -> Matrix:
            return v - occupied(v)

        def highest(within: Operator, last: Matrix, zero: float, sign: float) -> Matrix:
            start = within(pattern.normalized(last) + np.float32(RANDOM_WEIGHT) * random)

            def apply(v: Matrix) -> Matrix:
                return within(np.float32(sign) * (hamiltonian(v) - np.float32(zero) * v))

            return lanczos(
                apply, start, LANCZOS_STEPS, LANCZOS_TOLERANCE_eV, LEAST_LANCZOS_STEPS, pattern.total
            )[2]

        self._homo = highest(occupied, self._homo, bounds[0], 1.0)
        self._lumo = highest(empty, self._lumo, bounds[1], -1.0)
        homo, lumo = (pattern.inner(v, hamiltonian(v)) for v in (self._homo, self._lumo))
        return homo, lumo


@dataclass(frozen=True)
class SparseProblem:
    """The electrons of one structure in an orthonormal basis.

    H:           eV, in the pattern and in the precision of the method
    hamiltonian: H as an operator, in single precision
    bounds:      of its spectrum, in eV
    """

    pattern: SparsePattern
    H: Matrix
    hamiltonian: Operator
    bounds: tuple[float, float]
    n_occupied: float
    kT: float
    frontier: FrontierOrbitals

    def frontier_levels(self, P: Matrix) -> tuple[float, float]:
        """Highest occupied and lowest empty level in eV of a projector, or of a sharp density matrix."""
        return self.frontier.levels(P.astype(np.float32, copy=False), self.hamiltonian, self.bounds)


@dataclass(frozen=True)
class SparseState:
    """P (float64) and the levels in eV.

    free_energy: 2 Tr[P H] - T_e S_e in eV; None at zero temperature, where there is no entropy
    """

    P: Matrix
    homo: float
    lumo: float
    fermi_level: float
    free_energy: float | None


class DensityMethod(Protocol):
    """Finds P in a frozen pattern, and remembers what helps it with the next, similar structure."""

    @property
    def name(self) -> str: ...

    @property
    def prefactor(self) -> float:
        """c of the error of truncation, see :mod:`~mlh_driver.solvers.linear_scaling`."""
        ...

    @property
    def dtype(self) -> type:
        """In which it wants H."""
        ...

    def check_temperature(self, kT: float) -> None:
        """Raises SolverError for a temperature that the method cannot do."""
        ...

    def new_pattern(self) -> None:
        """Forget what belongs to one pattern."""
        ...

    def solve(self, problem: SparseProblem) -> SparseState:
        """Raises SolverError when the state cannot be determined reliably."""
        ...

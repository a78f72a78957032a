"""Picks the solver by size, gap and temperature, and falls back rather than fail or be wrong.

Of a matrix that several processes share none has the whole, so there is no ``dense`` for it.
"""

from __future__ import annotations

from mlh_driver.errors import SolverError
from mlh_driver.solvers.base import ElectronicProblem, ElectronicState, ERROR_PER_ATOM_meV, Solver
from mlh_driver.solvers.dense import DenseSolver
from mlh_driver.solvers.fermi_operator import FermiOperator
from mlh_driver.solvers.linear_scaling import LinearScalingSolver, PatternMaker
from mlh_driver.solvers.method import MIN_GAP_IN_KT
from mlh_driver.solvers.purification import Purification
from mlh_driver.solvers.sparse import SparsePattern

#: Up to this many orbitals diagonalization is the faster one, where a pattern is kept from step to step.
DENSE_IS_FASTER = 1800
#: Up to this many it is possible (4 GB, minutes), and faster than ``foe``: 15 times at 2304 and 2000 K.
DENSE_IS_POSSIBLE = 10000


class AutoSolver:
    """``dense`` for small systems, else ``sp2``; where the gap is too small ``dense`` or ``foe``."""

    name = "auto"

    def __init__(
        self,
        error_per_atom_meV: float = ERROR_PER_ATOM_meV,
        make_pattern: PatternMaker = SparsePattern,
        diagonalizes: bool = True,
    ) -> None:
        self._dense, self._diagonalizes = DenseSolver(), diagonalizes
        self._sp2 = LinearScalingSolver(Purification(), error_per_atom_meV, make_pattern)
        self._foe = LinearScalingSolver(FermiOperator(), error_per_atom_meV, make_pattern)
        self._gap_is_small = False
        self.last_used = "dense"

    def solve(self, problem: ElectronicProblem) -> ElectronicState:
        """See :class:`~mlh_driver.solvers.base.Solver`; raises the SolverError of the last one tried."""
        for solver in self._candidates(problem):
            self.last_used = solver.name
            try:
                state = solver.solve(problem)
            except SolverError as error:
                failure = error.with_traceback(None)  # which would keep its matrices
                continue
            self._gap_is_small = state.band_gap < 1.5 * MIN_GAP_IN_KT * problem.kT
            return state
        raise failure

    def _candidates(self, problem: ElectronicProblem) -> list[Solver]:
        if self._diagonalizes and problem.H.n_orbitals <= DENSE_IS_FASTER:
            return [self._dense]
        possible = self._diagonalizes and problem.H.n_orbitals <= DENSE_IS_POSSIBLE
        warm: list[Solver] = [self._dense] if possible else [self._foe] if problem.kT > 0 else []
        cold: list[Solver] = [] if self._gap_is_small and warm else [self._sp2]
        return cold + warm

"""Density-matrix solvers behind one interface."""

from mlh_driver.errors import InputError
from mlh_driver.solvers.auto import AutoSolver
from mlh_driver.solvers.base import ElectronicProblem, ElectronicState, ERROR_PER_ATOM_meV, Solver
from mlh_driver.solvers.charge_response import ChargeHolder, HeldState
from mlh_driver.solvers.dense import DenseSolver
from mlh_driver.solvers.fermi_operator import FermiOperator
from mlh_driver.solvers.linear_scaling import LinearScalingSolver, PatternMaker
from mlh_driver.solvers.purification import Purification
from mlh_driver.solvers.sparse import SparsePattern

SOLVERS = ("auto", "dense", "sp2", "foe")


def make_solver(
    name: str, error_per_atom_meV: float = ERROR_PER_ATOM_meV, make_pattern: PatternMaker = SparsePattern
) -> Solver:
    """The solver of that name; the tolerated error of the energy concerns all but ``dense``.

    ``make_pattern`` is another one for matrices that several processes share.
    """
    alone = make_pattern is SparsePattern
    if not error_per_atom_meV > 0:
        raise InputError(f"error_per_atom_meV is {error_per_atom_meV}; it must be positive, such as 0.1")
    if name == "auto":
        return AutoSolver(error_per_atom_meV, make_pattern, diagonalizes=alone)
    if name == "dense" and alone:
        return DenseSolver()
    for method in (Purification(), FermiOperator()):
        if name == method.name:
            return LinearScalingSolver(method, error_per_atom_meV, make_pattern)
    if name == "dense":
        raise InputError("solver 'dense' needs the whole matrix in one process; choose auto, sp2 or foe")
    raise InputError(f"solver {name!r} is unknown; choose one of {', '.join(SOLVERS)}")


__all__ = [
    "SOLVERS",
    "AutoSolver",
    "ChargeHolder",
    "DenseSolver",
    "ElectronicProblem",
    "ElectronicState",
    "HeldState",
    "LinearScalingSolver",
    "Solver",
    "make_solver",
]

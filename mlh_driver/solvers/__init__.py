"""Density-matrix solvers behind one interface."""

from mlh_driver.errors import InputError
from mlh_driver.solvers.base import ElectronicState, Solver
from mlh_driver.solvers.dense import DenseSolver

SOLVERS = ("auto", "dense")


def make_solver(name: str) -> Solver:
    """The solver of that name; ``auto`` picks the best one there is, which is ``dense``."""
    if name not in SOLVERS:
        raise InputError(f"solver {name!r} is unknown; choose one of {', '.join(SOLVERS)}")
    return DenseSolver()


__all__ = ["SOLVERS", "DenseSolver", "ElectronicState", "Solver", "make_solver"]

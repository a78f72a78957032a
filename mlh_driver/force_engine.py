"""What ASE, i-PI, LAMMPS, the server and evaluation ask of an engine, and nothing else."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlh_driver.results import Results
from mlh_driver.system import System


class ForceEngine(Protocol):
    """Computes structures, one after another, for one user: an engine is not shared between threads.

    There are two in the package: :class:`~mlh_driver.engine.Engine` has the model in this process,
    :class:`~mlh_driver.interfaces.sockets.remote.RemoteEngine` in a server. Whatever has these three methods
    can be bound to LAMMPS, answer i-PI, serve, and stand behind ASE's calculator.
    """

    def check_species(self, numbers: NDArray[np.int64]) -> None:
        """Raise StructureError if one of these (N,) atomic numbers is not known, before a run starts."""
        ...

    def compute(self, system: System) -> Results:
        """Energy, forces, stress and observables; atoms may move, change and be reordered between calls.

        Raises an :class:`~mlh_driver.errors.MLHError` rather than return a number that is not reliable; the
        next call starts afresh.
        """
        ...

    def close(self) -> None:
        """Give back what the engine holds, such as a connection. To be called once or more."""
        ...


class PassingEngine:
    """A :class:`ForceEngine` that passes everything on to another; subclasses look at what goes through."""

    def __init__(self, engine: ForceEngine) -> None:
        self._engine = engine

    def check_species(self, numbers: NDArray[np.int64]) -> None:
        """As the engine does."""
        self._engine.check_species(numbers)

    def compute(self, system: System) -> Results:
        """What the engine computes, and raises."""
        return self._engine.compute(system)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

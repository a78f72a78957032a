"""Machine-learned Hamiltonians as the force engine of LAMMPS, i-PI and ASE.

The data flow is one way, and so are the imports:

    system -> graph -> network (blocks) -> hamiltonian -> solvers (P) -> engine (energy, forces, stress)
           -> interfaces (ASE, i-PI, LAMMPS, server) -> command line

Internal units are eV and Å, lattice vectors are rows, and stresses have ASE's sign.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from mlh_driver.runtime import limit_spinning

if TYPE_CHECKING:
    from mlh_driver.engine import Engine
    from mlh_driver.engine_settings import EngineSettings
    from mlh_driver.force_engine import ForceEngine
    from mlh_driver.interfaces.ase import MLHCalculator
    from mlh_driver.model import load_model
    from mlh_driver.results import Results
    from mlh_driver.system import System

limit_spinning()  # before torch is loaded, if it is not yet

try:
    __version__ = version("mlh-driver")
except PackageNotFoundError:  # running from a source tree that is not installed
    __version__ = "0+unknown"

__all__ = [
    "Engine",
    "EngineSettings",
    "ForceEngine",
    "MLHCalculator",
    "Results",
    "System",
    "__version__",
    "load_model",
]

if not TYPE_CHECKING:  # type checkers see the imports above; Python makes each when it is used first
    _HOMES = {
        "Engine": "mlh_driver.engine",
        "EngineSettings": "mlh_driver.engine_settings",
        "ForceEngine": "mlh_driver.force_engine",
        "MLHCalculator": "mlh_driver.interfaces.ase",
        "Results": "mlh_driver.results",
        "System": "mlh_driver.system",
        "load_model": "mlh_driver.model",
    }

    def __getattr__(name: str) -> object:
        """Import the public names on first use, so that ``mlh-driver --help`` need not load torch."""
        if name not in _HOMES:
            raise AttributeError(f"module 'mlh_driver' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)

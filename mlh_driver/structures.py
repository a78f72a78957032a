"""Structure files: many frames, by name."""

from __future__ import annotations

from pathlib import Path

import ase.io
from ase import Atoms

from mlh_driver.errors import InputError, reason

#: Every run of VASP has files of these names; what they hold is called after the folder.
NAMED_BY_FOLDER = ("OUTCAR", "vasprun.xml", "CONTCAR", "POSCAR")


def read_frames(paths: list[Path]) -> dict[str, Atoms]:
    """All frames of files in any format that ASE reads, by name.

    A frame is called after ``name`` in its info (the comment line of extended XYZ), or after the file, with a
    number where several in a file would have the same name. Raises InputError for unreadable files, and when
    files give the same name.
    """
    frames: dict[str, Atoms] = {}
    for path in paths:
        try:
            images = ase.io.read(path, index=":")
        except Exception as error:  # ASE's readers raise anything
            raise InputError(f"cannot read structures from {path}: {reason(error)}") from error
        own = path.resolve().parent.name if path.name in NAMED_BY_FOLDER else path.stem
        names = [str(atoms.info.get("name", own)) for atoms in images]
        if len(set(names)) < len(names):
            names = [f"{name}_{k}" for k, name in enumerate(names)]
        for name, atoms in zip(names, images, strict=True):
            if name in frames:
                raise InputError(
                    f"{path}: a second structure is called {name!r}; rename one of the files, or write "
                    "name=... into the comment lines of extended XYZ"
                )
            frames[name] = atoms
    return frames

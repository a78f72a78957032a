"""Structure files: many frames, by name."""

from __future__ import annotations

from pathlib import Path

import ase.io
from ase import Atoms

from mlh_driver.errors import InputError


def read_frames(paths: list[Path]) -> dict[str, Atoms]:
    """All frames of files in any format that ASE reads, by name.

    A frame is called after ``name`` in its info (the comment line of extended XYZ), or after the file, with a
    number where the file has several. Raises InputError for unreadable files and names given twice.
    """
    frames: dict[str, Atoms] = {}
    for path in paths:
        try:
            images = ase.io.read(path, index=":")
        except Exception as error:  # ASE's readers raise anything
            raise InputError(f"cannot read structures from {path}: {error}") from error
        for k, atoms in enumerate(images):
            default = path.stem if len(images) == 1 else f"{path.stem}_{k}"
            name = str(atoms.info.get("name", default))
            if name in frames:
                raise InputError(f"{path}: a second structure is called {name!r}; names must differ")
            frames[name] = atoms
    return frames

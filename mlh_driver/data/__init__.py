"""Reference data: labelled structures and the files that hold them.

A data set is an HDF5 file (``mlh_driver.data.hdf5`` documents the layout, and is what this package writes)
or a folder of ``.npz`` files (``mlh_driver.data.npz``). Structures have names and belong to splits.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from mlh_driver.data import hdf5, npz
from mlh_driver.data.structure import LabelledStructure
from mlh_driver.errors import InputError

__all__ = ["LabelledStructure", "read_split", "read_splits", "read_structure"]


def read_splits(path: str | Path) -> dict[str, list[str]]:
    """Names of the structures of each split of a data set; raises InputError for what is not one."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"the data set {path} does not exist")
    return npz.read_splits(path) if path.is_dir() else hdf5.read_splits(path)


def read_structure(path: str | Path, name: str) -> LabelledStructure:
    """One structure of a data set."""
    path = Path(path)
    return npz.read_structure(path, name) if path.is_dir() else hdf5.read_structure(path, name)


def read_split(path: str | Path, split: str, names: str = "*") -> list[LabelledStructure]:
    """The structures of one split of a data set whose names match a pattern such as ``vac_*``."""
    splits = read_splits(path)
    if split not in splits:
        raise InputError(f"{path} has no split {split!r}; it has {', '.join(splits)}")
    return [read_structure(path, name) for name in splits[split] if fnmatch(name, names)]

"""Labelled structures: the one place that knows the file format of reference data.

A data set is a folder of ``NAME.npz`` files, one structure each, with an optional ``split.json`` that maps
the name of each split to a list of structures. Arrays of a file (hartree and bohr where the name says so):

==================  =======================================================================
numbers             (N,) atomic numbers
positions           (N, 3) Å
cell                (3, 3) Å, lattice vectors as rows
energy_Ha           total energy
forces_Ha_bohr      (N, 3)
h_min_Ha            (n, n) downfolded Hamiltonian, orbitals s, px, py, pz of each atom in turn
eig_Ha, nocc        all eigenvalues of the reference, and the number of doubly occupied ones
stress_eV_A3        (3, 3), optional, ASE's sign
==================  =======================================================================
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.units import Bohr, Hartree

from mlh_driver.errors import InputError
from mlh_driver.system import Array, System


@dataclass(frozen=True)
class LabelledStructure:
    """A structure with its reference values, in eV and Å.

    hamiltonian: (n, n) eV, with an arbitrary zero of potential
    occupied:    (n_pairs,) occupied eigenvalues of the reference in eV, with the same zero
    stress:      (3, 3) eV/Å^3 or None
    """

    name: str
    system: System
    energy: float
    forces: Array
    hamiltonian: Array
    occupied: Array
    stress: Array | None


def read_structure(path: Path) -> LabelledStructure:
    """Read one labelled structure; raises InputError when the file lacks something."""
    try:
        with np.load(path) as data:
            arrays = {key: data[key] for key in data.files if key != "info"}
        return LabelledStructure(
            name=path.stem,
            system=System(arrays["numbers"], arrays["positions"], arrays["cell"]),
            energy=float(arrays["energy_Ha"]) * Hartree,
            forces=arrays["forces_Ha_bohr"] * (Hartree / Bohr),
            hamiltonian=arrays["h_min_Ha"].astype(np.float64) * Hartree,
            occupied=arrays["eig_Ha"][: int(arrays["nocc"])] * Hartree,
            stress=arrays.get("stress_eV_A3"),
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is not a labelled structure: {error!r}; see mlh_driver.data for the format"
        ) from error


def read_splits(folder: Path) -> dict[str, list[str]]:
    """Names of the structures of each split; one split ``all`` where there is no ``split.json``."""
    if not folder.is_dir():
        raise InputError(f"the data folder {folder} does not exist")
    present = sorted(p.stem for p in folder.glob("*.npz") if not p.stem.endswith("_full"))
    if not present:
        raise InputError(f"there are no .npz files in {folder}")
    listing = folder / "split.json"
    if not listing.exists():
        return {"all": present}
    try:
        splits = json.loads(listing.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{listing} is not valid JSON: {error}") from error
    missing = [name for names in splits.values() for name in names if name not in present]
    if missing:
        raise InputError(f"{listing} names {', '.join(missing)}, but {folder} has no such .npz file")
    return splits


def read_split(folder: Path, split: str) -> list[LabelledStructure]:
    """All structures of one split of a data folder."""
    splits = read_splits(folder)
    if split not in splits:
        raise InputError(f"{folder} has no split {split!r}; it has {', '.join(splits)}")
    return [read_structure(folder / f"{name}.npz") for name in splits[split]]

"""Folders of ``NAME.npz`` files, one structure each, with an optional ``split.json``.

``split.json`` maps the name of each split to a list of structures. Arrays of a file (hartree and bohr where
the name says so):

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

from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from mlh_driver.constants import BOHR_A, HARTREE_eV
from mlh_driver.data.structure import LabelledStructure
from mlh_driver.errors import InputError
from mlh_driver.system import System


def read_structure(folder: Path, name: str) -> LabelledStructure:
    """Read one labelled structure; raises InputError when the file lacks something."""
    path = folder / f"{name}.npz"
    try:
        with path.open("rb") as file, np.load(file) as data:
            arrays = {key: data[key] for key in data.files}
        return LabelledStructure(
            name=name,
            system=System(arrays["numbers"], arrays["positions"], arrays["cell"]),
            energy=float(arrays["energy_Ha"]) * HARTREE_eV,
            forces=arrays["forces_Ha_bohr"] * (HARTREE_eV / BOHR_A),
            stress=arrays.get("stress_eV_A3"),
            hamiltonian=arrays["h_min_Ha"].astype(np.float64) * HARTREE_eV,
            eigenvalues=arrays["eig_Ha"] * HARTREE_eV,
            n_occupied=int(arrays["nocc"]),
            info={"info": str(arrays["info"])} if "info" in arrays else {},
        )
    except Exception as error:  # numpy and zipfile raise anything
        raise InputError(
            f"{path} is not a labelled structure: {error!r}; see mlh_driver.data.npz for the format"
        ) from error


def read_splits(folder: Path, otherwise: str = "all") -> dict[str, list[str]]:
    """Names of the structures of each split; one split ``otherwise`` where there is no ``split.json``."""
    present = sorted(p.stem for p in folder.glob("*.npz") if not p.stem.endswith("_full"))
    if not present:
        raise InputError(f"there are no .npz files in {folder}")
    listing = folder / "split.json"
    if not listing.exists():
        return {otherwise: present}
    try:
        splits = TypeAdapter(dict[str, list[str]]).validate_json(listing.read_text())
    except (ValidationError, UnicodeDecodeError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise InputError(f"{listing} does not map each split to a list of names: {problem}") from error
    if not any(splits.values()):
        raise InputError(
            f"{folder} holds no structures by its {listing.name}; remove that, or list them in it"
        )
    missing = [name for names in splits.values() for name in names if name not in present]
    if missing:
        raise InputError(f"{listing} names {', '.join(missing)}, but {folder} has no such .npz file")
    return splits

"""From a structure to a labelled one: run the reference code, check its overlap, downfold its Hamiltonian."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mlh_driver.constants import KELVIN_eV
from mlh_driver.data import LabelledStructure, hdf5
from mlh_driver.errors import InputError, MLHError, StructureError
from mlh_driver.reference.constants import count_occupied
from mlh_driver.reference.cp2k import Cp2kLabeler, Cp2kSettings
from mlh_driver.reference.downfold import downfold, overlap_matrices
from mlh_driver.reference.labeler import Labeler, LabelingError
from mlh_driver.reference.pyscf import PyscfLabeler, PyscfSettings
from mlh_driver.system import System, same_structure

#: CP2K and PySCF agree to about 5e-9 (1e-5 in drafts); more than this means another basis, order or geometry.
_MAX_OVERLAP_DIFFERENCE = 1e-4


def make_labeler(
    engine: str, threads: int = 1, draft: bool = False, electronic_temperature_K: float = 0.0
) -> Labeler:
    """The labeler of a name, ``pyscf`` or ``cp2k``, at the settings of the project's own data.

    The Hamiltonian of a ``draft`` is good for training, its energies and forces are not; it costs a fifth
    with CP2K, a third with PySCF. A structure with a small gap converges at an electronic temperature of
    about that of its atoms.

    Raises InputError for an unknown name, and a temperature that is negative or not finite.
    """
    if not 0.0 <= electronic_temperature_K < np.inf:
        raise InputError(
            f"the electronic temperature is {electronic_temperature_K} K; give kelvin, 0 for closed shells"
        )
    if engine == PyscfLabeler.name:
        pyscf = PyscfSettings(threads=threads, electronic_temperature_K=electronic_temperature_K)
        return PyscfLabeler(pyscf.draft() if draft else pyscf)
    if engine == Cp2kLabeler.name:
        cp2k = Cp2kSettings(threads=threads, electronic_temperature_K=electronic_temperature_K)
        return Cp2kLabeler(cp2k.draft() if draft else cp2k)
    raise InputError(f"there is no reference code {engine!r}; choose pyscf or cp2k")


def label_structure(
    atoms: Atoms,
    name: str,
    labeler: Labeler,
    info: dict[str, Any] | None = None,
    *,
    keep_full: bool = False,
) -> LabelledStructure:
    """Energy, forces, stress, minimal Hamiltonian and levels of a neutral closed-shell periodic cell.

    info:      stored beside the version and the number of SCF steps
    keep_full: also keep the Hamiltonian in the reference's own basis

    Raises LabelingError when the calculation cannot be trusted, StructureError when it cannot start,
    InputError when the code is not installed.
    """
    system = System.from_ase(atoms)
    n_occupied = count_occupied(atoms.numbers)
    S, S12, S22 = overlap_matrices(atoms.numbers, atoms.positions, atoms.cell.array)
    with tempfile.TemporaryDirectory(prefix="mlh-label-") as workdir:
        try:
            result = labeler.calculate(atoms, Path(workdir))
        except MLHError:
            raise
        except (OSError, ValueError) as error:  # numbers that are stars, a file that was not written
            raise LabelingError(f"the results of {labeler.name} cannot be read: {error}") from error
    difference = float(abs(result.S - S).max()) if result.S.shape == S.shape else np.inf
    if difference > _MAX_OVERLAP_DIFFERENCE:
        raise LabelingError(
            f"overlap matrices of {labeler.name} and PySCF differ by {difference:.1e} "
            f"(limit {_MAX_OVERLAP_DIFFERENCE:.0e}); is it the same basis file and orbital order?"
        )
    try:
        kT = KELVIN_eV * result.electronic_temperature_K
        hamiltonian, eigenvalues = downfold(result.H, result.S, n_occupied, S12, S22, kT)
    except (InputError, np.linalg.LinAlgError) as error:
        raise LabelingError(f"the Hamiltonian cannot be downfolded: {error}") from error
    try:
        return LabelledStructure(
            name=name,
            system=system,
            energy=result.energy,
            forces=result.forces,
            stress=result.stress,
            hamiltonian=hamiltonian,
            eigenvalues=eigenvalues,
            n_occupied=n_occupied,
            full_hamiltonian=result.H if keep_full else None,
            electronic_temperature_K=result.electronic_temperature_K,
            info=(info or {}) | {"n_scf_steps": result.n_scf_steps, "version": result.version},
        )
    except InputError as error:  # a number that is not finite, or too few of them
        raise LabelingError(f"the results of {labeler.name} are no label: {error}") from error


def label_into(
    path: str | Path,
    frames: dict[str, Atoms],
    labeler: Labeler,
    split: str,
    report: Callable[[str], None],
    *,
    keep_full: bool = False,
) -> list[str]:
    """Label the frames, by name, that the data set does not hold yet; returns the names of those left out.

    Each structure is stored as soon as it is labelled, so that a second call goes on after an interruption.
    ``report`` is called with lines of text about every structure, one of them before it is calculated. A
    ``note`` in ``atoms.info`` is kept.

    Raises InputError, before anything is calculated, if a name belongs to another structure, or the data set
    to another reference or cannot be written.
    """
    path = Path(path)
    labelled = _temperatures_of_labels(path, frames, labeler)
    held = hdf5.splits_by_name(path) if labelled else {}
    for name, heat in labelled.items():
        electrons = f"electrons of {heat:g} K" if heat else "closed shells"
        stays = "" if held[name] == split else f"; it stays in the split {held[name]!r}"
        report(f"{name}: already labelled, with {electrons}{stays}")
    failed = []
    for name, atoms in frames.items():
        if name in labelled:
            continue
        if _is_labelled(path, name):
            report(f"{name}: labelled meanwhile by another process")
            continue
        start = time.monotonic()
        report(f"{name}: {len(atoms)} atoms, {labeler.name} is running ...")
        info = {"note": str(atoms.info["note"])} if "note" in atoms.info else {}
        try:
            label = label_structure(atoms, name, labeler, info, keep_full=keep_full)
        except (LabelingError, StructureError) as error:
            report(f"{name}: left out: {error}")
            failed.append(name)
            continue
        if _is_labelled(path, name):
            report(f"{name}: another process was faster; its label is kept")
            continue
        hdf5.append(path, label, split, labeler.reference())
        report(
            f"{name}: {label.energy / len(atoms):.4f} eV/atom, gap {label.gap:.2f} eV, rms force "
            f"{(label.forces**2).mean() ** 0.5:.2f} eV/Å, {label.info['n_scf_steps']} SCF steps, "
            f"{time.monotonic() - start:.0f} s"
        )
    return failed


def _is_labelled(path: Path, name: str) -> bool:
    return path.exists() and name in hdf5.read_names(path)


def _temperatures_of_labels(path: Path, frames: dict[str, Atoms], labeler: Labeler) -> dict[str, float]:
    """Of the frames with a label in the data set, the electronic temperature of it in K."""
    for name in frames:
        hdf5.check_name(name)
    hdf5.check_writable(path)
    if not path.exists():
        return {}
    hdf5.check_reference(path, labeler.reference())
    temperatures_K = {}
    for name in frames.keys() & set(hdf5.read_names(path)):
        label = hdf5.read_structure(path, name)
        if not same_structure(label.system, System.from_ase(frames[name])):
            raise InputError(f"{path} holds another structure called {name!r}; rename one of the two")
        temperatures_K[name] = label.electronic_temperature_K
    return temperatures_K

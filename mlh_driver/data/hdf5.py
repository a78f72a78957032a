"""The data set: one HDF5 file, one group per structure, units eV and Å.

==================  ===============================================================================
/                   attributes: ``format`` ("mlh-driver-data-2"), ``reference`` (JSON: the settings
                    that every energy of the file shares)
/NAME               attributes: ``split`` ("train", ...), ``energy``, ``info`` (JSON), with eigenvalues
                    ``n_occupied``, and ``electronic_temperature_K`` (without it 0)
  numbers           (N,) uint8
  positions, cell   (N, 3) and (3, 3, lattice vectors as rows) float64
  forces            (N, 3) float64
  stress            (3, 3) float64, ASE's sign                                         [optional]
  hamiltonian       upper triangle, row by row, of the (n, n) minimal H, in steps of its
                    attribute ``step_eV``: 0, 1, 2, 3, 4, ... stand for 0, -1, 1, -2, 2, ...   [optional]
  eigenvalues       all levels of the reference, float64                               [optional]
  full_hamiltonian  upper triangle of H in the reference's own basis, float32          [optional]
==================  ===============================================================================

Orbitals are ordered by atom, then shell; p as x, y, z. Steps are 1e-4 eV, which is what grids and convergence
leave unknown of H; they move levels by 0.04 meV. A frame of 95 atoms takes about 0.13 MB. Files of
"mlh-driver-data-1" are read, too: their ``hamiltonian`` is in eV, float32, without the attribute. Reading a
frame without this package::

    import h5py, numpy as np
    with h5py.File("data.h5") as file:
        group = file["glass_0"]
        numbers, positions, cell = group["numbers"][:], group["positions"][:], group["cell"][:]
        energy, forces = group.attrs["energy"], group["forces"][:]
        k, step = group["hamiltonian"][:], group["hamiltonian"].attrs["step_eV"]
        upper = step * np.where(k % 2, -(k + 1) // 2, k // 2)
        n = int(np.sqrt(2 * len(upper)))
        H = np.zeros((n, n))
        H[np.triu_indices(n)] = upper
        H += np.triu(H, 1).T

Every addition is written to a copy that then replaces the file, so that an interruption at any moment leaves
the old file whole; a lock keeps two writers from losing each other's structures.
"""

from __future__ import annotations

import io
import json
import math
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count, islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from filelock import FileLock

from mlh_driver.data.structure import LabelledStructure
from mlh_driver.errors import InputError, MLHError, reason
from mlh_driver.files import replacing
from mlh_driver.system import Array, System

FORMAT = "mlh-driver-data-2"
_READABLE = ("mlh-driver-data-1", FORMAT)
#: What H is rounded to; files are less than half as large as with float32. Blocks of distant atoms are kept:
#: in cells of 96 atoms a twelfth of H is beyond 7.5 Å, and without it levels move by up to 9 meV.
HAMILTONIAN_STEP_eV = 1e-4
#: What an array may be larger than its bytes in the file. Those of this package compress 6 times at most; a
#: file of a stranger could name a size that no memory holds.
MOST_COMPRESSED = 100
_SMALL_BYTES = 1 << 20
#: Structures of a long import that are stored at once: each time the file is copied.
AT_ONCE = 100


def append(path: Path, label: LabelledStructure, split: str, reference: dict[str, Any]) -> None:
    """Add one structure, see ``append_all``."""
    append_all(path, [(label, split)], reference)


def append_all(
    path: Path, labels: Iterable[tuple[LabelledStructure, str]], reference: dict[str, Any]
) -> None:
    """Add structures with their splits, all or none of them, making the file if there is none.

    reference: the settings that determine energies; those of the file must be the same.

    Raises InputError if a name is taken or cannot be one, or the file holds energies of another reference.
    """
    check_writable(path)
    with _replacing(path) as file:
        if "reference" not in file.attrs:
            file.attrs["reference"] = json.dumps(reference)
        file.attrs["format"] = FORMAT  # also where structures of an older one stay as they are
        _check_reference(path, file, reference)
        for label, split in labels:
            check_name(label.name)
            if label.name in file:
                raise InputError(f"{path} already holds a structure {label.name!r}; choose another name")
            _write(file.create_group(label.name), label, split)


def append_missing(
    path: Path, labels: Iterable[tuple[LabelledStructure, str]], reference: dict[str, Any]
) -> tuple[list[LabelledStructure], int]:
    """Add structures that the file does not hold yet, a hundred at a time, so that a second call goes on.

    Returns all structures, and how many of them the file held before.

    Raises InputError as ``append_all`` does, and if a name belongs to a structure of other places or energy,
    or of another split; what was added before stays.
    """
    if path.exists():
        check_reference(path, reference)
    held = splits_by_name(path) if path.exists() else {}
    waiting, seen, n_held = iter(labels), [], 0
    while batch := list(islice(waiting, AT_ONCE)):
        new = []
        for label, split in batch:
            if label.name in held:
                _check_same(path, label)
                if held[label.name] != split:
                    raise InputError(
                        f"{path} holds {label.name!r} in the split {held[label.name]!r}, not {split!r}; keep "
                        "to it, or make a new data set"
                    )
            elif not _was_alone(path, label, held):
                new.append((label, split))
        if new:
            append_all(path, new, reference)
        held |= {label.name: split for label, split in new}
        seen += [label for label, _ in batch]
        n_held += len(batch) - len(new)
    return seen, n_held


def set_aside(path: Path, name: str) -> str:
    """Give a structure another name, which is returned, so that its own is free."""
    with _replacing(path) as file:
        new = next(other for k in count(1) if (other := f"{name}_before_{k}") not in file)
        file.move(name, new)
    return new


def _was_alone(path: Path, label: LabelledStructure, names: Collection[str]) -> bool:
    """Whether it is the first of a file that had no other once, and so has the name of the file there."""
    stem = label.name.removesuffix("_0")
    return stem != label.name and stem in names and _is_same(read_structure(path, stem), label)


def _is_same(one: LabelledStructure, other: LabelledStructure) -> bool:
    return one.system.key == other.system.key and one.energy == other.energy


def _check_same(path: Path, label: LabelledStructure) -> None:
    if not _is_same(read_structure(path, label.name), label):
        raise InputError(f"{path} holds another structure called {label.name!r}; rename one of the two")


def check_writable(path: Path) -> None:
    """Make the folder of a data set; raises InputError if there can be no file of this name."""
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; name a file that can be written") from error


def check_name(name: str) -> None:
    """Raises InputError if a structure cannot be called so: to HDF5 a slash means groups in groups."""
    if "/" in name or name in ("", "."):
        raise InputError(f"a structure cannot be called {name!r}; take a name without slashes")


def read_splits(path: Path) -> dict[str, list[str]]:
    """Names of the structures of each split."""
    splits: dict[str, list[str]] = {}
    with _open(path) as file:
        for name, group in file.items():
            if "split" not in group.attrs:
                raise InputError(f"structure {name!r} of {path} is damaged: it has no attribute 'split'")
            splits.setdefault(str(group.attrs["split"]), []).append(name)
    return splits


def splits_by_name(path: Path) -> dict[str, str]:
    """The split of each structure."""
    return {name: split for split, names in read_splits(path).items() for name in names}


def read_names(path: Path) -> list[str]:
    """Names of all structures."""
    with _open(path) as file:
        return list(file)


def read_structure(path: Path, name: str) -> LabelledStructure:
    """Read one labelled structure; raises InputError when there is none of this name."""
    with _open(path) as file:
        if name not in file:
            raise InputError(f"{path} has no structure {name!r}; it has {', '.join(file)}")
        group = file[name]
        try:
            return _read(name, group)
        except Exception as error:  # of h5py, which raises anything, and of wrong shapes and kinds
            raise InputError(f"structure {name!r} of {path} is damaged: {reason(error)}") from error


def read_reference(path: Path) -> dict[str, Any]:
    """The settings that determine the energies of the file."""
    with _open(path) as file:
        return _reference(path, file)


def differences(reference: dict[str, Any], other: dict[str, Any]) -> str:
    """What two references say differently, for a message."""
    keys = [key for key in {**reference, **other} if reference.get(key) != other.get(key)]
    return "; ".join(f"{key} is {reference.get(key)}, not {other.get(key)}" for key in keys)


def check_reference(path: Path, reference: dict[str, Any]) -> None:
    """Raises InputError unless the energies of the file are of this reference."""
    with _open(path) as file:
        _check_reference(path, file, reference)


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(
            f"cannot read {path} as HDF5: {error}. Other files become a data set by mlh-driver convert"
        ) from error
    try:
        with file:
            if file.attrs.get("format") not in _READABLE or "reference" not in file.attrs:
                raise InputError(
                    f"{path} is not a data set of this package: its format is {file.attrs.get('format')!r}, "
                    f"not {' or '.join(_READABLE)}, or it names no reference"
                )
            yield file
    except MLHError:
        raise
    except Exception as error:  # h5py raises anything
        raise InputError(f"{path} is damaged: {reason(error)}") from error


@contextmanager
def _replacing(path: Path) -> Iterator[h5py.File]:
    """A writable copy of the file (an empty one at first), which replaces it when all went well."""
    with _locked(path), replacing(path) as partial:
        content = io.BytesIO()
        if path.exists():
            with _open(path):
                pass  # it is a data set
            content.write(path.read_bytes())
        with h5py.File(content, "a" if path.exists() else "w") as file:  # HDF5 may crash on full disks
            yield file
        partial.write_bytes(content.getbuffer())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time, by a file beside the data set, not beside a link to it, that is gone afterwards.

    A writer who has waited for a file that was removed meanwhile makes a new one: FileLock sees to that.
    """
    path = path.resolve()
    lock = path.with_name(f".{path.name}.lock")
    with FileLock(lock):
        try:
            yield
        finally:
            with suppress(PermissionError):  # of Windows, where FileLock removes it itself
                lock.unlink(missing_ok=True)


def _reference(path: Path, file: h5py.File) -> dict[str, Any]:
    text = file.attrs["reference"]
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError) as error:
        raise InputError(
            f'the reference of {path} is {text!r}, and must be a JSON object such as {{"description": ...}}'
        ) from error


def _check_reference(path: Path, file: h5py.File, reference: dict[str, Any]) -> None:
    held = _reference(path, file)
    if held != reference:
        raise InputError(
            f"{path} holds energies of another reference ({differences(held, reference)}); only "
            "energies of one go into a data set"
        )


def _write(group: h5py.Group, label: LabelledStructure, split: str) -> None:
    group.attrs["split"] = split
    group.attrs["energy"] = label.energy
    group.attrs["info"] = json.dumps(label.info)
    group.attrs["electronic_temperature_K"] = label.electronic_temperature_K
    group["numbers"] = label.system.numbers.astype(np.uint8)
    group["positions"] = label.system.positions
    group["cell"] = label.system.cell
    group["forces"] = label.forces
    if label.stress is not None:
        group["stress"] = label.stress
    if label.eigenvalues is not None:
        group["eigenvalues"] = label.eigenvalues
        group.attrs["n_occupied"] = label.n_occupied
    if label.hamiltonian is not None:
        steps = _upper(label.hamiltonian / HAMILTONIAN_STEP_eV)
        dataset = _compressed(group, "hamiltonian", _to_counts(np.rint(steps).astype(np.int64)))
        dataset.attrs["step_eV"] = HAMILTONIAN_STEP_eV
    if label.full_hamiltonian is not None:
        _compressed(group, "full_hamiltonian", _upper(label.full_hamiltonian).astype(np.float32))


def _compressed(group: h5py.Group, name: str, data: np.ndarray) -> h5py.Dataset:
    return group.create_dataset(name, data=data, chunks=data.shape, compression="gzip", shuffle=True)


def _upper(matrix: Array) -> Array:
    """The upper triangle, row by row."""
    return matrix[np.triu_indices(len(matrix))]


def _to_counts(steps: np.ndarray) -> np.ndarray:
    """0, -1, 1, -2, 2, ... as 0, 1, 2, 3, 4, ...: the high bytes of small integers are then zero."""
    return np.where(steps < 0, -2 * steps - 1, 2 * steps)


def _to_steps(counts: np.ndarray) -> np.ndarray:
    return np.where(counts % 2, -(counts + 1) // 2, counts // 2)


def _read(name: str, group: h5py.Group) -> LabelledStructure:
    arrays = {key: _array(group[key]) for key in group}
    if "hamiltonian" in group and "step_eV" in group["hamiltonian"].attrs:
        arrays["hamiltonian"] = group["hamiltonian"].attrs["step_eV"] * _to_steps(arrays["hamiltonian"])
    return LabelledStructure(
        name=name,
        system=System(arrays["numbers"].astype(int), arrays["positions"], arrays["cell"]),
        energy=float(group.attrs["energy"]),
        forces=arrays["forces"],
        stress=arrays.get("stress"),
        hamiltonian=_full(arrays.get("hamiltonian")),
        eigenvalues=arrays.get("eigenvalues"),
        n_occupied=int(group.attrs["n_occupied"]) if "n_occupied" in group.attrs else None,
        full_hamiltonian=_full(arrays.get("full_hamiltonian")),
        info=json.loads(group.attrs["info"]),
        electronic_temperature_K=float(group.attrs.get("electronic_temperature_K", 0.0)),
    )


def _array(dataset: h5py.Dataset) -> np.ndarray:
    """All of it; raises ValueError for more than its bytes can hold, before memory is taken."""
    if dataset.nbytes > max(_SMALL_BYTES, MOST_COMPRESSED * dataset.id.get_storage_size()):
        raise ValueError(f"{dataset.name} has {dataset.nbytes} bytes, more than are in the file")
    return np.asarray(dataset[()])


def _full(upper: Array | None) -> Array | None:
    """The symmetric matrix of an upper triangle."""
    if upper is None:
        return None
    n = math.isqrt(2 * len(upper))
    matrix = np.zeros((n, n))
    matrix[np.triu_indices(n)] = upper
    return matrix + np.triu(matrix, 1).T

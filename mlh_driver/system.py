"""The structure that everything starts from: atoms in a periodic cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.data import atomic_masses
from numpy.typing import NDArray

from mlh_driver.constants import KELVIN_eV
from mlh_driver.errors import StructureError

#: Beyond it there is no dynamics left, and a few digits after the point.
LARGEST_POSITION_A = 1e9
#: Between opposite faces of a cell: no crystal is thinner, and its atoms would have images without number.
THINNEST_CELL_A = 0.5
#: In which the closest atoms are looked for, and in units of the cube root of the volume of an atom: no
#: packing keeps all atoms farther apart than 1.13 of these.
CLOSEST_WITHIN_A, CLOSEST_WITHIN = 4.0, 1.2
#: Files of structures keep eight digits or so.
SAME_STRUCTURE_A = 1e-6

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class System:
    """Atoms in a periodic cell.

    numbers:   (N,) atomic numbers
    positions: (N, 3) Cartesian coordinates in Å; they may lie outside the cell
    cell:      (3, 3) lattice vectors in Å as **rows**, periodic in all three directions
    velocities: (N, 3) in Å/fs where the MD engine tells them, or None; no result depends on them

    All are copied, and the copies are read-only: what moves later does not move an earlier structure, with
    which engines compare the next one. Two are equal for Python only if they are one; compare their ``key``.

    Raises :class:`~mlh_driver.errors.StructureError` on wrong shapes, non-finite values, and a cell that is
    singular or nearly flat.
    """

    numbers: NDArray[np.int64]
    positions: Array
    cell: Array
    velocities: Array | None = None

    def __post_init__(self) -> None:
        for name in ("numbers", "positions", "cell", "velocities"):
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, _copied(name, given))
        n = self.numbers.size
        if n == 0:
            raise StructureError("the structure has no atoms")
        if self.numbers.shape != (n,):
            raise StructureError(f"numbers have shape {self.numbers.shape}; give one for each atom")
        if self.velocities is not None and self.velocities.shape != (n, 3):
            raise StructureError(f"velocities have shape {self.velocities.shape}; {n} atoms need ({n}, 3)")
        if self.positions.shape != (n, 3):
            raise StructureError(f"positions have shape {self.positions.shape}; {n} atoms need ({n}, 3)")
        if self.cell.shape != (3, 3):
            raise StructureError(f"the cell has shape {self.cell.shape}; give three lattice vectors as rows")
        if not (near := np.abs(self.positions) < LARGEST_POSITION_A).all():
            atom = int(np.flatnonzero(~near.all(axis=1))[0])
            raise StructureError(
                f"position of atom {atom} is {self.positions[atom]}: not a finite number, or a huge one; "
                "the dynamics has probably exploded, try a smaller time step"
            )
        if not (np.abs(self.cell) < LARGEST_POSITION_A).all() or abs(np.linalg.det(self.cell)) < 1e-6:
            raise StructureError(
                f"the cell {self.cell.tolist()} is singular; the model needs three independent "
                "periodic lattice vectors (add vacuum around a molecule)"
            )
        if (width := widths(self.cell).min()) < THINNEST_CELL_A:
            raise StructureError(
                f"the cell {self.cell.tolist()} is nearly flat: two opposite faces are {width:.2g} Å apart, "
                f"and {THINNEST_CELL_A:g} Å is the least; correct its lattice vectors, in Å. If only their "
                "choice makes it so thin, take shorter ones (ase.geometry.minkowski_reduce)"
            )

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def key(self) -> tuple[bytes, bytes, bytes]:
        """Equal for structures that are equal in every bit of elements, positions and cell."""
        return self.numbers.tobytes(), self.positions.tobytes(), self.cell.tobytes()

    @property
    def volume(self) -> float:
        """Volume of the cell in Å^3."""
        return float(abs(np.linalg.det(self.cell)))

    @classmethod
    def from_ase(cls, atoms: Atoms) -> System:
        """Take an ASE structure; it must be periodic in all three directions."""
        if not atoms.pbc.all():
            raise StructureError(
                f"pbc is {atoms.pbc.tolist()}; the model is periodic in all three directions: "
                'set pbc=True (in extended XYZ, Lattice="..." pbc="T T T" in the second line), with vacuum '
                "in the cell where there is none"
            )
        return cls(atoms.numbers, atoms.positions, atoms.cell.array)

    def to_ase(self) -> Atoms:
        atoms = Atoms(numbers=self.numbers, positions=self.positions, cell=self.cell, pbc=True)
        if self.velocities is not None:
            atoms.set_velocities(self.velocities / units.fs)
        return atoms


def same_structure(first: System, second: System) -> bool:
    """Whether two structures are one, to the digits that files of structures keep."""
    if not np.array_equal(first.numbers, second.numbers):
        return False
    differences = [abs(first.positions - second.positions).max(), abs(first.cell - second.cell).max()]
    return bool(max(differences) < SAME_STRUCTURE_A)


def mass_density(atoms: Atoms) -> float:
    """In g/cm3; an Å^3 is 1e-24 cm3."""
    return float(atoms.get_masses().sum() / (units.kg / 1000.0) / (atoms.get_volume() * 1e-24))


def _copied(name: str, given: object) -> np.ndarray:
    """A read-only copy; raises StructureError for what are no such numbers."""
    try:
        copy = np.array(given, dtype=np.int64 if name == "numbers" else np.float64, order="C")
        if name == "numbers" and (copy != np.asarray(given)).any():
            raise ValueError("they are no whole numbers")
    except (TypeError, ValueError) as error:
        raise StructureError(f"{name} cannot be used: {error}") from error
    copy.setflags(write=False)
    return copy


def widths(cell: Array) -> Array:
    """(3,) distances between opposite faces of a cell in Å."""
    return np.asarray(1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0))


def fractional_positions(system: System) -> Array:
    """(N, 3) coordinates from 0 to 1 along the vectors of the cell."""
    return np.asarray(system.positions @ np.linalg.inv(system.cell) % 1.0)


def described(system: System) -> str:
    """What to look at where a structure cannot be computed: composition, density, the two closest atoms."""
    from vesin import NeighborList  # loads torch, which processes without a model do not need

    atoms = system.to_ase()
    words = f"{atoms.get_chemical_formula()} at {mass_density(atoms):.3g} g/cm3"
    # 4 Å around each atom of a cell in the wrong unit could be more pairs than memory holds
    within = min(CLOSEST_WITHIN_A, CLOSEST_WITHIN * (system.volume / len(system)) ** (1.0 / 3.0))
    i, j, distances = NeighborList(cutoff=within, full_list=False).compute(
        points=system.positions, box=system.cell, periodic=True, quantities="ijd"
    )
    if not len(distances):
        return words
    k = int(distances.argmin())
    pair = " and ".join(f"{atoms.symbols[int(a)]} {int(a)}" for a in (i[k], j[k]))
    return f"{words}; the closest atoms, {pair} (counted from 0), are {distances[k]:.2f} Å apart"


def displacements(old: System, new: System) -> tuple[Array, Array, Array]:
    """How the same atoms moved: the cell's deformation F, (3, 3), and what each atom did beyond following it.

    That is a lattice translation (N, 3) of integers, for atoms that were wrapped, and a rest (N, 3) in Å.
    """
    deformation = np.asarray(np.linalg.solve(old.cell, new.cell), dtype=np.float64)
    beyond = (new.positions - old.positions @ deformation).T
    fractional = np.asarray(np.linalg.solve(new.cell.T, beyond).T, dtype=np.float64)
    translations = np.asarray(np.round(fractional), dtype=np.float64)
    return deformation, translations, (fractional - translations) @ new.cell


def is_step(old: System, new: System) -> bool:
    """Whether an atom, or the cell, has moved by more than a lattice translation.

    MD engines ask again for a structure when the next run of a script begins; atoms may be wrapped by then.
    Other atoms, as after ``delete_atoms``, are no step but another start.
    """
    if not np.array_equal(old.numbers, new.numbers):
        return False
    deformation, _, moves = displacements(old, new)
    return bool(abs(moves).max() > SAME_STRUCTURE_A or abs(deformation - np.eye(3)).max() > SAME_STRUCTURE_A)


def kinetic_temperature_K(velocities: Array, numbers: NDArray[np.int64]) -> float:
    """Of velocities (N, 3) in Å/fs; the center of mass, which is at rest, is no degree of freedom."""
    squares = (velocities**2).sum(axis=1) / units.fs**2
    degrees = max(3 * len(numbers) - 3, 1)
    return float((atomic_masses[numbers] * squares).sum() / (degrees * KELVIN_eV))

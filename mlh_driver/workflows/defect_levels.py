"""The level of a defect, on the scale of its host.

    level = E(defect cell) - shift - E_HOMO(host cell)

It is the occupied level that lives most on the atoms beside the defect, of those within 3 eV of the highest:
in a perfect host the highest itself, in one with levels of its own in the gap another one below these.

The zero of potential is the model's own in each cell. ``shift`` is by how much that of the defect cell lies
higher: the mean change of the on-site levels (the mean of the diagonal of H at an atom) of the atoms farthest
from the defect, a third of the element with the lowest on-site levels (in silica, a third of the O).

Two checks say how well that holds, both zero in a perfect alignment:

============  ===========================================================================================
levels        mean change, after alignment, of the host's occupied levels that are found again: those that
              share more than half of their square with one level of the defect cell
deep band     change of the center of the lowest band, as the distant atoms share in it
============  ===========================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlh_driver.engine import Engine
from mlh_driver.errors import InputError
from mlh_driver.system import Array, System

#: How far below the highest occupied level that of a defect is looked for, in eV. The bonding levels of
#: silica, which live on Si, too, begin some 5 eV below.
WINDOW_eV = 3.0
#: Part of the atoms of an element that counts as far from the defect.
DISTANT = 1 / 3
#: Share of a host level's square in one level of the defect cell; above one half, only one can have it.
FOUND_AGAIN = 0.5


@dataclass(frozen=True)
class Levels:
    """Electronic structure of a cell at Gamma.

    energies:   (n,) levels in eV, ascending
    orbitals:   (n, n) a column for each
    atoms:      (n,) the atom of each basis function
    onsite:     (N,) mean of the diagonal of H at each atom in eV
    n_occupied: doubly occupied levels
    """

    energies: Array
    orbitals: Array
    atoms: NDArray[np.int64]
    onsite: Array
    n_occupied: int

    @classmethod
    def of(cls, atoms: Atoms, engine: Engine) -> Levels:
        """Raises InputError for an odd number of electrons."""
        system, basis = System.from_ase(atoms), engine.model.basis
        electrons = basis.n_electrons(system.numbers)
        if electrons % 2:
            raise InputError(
                f"{atoms.get_chemical_formula()} has {electrons} electrons, and the model pairs all of "
                "them; remove another element"
            )
        sizes = basis.sizes[basis.species_index(system.numbers)]
        return cls.from_hamiltonian(engine.hamiltonian(system), sizes, electrons // 2)

    @classmethod
    def from_hamiltonian(cls, H: Array, sizes: NDArray[np.int64], n_occupied: int) -> Levels:
        """H: (n, n) in eV, orthonormal; sizes: (N,) number of its basis functions on each atom."""
        of_atom = np.repeat(np.arange(len(sizes)), sizes)
        energies, orbitals = np.linalg.eigh(H)
        return cls(energies, orbitals, of_atom, np.bincount(of_atom, np.diag(H)) / sizes, n_occupied)

    @property
    def homo(self) -> float:
        return float(self.energies[self.n_occupied - 1])

    @property
    def lumo(self) -> float:
        return float(self.energies[self.n_occupied])

    def shares(self, level: int) -> Array:
        """(N,) share of each atom in a level."""
        return np.asarray(np.bincount(self.atoms, self.orbitals[:, level] ** 2), dtype=np.float64)

    def deep_center(self, atoms: NDArray[np.int64]) -> float:
        """Center in eV of the lowest band (below the widest gap), weighted by the shares of ``atoms``."""
        n = int(np.diff(self.energies[: self.n_occupied]).argmax()) + 1
        weights = (self.orbitals[np.isin(self.atoms, atoms), :n] ** 2).sum(axis=0)
        return float(weights @ self.energies[:n] / weights.sum())


@dataclass(frozen=True)
class DefectLevel:
    """The occupied level that a defect brings, see above.

    above_vbm_eV: its distance from the highest occupied level of the host
    on_pair:      its share on the atoms beside the defect
    inverse_participation_ratio: sum of the squared shares of the atoms, from 1/N (everywhere) to 1 (on one)
    shift_eV:     how much higher the zero of potential is in the defect cell
    levels_residual_eV, deep_residual_eV: what is left of the two checks; None where no level is found again
    """

    above_vbm_eV: float
    on_pair: float
    inverse_participation_ratio: float
    shift_eV: float
    levels_residual_eV: float | None
    deep_residual_eV: float


def defect_level(host: Levels, defect: Levels, kept: NDArray[np.int64], distances: Array,
                 numbers: NDArray[np.int64], pair: list[int]) -> DefectLevel:  # fmt: skip
    """Compare a cell with a defect with its host.

    kept: (M,) the atoms of the host with which the defect cell begins, in its order
    distances, numbers: (M,) of these: from the defect in Å, and atomic numbers
    pair: those of them beside the defect, as the defect cell counts
    """
    far = _distant(host.onsite[kept], distances, numbers)
    shift = float((defect.onsite[far] - host.onsite[kept[far]]).mean())
    occupied = defect.energies[: defect.n_occupied]
    candidates = np.flatnonzero(occupied > defect.homo - WINDOW_eV).tolist()
    level = max(candidates, key=lambda k: defect.shares(k)[pair].sum())
    shares = defect.shares(level)
    n = host.n_occupied
    in_host, in_defect = np.isin(host.atoms, kept), defect.atoms < len(kept)
    overlaps = (defect.orbitals[in_defect].T @ host.orbitals[in_host, :n]) ** 2
    again = np.flatnonzero(overlaps.max(axis=0) > FOUND_AGAIN)
    changes = defect.energies[overlaps[:, again].argmax(axis=0)] - host.energies[again]
    return DefectLevel(
        above_vbm_eV=float(occupied[level]) - shift - host.homo,
        on_pair=float(shares[pair].sum()),
        inverse_participation_ratio=float((shares**2).sum()),
        shift_eV=shift,
        levels_residual_eV=float(changes.mean()) - shift if len(changes) else None,
        deep_residual_eV=defect.deep_center(far) - host.deep_center(kept[far]) - shift,
    )


def _distant(onsite: Array, distances: Array, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """The atoms to align at, as the defect cell counts."""
    elements = np.unique(numbers)
    deepest = elements[np.argmin([onsite[numbers == element].mean() for element in elements])]
    candidates = np.flatnonzero(numbers == deepest)
    count = max(1, round(DISTANT * len(candidates)))
    return candidates[np.argsort(distances[candidates])[-count:]]

"""The Si-O bonds of a structure of SiO2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from vesin import ase_neighbor_list

from mlh_driver.analysis.distribution import check_periodic
from mlh_driver.errors import InputError
from mlh_driver.system import Array

SILICON, OXYGEN = 14, 8
#: In Å, the first minimum of g(r) between Si and O: 2.0 to 2.2 in melts, anything from 1.8 to 2.8 in a glass.
SI_O_BOND_A = 2.1


@dataclass(frozen=True)
class Network:
    """Si-O bonds; an atom may be bonded to several periodic images of another.

    atoms:   the structure
    silicon: (B,) atom index of the Si of each bond
    oxygen:  (B,) atom index of its O
    vectors: (B, 3) from the Si to the image of O in Å
    shifts:  (B, 3) cell vectors that lead from that O to its image
    """

    atoms: Atoms
    silicon: NDArray[np.int64]
    oxygen: NDArray[np.int64]
    vectors: Array
    shifts: NDArray[np.int64]

    @classmethod
    def of(cls, atoms: Atoms, bond_A: float = SI_O_BOND_A) -> Network:
        """All pairs of Si and O up to ``bond_A``; raises InputError unless both are there and pbc is full."""
        check_periodic(atoms)
        if not has_network(atoms):
            raise InputError(f"{atoms.get_chemical_formula()} has no Si-O network; it needs both elements")
        i, j, vectors, shifts = ase_neighbor_list("ijDS", atoms, bond_A)
        bonds = (atoms.numbers[i] == SILICON) & (atoms.numbers[j] == OXYGEN)
        return cls(
            atoms,
            i[bonds].astype(np.int64),
            j[bonds].astype(np.int64),
            vectors[bonds],
            shifts[bonds].astype(np.int64),
        )

    def counts(self, number: int) -> NDArray[np.int64]:
        """Bonds of every Si (``number`` 14) or of every O (8)."""
        ends = self.silicon if number == SILICON else self.oxygen
        return np.bincount(ends, minlength=len(self.atoms))[self.atoms.numbers == number]

    def around(self, number: int) -> Iterator[NDArray[np.int64]]:
        """Indices of the bonds of each Si (``number`` 14) or each O (8) that has any."""
        ends = self.silicon if number == SILICON else self.oxygen
        order = np.argsort(ends, kind="stable")
        yield from np.split(order, np.flatnonzero(np.diff(ends[order])) + 1)


def bonds_kept(before: Atoms, after: Atoms) -> float:
    """Share of the Si-O bonds of a structure that the same atoms still have in another; images are not told
    apart."""
    bonds = [
        set(zip(network.silicon.tolist(), network.oxygen.tolist(), strict=True))
        for network in map(Network.of, (before, after))
    ]
    return len(bonds[0] & bonds[1]) / max(1, len(bonds[0]))


def has_network(atoms: Atoms) -> bool:
    """Whether there are both Si and O."""
    return {SILICON, OXYGEN} <= set(atoms.numbers.tolist())

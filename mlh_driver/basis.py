"""The orbital basis: which shells each species carries, and where they stand in the matrix.

The basis belongs to the model. Each species has a tuple of angular momenta, one per shell, in the order
of its orbitals; ``(0, 1)`` is the minimal s + p basis. Components inside a shell follow e3nn: for l = 1
they are x, y, z, so the minimal basis reads s, px, py, pz.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from mlh_driver.errors import InputError, StructureError


@dataclass(frozen=True)
class OrbitalBasis:
    """Shells and valence of every species that a model knows.

    species:  chemical symbols, in order of increasing atomic number
    shells:   per species, the angular momentum of each shell
    occupations: per species, the spin-less occupation of each orbital in the neutral spherical atom
              (P0 of E = 2 Tr[(P - P0) H] + sum eps); it sums to half the number of valence electrons
    """

    species: tuple[str, ...]
    shells: tuple[tuple[int, ...], ...]
    occupations: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not (len(self.species) == len(self.shells) == len(self.occupations)):
            raise InputError("species, shells and occupations must have the same length")
        if list(self.numbers) != sorted(set(self.numbers)):
            raise InputError(f"species {self.species} must be distinct and sorted by atomic number")
        for symbol, shells, occupations in zip(self.species, self.shells, self.occupations, strict=True):
            if len(occupations) != sum(2 * l + 1 for l in shells):
                raise InputError(f"{symbol}: {len(occupations)} occupations for shells {shells}")

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """(n_species,) atomic numbers."""
        return np.array([atomic_numbers[symbol] for symbol in self.species])

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(n_species,) orbitals per atom."""
        return np.array([len(occupations) for occupations in self.occupations])

    @cached_property
    def valences(self) -> NDArray[np.float64]:
        """(n_species,) valence electrons of the neutral atom."""
        return np.array([2.0 * sum(occupations) for occupations in self.occupations])

    def n_electrons(self, numbers: NDArray[np.int64]) -> int:
        """Valence electrons of neutral atoms of these (N,) atomic numbers; raises StructureError."""
        return round(self.valences[self.species_index(numbers)].sum())

    def species_index(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N,) index of each atom's species; raises StructureError for an unknown element."""
        index = np.searchsorted(self.numbers, numbers).clip(max=len(self.numbers) - 1)
        unknown = np.flatnonzero(self.numbers[index] != numbers)
        if len(unknown):
            atom = int(unknown[0])
            name = chemical_symbols[numbers[atom]] if 0 <= numbers[atom] < len(chemical_symbols) else "?"
            raise StructureError(
                f"atom {atom} is {name} (Z = {numbers[atom]}), but the model knows only "
                f"{', '.join(self.species)}; use a model trained for this element"
            )
        return index

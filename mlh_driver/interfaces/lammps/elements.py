"""Which element each LAMMPS atom type is.

The first of these that gives an answer for a type:

1. ``--elements Si O``: one symbol per type, in the order of the types, or ``NULL`` for a type that the model
   does not see; masses may be others, but not those of the same elements in another order;
2. ``labelmap atom 1 Si 2 O``: a type label that is an element symbol, if the mass is not that of another;
3. ``mass 1 28.0855``: the element of the nearest mass, at most :data:`MASS_TOLERANCE` away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.data import atomic_masses, atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from mlh_driver.errors import InputError
from mlh_driver.interfaces.lammps.units import LammpsUnits

WITHOUT_MODEL = "NULL"
"""What LAMMPS' own pair styles call a type that they leave to others; its atomic number is 0 here."""

MASS_TOLERANCE = 0.25
"""Atomic mass units: admits rounded masses (28, 16) and keeps neighbors in the periodic table apart."""

_REMEDY = "name the elements of all types, for example --elements Si O"


class TypeElements:
    """The elements of the atom types of a LAMMPS instance.

    Type labels are read at first and by :meth:`read_labels`, masses each time.
    """

    def __init__(self, lmp: Any, units: LammpsUnits, elements: Sequence[str] | None) -> None:
        self._lmp, self._units, self._elements = lmp, units, elements
        self.read_labels()

    def read_labels(self) -> None:
        """Not within a run: without labels it is an error in LAMMPS, after which ``rerun`` calls no fix."""
        self._labels = {} if self._elements else _labelled_types(self._lmp)

    def numbers(self) -> NDArray[np.int64]:
        """Atomic numbers by type, shape (ntypes + 1,), 0 for a type that the model does not see.

        Entry 0 is unused, as LAMMPS counts types from 1. Raises InputError for a type whose element does not
        follow from the rule above.
        """
        ntypes = self._lmp.extract_setting("ntypes")
        masses = self._lmp.numpy.extract_atom("mass")
        if self._elements:
            numbers = _from_option(self._elements, ntypes)
            if masses is not None:
                _check_order(numbers, masses[: ntypes + 1] * self._units.mass)
            return numbers
        numbers = np.zeros(ntypes + 1, dtype=np.int64)
        for kind in range(1, ntypes + 1):
            if kind in self._labels:
                numbers[kind] = self._labels[kind]
                if masses is not None:
                    _check_mass(kind, numbers[kind], float(masses[kind]) * self._units.mass)
            elif masses is None:
                raise InputError(
                    f"atom type {kind} has no mass: the atom style has masses per atom; {_REMEDY}"
                )
            else:
                numbers[kind] = _from_mass(kind, float(masses[kind]) * self._units.mass)
        return numbers


def check_elements(elements: Sequence[str]) -> None:
    """Raise InputError if one of the symbols is no element, or all types are without the model."""
    for symbol in elements:
        if symbol != WITHOUT_MODEL and atomic_numbers.get(symbol, 0) == 0:
            raise InputError(
                f"--elements: {symbol!r} is not the symbol of an element, nor {WITHOUT_MODEL} for a type "
                "without the model"
            )
    if elements and set(elements) == {WITHOUT_MODEL}:
        raise InputError(f"--elements {' '.join(elements)}: the model needs at least one type")


def _from_option(elements: Sequence[str], ntypes: int) -> NDArray[np.int64]:
    check_elements(elements)
    if len(elements) != ntypes:
        raise InputError(
            f"--elements {' '.join(elements)} names {len(elements)} elements, but the LAMMPS box has "
            f"{ntypes} atom types; give one symbol per type, in order"
        )
    known = atomic_numbers | {WITHOUT_MODEL: 0}
    return np.array([0, *(known[symbol] for symbol in elements)], dtype=np.int64)


def _check_order(numbers: NDArray[np.int64], masses: NDArray[np.float64]) -> None:
    """Raise InputError where the masses (amu), by type, are those of the same elements in another order."""
    seen = np.flatnonzero(numbers)
    nearest = np.array([_nearest_element(mass) for mass in masses[seen]])
    if (abs(atomic_masses[nearest] - masses[seen]) > MASS_TOLERANCE).any():
        return
    named = numbers[seen]
    if sorted(nearest) == sorted(named) and (wrong := np.flatnonzero(nearest != named)).size:
        kind = int(seen[wrong[0]])
        raise InputError(
            f"--elements names {chemical_symbols[numbers[kind]]} as atom type {kind}, whose mass of "
            f"{masses[kind]:.6g} amu is that of {chemical_symbols[nearest[wrong[0]]]}: give the elements in "
            "the order of the types, or correct the masses"
        )


def _labelled_types(lmp: Any) -> dict[int, int]:
    """Atomic numbers of the types whose label is an element symbol; none without a ``labelmap``."""
    lmp.set_show_error(False)
    try:
        known = [symbol for symbol in chemical_symbols[1:] if lmp.eval(f"is_typelabel(atom,{symbol})")]
        return {int(lmp.eval(f"label2type(atom,{symbol})")): atomic_numbers[symbol] for symbol in known}
    except Exception:  # how LAMMPS says that there is no labelmap
        return {}
    finally:
        lmp.set_show_error(True)


def _nearest_element(mass: float) -> int:
    """Its atomic number."""
    return int(np.argmin(np.abs(atomic_masses[1:] - mass))) + 1


def _check_mass(kind: int, number: int, mass: float) -> None:
    """Raise InputError for a label that names one element and a mass that is another's; 1 is nobody's."""
    nearest = _nearest_element(mass)
    if nearest not in (number, 1) and abs(atomic_masses[nearest] - mass) <= MASS_TOLERANCE:
        raise InputError(
            f"the label of atom type {kind} is {chemical_symbols[number]}, its mass of {mass:.6g} amu that "
            f"of {chemical_symbols[nearest]}; correct labelmap or mass, or {_REMEDY}"
        )


def _from_mass(kind: int, mass: float) -> int:
    """Atomic number of the element whose mass (amu) is nearest; ``kind`` is for the message."""
    nearest = _nearest_element(mass)
    if mass <= 0.0:
        raise InputError(f"the mass of atom type {kind} is not set: use the mass command, or {_REMEDY}")
    if abs(atomic_masses[nearest] - mass) > MASS_TOLERANCE:
        raise InputError(
            f"atom type {kind} has the mass {mass:.6g} amu, which is no element's (the nearest is "
            f"{chemical_symbols[nearest]}, {atomic_masses[nearest]:.6g}); correct the mass or the "
            f"units, or {_REMEDY}"
        )
    return nearest

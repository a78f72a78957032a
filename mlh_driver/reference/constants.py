"""Element data of the reference calculation."""

from __future__ import annotations

from collections.abc import Iterable

from ase.data import chemical_symbols

from mlh_driver.errors import StructureError

#: Valence electrons kept by the GTH pseudopotential, by atomic number: elements of closed-shell solids.
VALENCE_ELECTRONS = {
    **{1: 1, 5: 3, 6: 4, 7: 5, 8: 6, 9: 7},
    **{11: 9, 12: 10, 13: 3, 14: 4, 15: 5, 16: 6, 17: 7},
    **{19: 9, 20: 10, 21: 11, 22: 12, 30: 12, 31: 13, 32: 4, 33: 5, 34: 6, 35: 7},
    **{38: 10, 39: 11, 40: 12, 41: 13, 48: 12, 49: 13, 50: 4, 51: 5, 52: 6, 53: 7},
    **{55: 9, 56: 10, 72: 12, 73: 13, 74: 14, 82: 4, 83: 5},
}

FULL_BASIS = "DZVP-MOLOPT-SR-GTH"
MINIMAL_BASIS = "SZV-MOLOPT-SR-GTH"


def no_labels_of(*symbols: str) -> str:
    """What to say of elements without an entry here."""
    known = ", ".join(chemical_symbols[z] for z in VALENCE_ELECTRONS)
    return f"labels cannot be made of {', '.join(symbols)}; the elements are {known}"


def count_occupied(numbers: Iterable[int]) -> int:
    """Doubly occupied levels of a neutral closed-shell cell with the given atomic numbers."""
    numbers = [int(z) for z in numbers]
    if unknown := sorted(set(numbers) - VALENCE_ELECTRONS.keys()):
        raise StructureError(no_labels_of(*(chemical_symbols[z] for z in unknown)))
    n_electrons = sum(VALENCE_ELECTRONS[z] for z in numbers)
    if n_electrons % 2:
        raise StructureError(
            f"{n_electrons} valence electrons cannot be a closed shell; change the composition"
        )
    return n_electrons // 2

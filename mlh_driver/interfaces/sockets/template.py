"""What i-PI never sends: which element each atom is. It comes from a structure file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from mlh_driver.errors import InputError, StructureError, reason
from mlh_driver.interfaces.sockets.wire import ANGSTROM, to_angstrom
from mlh_driver.system import Array, System

SAME_PLACE = 1e-3
"""Atoms this close, in fractions of the cell, are at the same place (about 0.01 Å in small cells)."""
CHECKPOINT_HEAD_BYTES = 10_000
"""In which i-PI's checkpoints have said that they are a simulation, after a comment on the machine."""
LENGTHS_A = (1.0, 1.0 / ANGSTROM, 10.0)
"""Units of length that i-PI's files may be in; which of them, the positions that it sends tell."""


def _items(beads: ElementTree.Element | None, name: str) -> list[str]:
    """The items of an array as i-PI writes it: ``[ a, b, c ]``. Raises ValueError if it is not there."""
    text = None if beads is None else beads.findtext(name)
    if text is None:
        raise ValueError(f"it has no beads with {name}")
    return text.strip(" []\n").replace(",", " ").split()


@dataclass(frozen=True)
class Template:
    """The elements of a simulation, and what they are checked against.

    numbers:   (N,) atomic numbers in the MD engine's order
    positions: (N, 3) in Å, bohr or nm, as the file has them, or None when only the elements are known
    source:    where they come from, for messages
    """

    numbers: NDArray[np.int64]
    positions: Array | None
    source: str

    @classmethod
    def read(cls, path: str | Path) -> Template:
        """Read any structure file that ASE knows, such as i-PI's own init.xyz, or a checkpoint of i-PI."""
        if not Path(path).is_file():
            raise InputError(f"the template {path} does not exist: give the file that i-PI starts from")
        if b"<simulation" in Path(path).read_bytes()[:CHECKPOINT_HEAD_BYTES]:
            return cls._of_checkpoint(Path(path))
        from ase.io import read  # takes a second to load, and servers need no files

        try:
            atoms = read(str(path), index=0)
        except Exception as error:  # ASE raises a different class for every format
            raise InputError(f"the template {path} cannot be read: {reason(error)}") from error
        assert isinstance(atoms, Atoms)
        return cls(np.asarray(atoms.numbers, dtype=np.int64), atoms.positions, str(path))

    @classmethod
    def _of_checkpoint(cls, path: Path) -> Template:
        """The first bead of the first system of a RESTART file, in bohr."""
        try:
            beads = ElementTree.parse(path).getroot().find("system/beads")
            names, values = _items(beads, "names"), _items(beads, "q")
            numbers = [atomic_numbers[name] for name in names]
            positions = np.array(values, dtype=float).reshape(-1, len(numbers), 3)[0]
        except (ElementTree.ParseError, LookupError, ValueError) as error:
            raise InputError(
                f"the template {path} is XML, but no checkpoint of i-PI ({reason(error)}): give a structure "
                "file, or a file such as RESTART"
            ) from error
        return cls(np.array(numbers, dtype=np.int64), positions / ANGSTROM, str(path))

    @classmethod
    def from_numbers(cls, numbers: Sequence[int], source: str) -> Template:
        return cls(np.asarray(numbers, dtype=np.int64), None, source)

    def check_count(self, n_atoms: int) -> None:
        """Raise StructureError unless the MD engine sends as many atoms as there are here."""
        if n_atoms == len(self.numbers):
            return
        raise StructureError(
            f"the MD engine sends {n_atoms} atoms, but {self.source} has {len(self.numbers)}: give the file "
            "that the MD engine starts from"
        )

    def check_order(self, system: System) -> bool:
        """Raise StructureError if these are the template's own coordinates in another order of elements.

        Coordinates that are not the template's (a restart, a moved start) cannot be checked and pass: returns
        whether they could.
        """
        if self.positions is None:
            return True  # elements that came with the positions
        to_fractions = np.linalg.inv(system.cell)
        here = (system.positions @ to_fractions) % 1.0 % 1.0
        for length in LENGTHS_A:
            there = (length * self.positions @ to_fractions) % 1.0 % 1.0
            distance, match = cKDTree(there, boxsize=1.0).query(here)
            if distance.max() <= SAME_PLACE:
                break
        else:
            return False
        wrong = np.flatnonzero(self.numbers[match] != self.numbers)
        if len(wrong):
            first = int(wrong[0])
            raise StructureError(
                f"the order of the elements differs: atom {first} of the MD engine sits at the place of "
                f"{chemical_symbols[self.numbers[match[first]]]}, but atom {first} of {self.source} is "
                f"{chemical_symbols[self.numbers[first]]} ({len(wrong)} atoms differ): "
                "use the same file for both"
            )
        return True


class SystemBuilder:
    """Makes systems from the cells and positions that one MD engine sends, and checks that they fit.

    The order of the elements is checked on the first structure only; ``say`` is told where it cannot be.
    """

    def __init__(self, template: Template, say: Callable[[str], None] = lambda message: None) -> None:
        self._template, self._say = template, say
        self._order_is_checked = False

    def __call__(self, h: Array, positions: Array) -> System:
        """``h`` (9,) or (3, 3) with lattice vectors as columns, ``positions`` (3N,) or (N, 3), in bohr."""
        self._template.check_count(positions.size // 3)
        cell, positions = to_angstrom(h, positions)
        system = System(self._template.numbers, positions, cell)
        if not self._order_is_checked:
            if not self._template.check_order(system):
                self._say(
                    f"the positions are not those of {self._template.source} (a restart, or a start that was "
                    "moved): the order of its elements could not be checked"
                )
            self._order_is_checked = True
        return system

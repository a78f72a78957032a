"""In which unit energies are, by those of isolated atoms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ase.data import chemical_symbols

from mlh_driver.constants import HARTREE_eV
from mlh_driver.data import LabelledStructure
from mlh_driver.errors import InputError
from mlh_driver.reference.atoms import isolated_atom
from mlh_driver.reference.labeler import UnconvergedError

UNITS_eV = {"eV": 1.0, "rydberg": HARTREE_eV / 2, "hartree": HARTREE_eV}
#: Of the energy of isolated atoms: what binds them adds to it, some hundredths.
LEAST, MOST = 0.98, 1.12
#: With hydrogen: 1.26 for its molecule.
MOST_WITH_H = 1.3


def energy_unit(labels: Sequence[LabelledStructure]) -> str | None:
    """The unit in which the energies are those of isolated atoms with pseudopotentials, as CP2K has them.

    None where they are in no unit (other codes count from other zeros), or isolated atoms are not known:
    without PySCF, or for elements without a pseudopotential here.
    """
    atoms = Counter(int(z) for label in labels for z in label.system.numbers)
    try:
        isolated = sum(n * isolated_atom(chemical_symbols[z]).energy_eV for z, n in atoms.items())
    except (InputError, UnconvergedError):
        return None
    ratio = sum(label.energy for label in labels) / isolated
    most = MOST_WITH_H if 1 in atoms else MOST
    return next((unit for unit, eV in UNITS_eV.items() if LEAST < ratio * eV < most), None)

"""The unit systems of LAMMPS, in Å, eV and atomic mass units.

LAMMPS never converts what ``fix external`` hands over, so positions are brought to Å and energies, forces
and virials back to the units of the script here.
"""

from __future__ import annotations

from dataclasses import dataclass

from ase import units

from mlh_driver.constants import BOHR_A, HARTREE_eV
from mlh_driver.errors import InputError

_KG = units.kg  # in atomic mass units
_M = units.m  # in Å
_J = units.J  # in eV
_ATOMIC = units.fs * (HARTREE_eV**0.5 / BOHR_A)  # 1/fs: of its time, the root of u bohr^2 / hartree


@dataclass(frozen=True)
class LammpsUnits:
    """One unit of each quantity.

    length: in Å
    energy: in eV
    mass:   in atomic mass units
    velocity: in Å/fs
    """

    length: float
    energy: float
    mass: float
    velocity: float


UNITS = {
    "metal": LammpsUnits(1.0, 1.0, 1.0, 1e-3),
    "real": LammpsUnits(1.0, units.kcal / units.mol, 1.0, 1.0),
    "electron": LammpsUnits(BOHR_A, HARTREE_eV, 1.0, BOHR_A * _ATOMIC),
    "si": LammpsUnits(_M, _J, _KG, 1e-15 * _M),
    "cgs": LammpsUnits(1e-2 * _M, 1e-7 * _J, 1e-3 * _KG, 1e-17 * _M),
    "micro": LammpsUnits(1e-6 * _M, 1e-15 * _J, 1e-15 * _KG, 1e-15 * _M),
    "nano": LammpsUnits(1e-9 * _M, 1e-21 * _J, 1e-21 * _KG, 1e-15 * _M),
}
"""By the name that the ``units`` command takes; ``lj`` has no absolute scale."""


def lammps_units(name: str) -> LammpsUnits:
    """The unit system called ``name``; raises InputError for ``lj``."""
    if name not in UNITS:
        raise InputError(
            f"the LAMMPS script uses 'units {name}', which has no absolute energies and lengths; "
            f"use one of: {', '.join(UNITS)}"
        )
    return UNITS[name]

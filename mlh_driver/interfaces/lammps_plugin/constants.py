"""The constants of the fix in C++, written from those of the Python, so that both give the same digits."""

from __future__ import annotations

from collections.abc import Iterable

from ase.data import atomic_masses, chemical_symbols

from mlh_driver.interfaces.alarm import GUARDED
from mlh_driver.interfaces.lammps.elements import MASS_TOLERANCE
from mlh_driver.interfaces.lammps.elements import WITHOUT_MODEL as TYPE_WITHOUT_MODEL
from mlh_driver.interfaces.lammps.rewriting import WITHOUT_MODEL
from mlh_driver.interfaces.lammps.script import HARMLESS
from mlh_driver.interfaces.lammps.units import UNITS
from mlh_driver.interfaces.sockets.address import UNIX_PREFIX
from mlh_driver.interfaces.sockets.remote import CONNECT_S, PATIENCE_S
from mlh_driver.interfaces.sockets.wire import ANGSTROM, ELECTRONVOLT, PROTOCOL
from mlh_driver.results import OBSERVABLES


def header() -> str:
    """The text of ``constants.h``; numbers have all digits of a float64."""
    units = (f'{{"{name}", {u.length!r}, {u.energy!r}, {u.mass!r}}}' for name, u in UNITS.items())
    alarms = (
        f'{{"{name}", {1 / own.limit if own.low else own.limit!r}, {str(own.low).lower()}}}'
        for name, own in GUARDED.items()
    )
    return f"""// Written by mlh_driver.interfaces.lammps_plugin.constants, which says where these come from.
#pragma once
struct Units {{ const char *name; double length, energy, mass; }};
struct Alarm {{ const char *name; double limit; bool is_low; }};
constexpr Units UNITS[] = {_braced(units)};
constexpr Alarm ALARMS[] = {_braced(alarms)};
constexpr double ANGSTROM = {ANGSTROM!r}, ELECTRONVOLT = {ELECTRONVOLT!r};
constexpr int PROTOCOL = {PROTOCOL}, PATIENCE_S = {PATIENCE_S:.0f}, CONNECT_S = {CONNECT_S:.0f};
constexpr const char *UNIX_PREFIX = "{UNIX_PREFIX}";
constexpr const char *OBSERVABLES[] = {_braced(map(_quoted, OBSERVABLES))};
constexpr const char *SYMBOLS[] = {_braced(map(_quoted, chemical_symbols))};
constexpr double MASSES[] = {_braced(repr(float(mass)) for mass in atomic_masses)};
constexpr double MASS_TOLERANCE = {MASS_TOLERANCE!r};
constexpr const char *TYPE_WITHOUT_MODEL = "{TYPE_WITHOUT_MODEL}";
constexpr const char *HARMLESS = R"re({HARMLESS.pattern})re";
constexpr const char *WITHOUT_MODEL = R"re({WITHOUT_MODEL.pattern})re";
"""


def _braced(items: Iterable[str]) -> str:
    return "{" + ", ".join(items) + "}"


def _quoted(text: str) -> str:
    return f'"{text}"'

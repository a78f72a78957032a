"""Published values of silica glass, to be seen beside those of a structure: ranges, not limits to pass."""

from __future__ import annotations

from dataclasses import dataclass

from ase import Atoms


@dataclass(frozen=True)
class Published:
    """A range and where it comes from."""

    low: float
    high: float
    source: str

    def __str__(self) -> str:
        low, high = f"{self.low:.4g}", f"{self.high:.4g}"
        return low if low == high else f"{low} - {high}"


GRIMLEY = "neutron diffraction, Grimley et al. 1990"
RANDOM_NETWORK = "continuous random network, Zachariasen 1932"

#: Of O to Si, within which a structure counts as silica; a few vacancies are.
SILICA_RATIO = (1.9, 2.1)

#: By the names of :meth:`mlh_driver.analysis.Structure.figures`.
PUBLISHED = {
    "density (g/cm3)": Published(2.200, 2.206, "experiment, tabulated in PMC11041661"),
    "Si-O (Å)": Published(1.604, 1.612, GRIMLEY),
    "O-O (Å)": Published(2.620, 2.632, GRIMLEY),
    "Si-Si (Å)": Published(3.08, 3.08, GRIMLEY),
    "Si-O-Si (deg)": Published(144, 151, "Mozzi and Warren 1969 (maximum); Mauri et al., PRB 62, R4786"),
    "Si-O-Si, width (deg)": Published(11, 11, "Mauri et al., PRB 62, R4786"),
    "O-Si-O (deg)": Published(109.5, 109.5, "regular tetrahedron"),
    "O-Si-O, width (deg)": Published(4, 5, "simulations"),
    "first sharp diffraction peak (1/Å)": Published(1.52, 1.52, "diffraction"),
    "Si with 4 O": Published(1, 1, RANDOM_NETWORK),
    "O with 2 Si": Published(1, 1, RANDOM_NETWORK),
    "most frequent ring (Si)": Published(6, 6, "simulations, in which rings of 5 to 7 Si dominate"),
}


def published_for(atoms: Atoms) -> dict[str, Published]:
    """``PUBLISHED`` for a structure of SiO2, nothing for others."""
    silicon, oxygen = (int((atoms.symbols == element).sum()) for element in ("Si", "O"))
    low, high = SILICA_RATIO
    is_silica = silicon + oxygen == len(atoms) and low * silicon <= oxygen <= high * silicon
    return PUBLISHED if is_silica else {}

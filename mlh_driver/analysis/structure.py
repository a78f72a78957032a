"""Everything about the structure of a glass or a melt of SiO2 in one place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from mlh_driver.analysis.angles import Angles, bond_angles
from mlh_driver.analysis.coordination import Coordination, coordination
from mlh_driver.analysis.distribution import RadialDistribution, radial_distribution
from mlh_driver.analysis.network import OXYGEN, SI_O_BOND_A, SILICON, Network
from mlh_driver.analysis.rings import primitive_rings
from mlh_driver.system import Array, mass_density


@dataclass(frozen=True)
class Structure:
    """Structure of the frames that :func:`summary` was given; means are over all of them.

    density_g_cm3: mass density
    distribution:  g(r) by pair
    bond_A:        up to which distance Si and O count as bonded, in Å
    bonds_A:       (B,) length of each Si-O bond in Å
    coordination:  shares and numbers of neighbors
    si_o_si:       angles around O; they span the Si-Si distances of the first shell
    o_si_o:        angles around Si; they span the O-O distances of the first shell
    rings:         primitive rings per frame, by size in Si
    """

    density_g_cm3: float
    distribution: RadialDistribution
    bond_A: float
    bonds_A: Array
    coordination: Coordination
    si_o_si: Angles
    o_si_o: Angles
    rings: dict[int, float]

    def figures(self) -> dict[str, float]:
        """The numbers to report, by name and unit; NaN where there is nothing to take the mean of."""
        of_silicon, of_oxygen = self.coordination.share_of_silicon, self.coordination.share_of_oxygen
        figures = {
            "density (g/cm3)": self.density_g_cm3,
            "Si-O (Å)": _mean(self.bonds_A),
            "O-O (Å)": _mean(self.o_si_o.spanned_A),
            "Si-Si (Å)": _mean(self.si_o_si.spanned_A),
            "first minimum of g(r), Si-O (Å)": self.distribution.first_minimum("O-Si"),
            "Si-O-Si (deg)": _mean(self.si_o_si.degrees),
            "Si-O-Si, width (deg)": _width(self.si_o_si.degrees),
            "O-Si-O (deg)": _mean(self.o_si_o.degrees),
            "O-Si-O, width (deg)": _width(self.o_si_o.degrees),
        }
        figures |= {f"Si with {n} O": of_silicon(n) for n in (3, 4, 5)}
        figures |= {f"O with {n} Si": of_oxygen(n) for n in (1, 2, 3)}
        figures |= {
            "edge-sharing pairs of Si": self.coordination.edge_sharing,
            "Si-Si bonds": self.coordination.si_si_bonds,
            "O-O bonds": self.coordination.o_o_bonds,
            "most frequent ring (Si)": max(self.rings, key=lambda n: self.rings[n], default=np.nan),
        }
        return figures


def summary(frames: Sequence[Atoms], bond_A: float = SI_O_BOND_A) -> Structure:
    """Analyze frames of one structure; Si and O up to ``bond_A`` apart are bonded.

    Raises InputError for no frames, frames of different atoms, or such that are not periodic SiO2.
    """
    distribution = radial_distribution(frames)
    networks = [Network.of(atoms, bond_A) for atoms in frames]
    rings: Counter[int] = Counter()
    for network in networks:
        rings.update(primitive_rings(network))
    return Structure(
        density_g_cm3=float(np.mean([mass_density(atoms) for atoms in frames])),
        distribution=distribution,
        bond_A=bond_A,
        bonds_A=np.concatenate([np.linalg.norm(network.vectors, axis=1) for network in networks]),
        coordination=coordination(networks),
        si_o_si=bond_angles(networks, OXYGEN),
        o_si_o=bond_angles(networks, SILICON),
        rings={size: count / len(frames) for size, count in sorted(rings.items())},
    )


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else np.nan


def _width(values: Array) -> float:
    """Standard deviation."""
    return float(values.std()) if len(values) else np.nan

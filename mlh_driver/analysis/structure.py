"""Everything about the structure of a glass or a melt in one place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from mlh_driver.analysis.angles import Angles, bond_angles
from mlh_driver.analysis.coordination import Coordination, coordination
from mlh_driver.analysis.distribution import RadialDistribution, radial_distribution
from mlh_driver.analysis.network import OXYGEN, SI_O_BOND_A, SILICON, Network, has_network
from mlh_driver.analysis.published import Published, published_for
from mlh_driver.analysis.rings import primitive_rings
from mlh_driver.analysis.structure_factor import StructureFactor, structure_factor
from mlh_driver.system import Array, mass_density


@dataclass(frozen=True)
class SiliconOxygen:
    """The Si-O network of frames; means are over all of them.

    bond_A:        up to which distance Si and O count as bonded, in Å
    bonds_A:       (B,) length of each Si-O bond in Å
    coordination:  shares and numbers of neighbors
    si_o_si:       angles around O; they span the Si-Si distances of the first shell
    o_si_o:        angles around Si; they span the O-O distances of the first shell
    rings:         primitive rings per frame, by size in Si
    """

    bond_A: float
    bonds_A: Array
    coordination: Coordination
    si_o_si: Angles
    o_si_o: Angles
    rings: dict[int, float]

    @classmethod
    def of(cls, frames: Sequence[Atoms], bond_A: float) -> SiliconOxygen:
        networks = [Network.of(atoms, bond_A) for atoms in frames]
        rings: Counter[int] = Counter()
        for network in networks:
            rings.update(primitive_rings(network))
        return cls(
            bond_A=bond_A,
            bonds_A=np.concatenate([np.linalg.norm(network.vectors, axis=1) for network in networks]),
            coordination=coordination(networks),
            si_o_si=bond_angles(networks, OXYGEN),
            o_si_o=bond_angles(networks, SILICON),
            rings={size: count / len(frames) for size, count in sorted(rings.items())},
        )

    def figures(self) -> dict[str, float]:
        """The numbers to report, by name and unit; NaN where there is nothing to take the mean of."""
        of_silicon, of_oxygen = self.coordination.share_of_silicon, self.coordination.share_of_oxygen
        figures = {
            "Si-O (Å)": _mean(self.bonds_A),
            "O-O (Å)": _mean(self.o_si_o.spanned_A),
            "Si-Si (Å)": _mean(self.si_o_si.spanned_A),
            "Si-O-Si (deg)": _mean(self.si_o_si.degrees),
            "Si-O-Si, width (deg)": _width(self.si_o_si.degrees),
            "O-Si-O (deg)": _mean(self.o_si_o.degrees),
            "O-Si-O, width (deg)": _width(self.o_si_o.degrees),
        }
        figures |= {f"Si with {n} O": of_silicon(n) for n in range(2, 7)}
        figures |= {
            "O with 0 Si": of_oxygen(0),
            "O with 1 Si, non-bridging": of_oxygen(1),
            "O with 2 Si": of_oxygen(2),
            "O with 3 Si": of_oxygen(3),
            "edge-sharing pairs of Si": self.coordination.edge_sharing,
            "Si-Si bonds": self.coordination.si_si_bonds,
            "O-O bonds": self.coordination.o_o_bonds,
            "most frequent ring (Si)": max(self.rings, key=lambda n: self.rings[n], default=np.nan),
        }
        return figures


@dataclass(frozen=True)
class Structure:
    """Structure of the frames that :func:`summary` was given; means are over all of them.

    formula:       of a frame
    n_frames:      how many there are
    density_g_cm3: mass density
    distribution:  g(r) by pair
    factor:        S(q), as neutrons see it and by pair
    network:       of Si and O, None where one of them is missing
    published:     values of real glass by the names of the figures, for SiO2 alone
    """

    formula: str
    n_frames: int
    density_g_cm3: float
    distribution: RadialDistribution
    factor: StructureFactor
    network: SiliconOxygen | None
    published: Mapping[str, Published]

    def figures(self) -> dict[str, float]:
        """The numbers to report, by name and unit; NaN where there is nothing to take the mean of."""
        figures = {"density (g/cm3)": self.density_g_cm3}
        if self.network is not None:
            figures["first minimum of g(r), Si-O (Å)"] = self.distribution.first_minimum("O-Si")
            figures["first sharp diffraction peak (1/Å)"] = self.factor.first_peak()
            figures |= self.network.figures()
        return figures

    def remarks(self) -> list[str]:
        """What has to be known to read the figures."""
        remarks = []
        if self.network is not None and not self.factor.resolves_first_peak():
            remarks.append(
                f"{self.formula}: S(q) exists on the cell's own wave vectors only, of which "
                f"{self.factor.values_at_first_peak()} lengths lie between 1.2 and 1.7 1/Å: the first sharp "
                "diffraction peak cannot be resolved in so small a cell"
            )
        if self.network is not None:
            remarks.append(
                f"{self.formula}: rings are primitive (no shortcut between any two of their atoms) on the "
                f"unwrapped network; Si and O up to {self.network.bond_A} Å apart are bonded"
            )
        return remarks


def summary(frames: Sequence[Atoms], bond_A: float = SI_O_BOND_A) -> Structure:
    """Analyze frames of one structure; Si and O up to ``bond_A`` apart are bonded.

    Raises InputError for no frames, frames of different atoms, or such that are not periodic.
    """
    distribution = radial_distribution(frames)
    return Structure(
        formula=frames[0].get_chemical_formula(),
        n_frames=len(frames),
        density_g_cm3=float(np.mean([mass_density(atoms) for atoms in frames])),
        distribution=distribution,
        factor=structure_factor(frames),
        network=SiliconOxygen.of(frames, bond_A) if has_network(frames[0]) else None,
        published=published_for(frames[0]),
    )


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else np.nan


def _width(values: Array) -> float:
    """Standard deviation."""
    return float(values.std()) if len(values) else np.nan

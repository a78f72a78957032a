"""How many neighbors atoms have, and bonds that a perfect network of SiO2 lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from vesin import ase_neighbor_list

from mlh_driver.analysis.network import OXYGEN, SILICON, Network

#: In Å. Bonds between like atoms: of a relaxed vacancy 2.3 to 2.6, of a peroxide 1.5.
SI_SI_BOND_A = 2.7
O_O_BOND_A = 1.8


@dataclass(frozen=True)
class Coordination:
    """Means over frames. In a perfect network every Si has four O, every O two Si, and nothing else occurs.

    silicon:      share of the Si with 0, 1, 2, ... O
    oxygen:       share of the O with 0, 1, 2, ... Si: one is a non-bridging O, two a bridging one
    edge_sharing: number of pairs of Si with two or more O in common
    si_si_bonds:  number of pairs of Si up to 2.7 Å apart without an O in common
    o_o_bonds:    number of pairs of O up to 1.8 Å apart
    """

    silicon: tuple[float, ...]
    oxygen: tuple[float, ...]
    edge_sharing: float
    si_si_bonds: float
    o_o_bonds: float

    def share_of_silicon(self, n_oxygen: int) -> float:
        return self.silicon[n_oxygen] if n_oxygen < len(self.silicon) else 0.0

    def share_of_oxygen(self, n_silicon: int) -> float:
        return self.oxygen[n_silicon] if n_silicon < len(self.oxygen) else 0.0


def coordination(networks: Sequence[Network]) -> Coordination:
    """Coordination, with the bonds of the networks."""
    bridges = [_bridges(network) for network in networks]
    frames = list(zip(networks, bridges, strict=True))
    return Coordination(
        silicon=_shares([network.counts(SILICON) for network in networks]),
        oxygen=_shares([network.counts(OXYGEN) for network in networks]),
        edge_sharing=float(np.mean([sum(n > 1 for n in links.values()) / 2 for links in bridges])),
        si_si_bonds=float(np.mean([_silicon_bonds(network.atoms, links) for network, links in frames])),
        o_o_bonds=float(
            np.mean([_pairs(network.atoms, OXYGEN, O_O_BOND_A)[0].size / 2 for network in networks])
        ),
    )


def _shares(counts: list[NDArray[np.int64]]) -> tuple[float, ...]:
    """Share of each number of neighbors over all atoms of all frames."""
    numbers = np.concatenate(counts)
    return tuple((np.bincount(numbers) / len(numbers)).tolist())


def _bridges(network: Network) -> Counter[tuple[int, ...]]:
    """Number of common O of each ordered pair of Si, by (Si, Si, cell vectors to the image of the second)."""
    links: Counter[tuple[int, ...]] = Counter()
    for bonds in network.around(OXYGEN):
        for a in bonds:
            for b in bonds[bonds != a]:
                shift = network.shifts[a] - network.shifts[b]
                links[int(network.silicon[a]), int(network.silicon[b]), *shift.tolist()] += 1
    return links


def _silicon_bonds(atoms: Atoms, bridges: Counter[tuple[int, ...]]) -> float:
    """Number of pairs of Si that are near and not linked by an O."""
    i, j, shifts = _pairs(atoms, SILICON, SI_SI_BOND_A)
    ordered = zip(i.tolist(), j.tolist(), shifts.tolist(), strict=True)
    return sum((a, b, *shift) not in bridges for a, b, shift in ordered) / 2


def _pairs(atoms: Atoms, number: int, reach_A: float) -> tuple[NDArray[np.int64], ...]:
    """Ordered pairs of one element within reach: atoms i and j, and the cell vectors to the image of j."""
    i, j, shifts = ase_neighbor_list("ijS", atoms, reach_A)
    like = (atoms.numbers[i] == number) & (atoms.numbers[j] == number)
    return i[like], j[like], shifts[like]

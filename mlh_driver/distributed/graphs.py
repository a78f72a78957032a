"""Structure -> the graph of a part: all pairs with an own atom, and those of its through-bond paths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from mlh_driver.basis import OrbitalBasis
from mlh_driver.distributed.part import Part
from mlh_driver.distributed.partition import around, bisected
from mlh_driver.distributed.ranks import Ranks
from mlh_driver.graph import Graph, GraphBuilder, PairList, check_crowding
from mlh_driver.network.network import NetworkSettings
from mlh_driver.system import System, displacements

#: Atoms keep their owner until one has moved this far: no result depends on it, only how near parts keep
#: together.
RESETTLE_A = 3.0


class SharedGraphs(GraphBuilder):
    """Makes the graph of this process's part; all processes keep their lists, or renew them, together.

    A path of two short bonds leads from an own atom over another one to a third, so the halo goes as far as
    the cutoff or two short bonds, and the second bond may join two atoms of the halo.
    """

    part: Part

    def __init__(self, basis: OrbitalBasis, settings: NetworkSettings, ranks: Ranks) -> None:
        super().__init__(basis, settings.pair_cutoff_A)
        self._ranks, self._hop = ranks, settings.hop_cutoff_A
        self._settled: System | None = None

    def build(self, system: System, dtype: torch.dtype = torch.float64) -> Graph:
        """See :class:`~mlh_driver.graph.GraphBuilder`; there must be an atom for each process."""
        self.basis.species_index(system.numbers)
        ranks = self._ranks
        if self._settled is None or not _is_near(self._settled, system):
            check_crowding(system, self.cutoff + self.skin)
            self._settle(system, bisected(system, ranks.size))
            self._settled = system
        elif ranks.anywhere(self._reusable_images(self._local(system)) is None):
            self._settle(system, self.part.owner)
        with ranks.together():
            graph = super().build(self._local(system), dtype)
        return graph

    def _settle(self, system: System, owner: NDArray[np.int64]) -> None:
        own = np.flatnonzero(owner == self._ranks.rank)
        self.part = Part(self._ranks, owner, around(system, own, max(self._ranges()) + self.skin))
        self._list = None

    def _local(self, system: System) -> System:
        atoms = self.part.atoms
        return System(system.numbers[atoms], system.positions[atoms], system.cell)

    def _ranges(self) -> tuple[float, ...]:
        return self.cutoff, self._hop, 2.0 * self._hop

    def _search(self, system: System, species: NDArray[np.int64]) -> PairList:
        pairs, n_own = super()._search(system, species), self.part.n_own
        i, j = pairs.i, pairs.j
        vectors = system.positions[j] - system.positions[i] + pairs.shifts @ system.cell
        short = np.linalg.norm(vectors, axis=1) < self._hop + self.skin
        with_own = np.minimum(i, j) < n_own
        beside = np.zeros(len(system), dtype=bool)
        beside[i[short & with_own]] = beside[j[short & with_own]] = True
        kept = with_own | (short & (beside[i] | beside[j]))
        names = ("i", "j", "shifts", "kinds")
        return replace(pairs, **{name: getattr(pairs, name)[kept] for name in names})


def _is_near(settled: System, system: System) -> bool:
    """Whether ``system`` has the same atoms at nearly the same places."""
    if not np.array_equal(settled.numbers, system.numbers):
        return False
    return bool(np.linalg.norm(displacements(settled, system)[2], axis=1).max() < RESETTLE_A)

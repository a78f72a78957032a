"""The rows of a sparse matrix that one of several processes has.

A process has the rows of its own atoms, and of the rows of the atoms in their columns what lies in these
columns: a symmetric pattern like that of a whole matrix, of a part of its atoms, own ones first. A product of
matrices is computed in the own rows, for which everything is at hand, and the other blocks come from their
owners: one exchange. Of a block and its transpose one is computed, in the formula of the whole matrix, whose
order of atoms tells which; where they are in different parts, the two take turns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from vesin import NeighborList

from mlh_driver.distributed.part import Part
from mlh_driver.distributed.partition import around
from mlh_driver.distributed.ranks import Ints
from mlh_driver.hamiltonian import BlockMatrix
from mlh_driver.solvers.sparse import Matrix, SparsePattern, spatial_order
from mlh_driver.system import Array, System


class SharedPattern(SparsePattern):
    """A :class:`~mlh_driver.solvers.sparse.SparsePattern` of which each process has a part.

    Matrices have the blocks of own rows first, then the rest. ``distances`` are those of own rows. Blocks are
    known between processes by keys, row times N plus column, in numbers of atoms.
    """

    def __init__(self, system: System, radius: float, like: BlockMatrix, part: Part) -> None:
        self._ranks, self._owner = part.ranks, part.owner
        place = np.empty(len(system), dtype=np.int64)
        place[spatial_order(system)] = np.arange(len(system))
        own = part.atoms[: part.n_own]
        own = own[np.argsort(place[own])]
        keys, distances = self._own_blocks(system, radius, like.index.numpy(), own)
        columns = np.unique(keys % len(system))
        halo = columns[part.owner[columns] != part.ranks.rank]
        order = np.concatenate([own, halo[np.argsort(place[halo])]])
        self._place(system, radius, like, order)
        self._sort(np.concatenate([keys, self._rows_of(halo, keys)]), len(own))
        self.distances = distances[
            np.lexsort((self._rank[keys % len(system)], self._rank[keys // len(system)]))
        ]
        self.n_blocks = int(self._ranks.total(len(keys)))
        self._order, self._places = order, place[order]
        self._assign(self._find_transposes())

    def _own_blocks(
        self, system: System, radius: float, like: NDArray[np.int64], own: Ints
    ) -> tuple[Ints, Array]:
        """Sorted keys of the blocks in own rows, and the distance of each.

        A block at the very radius may be within it in one process and not in another, so each tells the
        others which it has.
        """
        n, mine = len(system), self._owner == self._ranks.rank
        atoms = np.concatenate([own, around(system, own, radius)])
        i, j, distances = NeighborList(cutoff=radius, full_list=True).compute(
            points=system.positions[atoms], box=system.cell, periodic=True, quantities="ijd"
        )
        i, j = atoms[i.astype(np.int64)], atoms[j.astype(np.int64)]
        found = mine[i]
        i, j = np.concatenate([i[found], *like, own]), np.concatenate([j[found], *like[::-1], own])
        distances = np.concatenate([distances[found], np.full(like.size, np.inf), np.zeros(len(own))])
        i, j, distances = (values[mine[i]] for values in (i, j, distances))
        theirs = [np.unique((j * n + i)[self._owner[j] == rank]) for rank in range(self._ranks.size)]
        theirs[self._ranks.rank] = np.empty(0, dtype=np.int64)
        told = np.concatenate(self._ranks.swap(theirs))
        keys = np.concatenate([i * n + j, told])
        distances = np.concatenate([distances, np.full(len(told), np.inf)])
        nearest_first = np.lexsort((distances, keys))
        keys, first = np.unique(keys[nearest_first], return_index=True)
        return keys, distances[nearest_first][first]

    def _rows_of(self, halo: Ints, keys: Ints) -> Ints:
        """Keys of the blocks in the rows of the halo whose columns are here; own ones are given."""
        n, ranks = self.n_atoms, self._ranks
        asked = ranks.swap([halo[self._owner[halo] == rank] for rank in range(ranks.size)])
        found = np.concatenate(ranks.swap([keys[np.isin(keys // n, rows)] for rows in asked]))
        return found[self._rank[found % n] >= 0]

    def _sort(self, keys: Ints, n_own: int) -> None:
        """Compressed rows."""
        rows, columns = self._rank[keys // self.n_atoms], self._rank[keys % self.n_atoms]
        order = np.lexsort((columns, rows))
        self._columns = columns[order].astype(np.int32)
        self._starts = np.searchsorted(rows[order], np.arange(len(self._unit) + 1))
        self._own_starts = self._starts[: n_own + 1]

    def _assign(self, rows: Ints) -> None:
        """Who computes which blocks, and who gets them from whom."""
        columns, n_own = self._columns.astype(np.int64), len(self._own_starts) - 1
        first, second = self._places[rows], self._places[columns]
        upper = first <= second
        owners = self._owner[self._order]
        joins = owners[rows] != owners[columns]
        computed = np.where(joins & ((first + second) % 2 == 1), ~upper, upper)
        own = rows < n_own
        self._mirrored = ~computed
        with self._ranks.together():
            self._terms = (self._sums(own & computed & upper), self._sums(own & computed & ~upper))
        got = np.flatnonzero(computed & ~own)
        keys = self._order[rows[got]] * self.n_atoms + self._order[columns[got]]
        self._blocks = self._ranks.exchange(keys, owners[rows[got]], got, self._slots)
        halo = np.arange(n_own, len(self._order))
        self._vectors = self._ranks.exchange(
            self._order[halo], owners[halo], halo, lambda atoms: self._rank[atoms]
        )

    @property
    def sent_blocks(self) -> int:
        """How many blocks this process sends after each product, counted once for each that gets them."""
        return sum(map(len, self._blocks.sends.values()))

    def _slots(self, keys: Ints) -> Ints:
        return self._find(self._rank[keys // self.n_atoms], self._rank[keys % self.n_atoms])

    def find(self, index: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """As in the whole pattern; None in all processes if a block has no place in one of them."""
        rows, columns = self._rank[index]
        n_own = len(self._own_starts) - 1
        known = (rows >= 0) & (rows < n_own) & (columns >= 0)
        slots = self._find(rows, columns) if known.all() else np.array([-1])
        of_other_atoms = int((index[0] == index[1]).sum()) != n_own
        missing = of_other_atoms or bool((slots < 0).any())
        return None if self._ranks.anywhere(missing) else slots

    def total(self, values: Any) -> Any:
        return self._ranks.total(values)

    def random_vector(self, dtype: type = np.float32) -> Matrix:
        """The own rows of that of the whole pattern."""
        n_own = len(self._own_starts) - 1
        everywhere = np.random.default_rng(0).normal(size=(self.n_atoms, self.n))
        return (everywhere[self._places[:n_own]] * self._unit[:n_own]).astype(dtype)

    def _complete(self, values: Matrix) -> None:
        self._blocks.fill(values)
        super()._complete(values)

    def _spread(self, x: Matrix) -> Matrix:
        local = np.empty((len(self._unit), self.n), x.dtype)
        local[: len(x)] = x
        self._vectors.fill(local)
        return local

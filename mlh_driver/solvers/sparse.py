"""Block-sparse matrices in a frozen pattern: pairs of atoms within a radius, in the order of a Morton curve.

Products keep the pattern. That truncates them, by an amount that the radius controls, but the pattern does
not move with the numbers: as long as it is kept, results are smooth functions of the Hamiltonian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from vesin import NeighborList

from mlh_driver.errors import SolverError
from mlh_driver.hamiltonian import BlockMatrix
from mlh_driver.solvers import kernels
from mlh_driver.system import Array, System, fractional_positions

#: Of the boxes that hold atoms which follow each other in a matrix.
BOX_A = 5.0

Matrix = NDArray[np.floating]
"""(blocks, n * n), the values of a block-sparse matrix in some pattern."""

Operator = Callable[[Matrix], Matrix]
"""A matrix as what it makes of a vector (M, n)."""


@dataclass(frozen=True)
class Terms:
    """The blocks of a product that are computed, and the products of blocks that each of them is the sum of.

    See :func:`~mlh_driver.solvers.kernels.count_terms` and its like.
    """

    wanted: NDArray[np.bool_]
    n_rows: int
    first: NDArray[np.int64]
    terms: NDArray[np.uint16]

    @classmethod
    def of(
        cls,
        starts: NDArray[np.int64],
        columns: NDArray[np.int32],
        wanted: NDArray[np.bool_],
        n_rows: int,
    ) -> Terms:
        first = np.cumsum(kernels.count_terms(starts, columns, wanted, n_rows))
        return cls(wanted, n_rows, first, kernels.list_terms(starts, columns, wanted, n_rows, first))


class SparsePattern:
    """Which blocks of a symmetric matrix exist, and the operations on matrices of that pattern.

    It holds all pairs of atoms within ``radius`` Å and those of ``like``, whose padding stays zero in every
    matrix of the pattern. ``distances`` has the distance in Å of every block (infinite if beyond the radius).
    """

    def __init__(self, system: System, radius: float, like: BlockMatrix) -> None:
        order = spatial_order(system)
        self._place(system, radius, like, order)
        self._starts, self._columns, self.distances = self._rows(system, like.index.cpu().numpy())
        self.n_blocks = len(self._columns)
        rows = self._find_transposes()
        self._own_starts = self._starts
        self._mirrored = self._columns < rows
        self._terms: tuple[Terms, ...] = (self._sums(~self._mirrored),)

    def _place(self, system: System, radius: float, like: BlockMatrix, order: NDArray[np.int64]) -> None:
        """Give the atoms ``order`` their rows, one after the other."""
        n = self.n = like.blocks.shape[-1]
        self.radius, self.n_orbitals, self.n_atoms = radius, like.n_orbitals, len(system)
        self._rank = np.full(self.n_atoms, -1, dtype=np.int64)
        self._rank[order] = np.arange(len(order))
        self._unit = (np.arange(n) < like.sizes.cpu().numpy()[order, None]).astype(float)
        self._kernels = kernels.block_kernels(n)

    def _find_transposes(self) -> NDArray[np.int64]:
        """Where the transposes and the diagonal stand; returns the row of each block."""
        every = np.arange(len(self._starts) - 1)
        rows = np.repeat(every, np.diff(self._starts))
        self._transposes = self._find(self._columns.astype(np.int64), rows)
        self._diagonal = self._find(every, every)
        return rows

    def _sums(self, wanted: NDArray[np.bool_]) -> Terms:
        longest = int(np.diff(self._starts).max())
        if longest > kernels.MAX_BLOCKS_PER_ROW:
            raise SolverError(
                f"{longest} neighbors within {self.radius:.1f} Å are too many for a sparse solver"
            )
        return Terms.of(self._starts, self._columns, wanted, len(self._own_starts) - 1)

    def _rows(
        self, system: System, extra: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], Array]:
        """Starts of the rows, sorted columns and distances, in the spatial order."""
        n_atoms = len(system)
        i, j, distances = NeighborList(cutoff=self.radius, full_list=True).compute(
            points=system.positions, box=system.cell, periodic=True, quantities="ijd"
        )
        rows = self._rank[np.concatenate([i.astype(np.int64), *extra, np.arange(n_atoms)])]
        columns = self._rank[np.concatenate([j.astype(np.int64), *extra[::-1], np.arange(n_atoms)])]
        far = np.full(extra.size, np.inf)
        distances = np.concatenate([distances, far, np.zeros(n_atoms)])
        keys = rows * n_atoms + columns
        nearest_first = np.lexsort((distances, keys))
        keys, first = np.unique(keys[nearest_first], return_index=True)
        rows, columns = np.divmod(keys, n_atoms)
        starts = np.searchsorted(rows, np.arange(n_atoms + 1))
        return starts, columns.astype(np.int32), distances[nearest_first][first]

    def _find(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
        return kernels.find_slots(self._starts, self._columns, rows, columns)

    @property
    def is_complete(self) -> bool:
        """Whether every pair of atoms has a block, so that nothing is truncated."""
        return self.n_blocks == self.n_atoms**2

    def find(self, index: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Where the blocks (2, K) of a :class:`BlockMatrix` stand; None if one of them has no place."""
        slots = self._find(self._rank[index[0]], self._rank[index[1]])
        return None if (slots < 0).any() else slots

    def load(self, matrix: BlockMatrix, slots: NDArray[np.int64], dtype: type) -> Matrix:
        """The values of a matrix whose blocks stand at ``slots``."""
        blocks: Matrix = matrix.blocks.detach().cpu().numpy().astype(dtype)
        values: Matrix = np.zeros((len(self._columns), self.n * self.n), dtype)
        values[self._transposes[slots]] = blocks.transpose(0, 2, 1).reshape(len(slots), -1)
        values[slots] = blocks.reshape(len(slots), -1)
        self._complete(values)
        return values

    def _complete(self, values: Matrix) -> None:
        """Fill in the blocks that are not computed here, given those that are."""
        self._kernels.mirror(self._mirrored, self._transposes, values)

    def store(self, values: Matrix, slots: NDArray[np.int64], like: BlockMatrix) -> BlockMatrix:
        """The blocks at ``slots`` as a matrix of the pattern of ``like``."""
        blocks = values[slots].reshape(like.blocks.shape).astype(np.float64)
        return like.with_blocks(torch.from_numpy(blocks).to(like.blocks.device))

    def product(
        self,
        a: Matrix,
        b: Matrix,
        scale: float = 1.0,
        beta: float = 0.0,
        c: Matrix | None = None,
        shift: float = 0.0,
        out: Matrix | None = None,
    ) -> Matrix:
        """scale a b + beta c + shift, for commuting symmetric matrices; ``out`` is overwritten if given.

        Without commutation the result is the upper half of a b, mirrored; see :meth:`anticommutator`.
        """
        out = np.empty_like(a) if out is None else out
        scalar = a.dtype.type
        for sums, (left, right) in zip(self._terms, ((a, b), (b, a)), strict=False):
            self._kernels.multiply(
                self._starts, self._columns, sums.wanted, sums.n_rows, sums.first, sums.terms,
                left, self._kernels.transpose(right), scalar(scale), a if c is None else c, scalar(beta), out,
            )  # fmt: skip
        self._complete(out)
        return self.add_unit(out, shift)

    def anticommutator(self, a: Matrix, b: Matrix) -> Matrix:
        """a b + b a, for any two symmetric matrices."""
        return self.product(a, b, c=self.product(b, a), beta=1.0)

    def sandwich(self, a: Matrix, b: Matrix) -> Matrix:
        """a b a for symmetric a and b, by a b a = ({a, {a, b}} - {a a, b}) / 2."""
        inner = self.anticommutator(a, self.anticommutator(a, b))
        return 0.5 * (inner - self.anticommutator(self.product(a, a), b))

    def add_unit(self, a: Matrix, value: float) -> Matrix:
        """Add a multiple of the unit matrix in place."""
        n = self.n
        a[self._diagonal, :: n + 1] += (value * self._unit).astype(a.dtype)
        return a

    def unit(self, dtype: type) -> Matrix:
        """The unit matrix."""
        return self.add_unit(np.zeros((len(self._columns), self.n * self.n), dtype), 1.0)

    def total(self, values: Any) -> Any:
        """Sum of numbers or arrays over the processes that share the matrices; here there is one."""
        return values

    def trace(self, a: Matrix) -> float:
        own = self._diagonal[: len(self._own_starts) - 1]
        return float(self.total(a[own, :: self.n + 1].sum(dtype=np.float64)))

    def dot(self, a: Matrix, b: Matrix) -> float:
        """Tr[a b], exact: the diagonal of a product needs no block outside the pattern."""
        return float(self.total(kernels.row_dots(self._own_starts, a, b).sum()))

    def operator(self, a: Matrix) -> Operator:
        """The function x -> a x of vectors (M, n), in the order of the pattern; zero blocks cost nothing.

        M counts the rows that this process has: all of them, if it is alone.
        """
        filled = np.asarray(a[: self._own_starts[-1]].any(axis=1))
        starts = np.concatenate([[0], np.cumsum(filled)])[self._own_starts]
        columns, blocks = self._columns[: len(filled)][filled], a[: len(filled)][filled]
        return lambda x: self._kernels.apply(starts, columns, blocks, self._spread(x))

    def _spread(self, x: Matrix) -> Matrix:
        """The vector (M, n) in all columns of the pattern."""
        return x

    def random_vector(self, dtype: type = np.float32) -> Matrix:
        """A reproducible random vector (M, n), zero on padding."""
        return (np.random.default_rng(0).normal(size=self._unit.shape) * self._unit).astype(dtype)

    def inner(self, x: Matrix, y: Matrix) -> float:
        """The product of two vectors (M, n)."""
        return float(self.total(np.vdot(x, y)))

    def normalized(self, x: Matrix) -> Matrix:
        """A vector divided by its norm."""
        return x / x.dtype.type(self.inner(x, x) ** 0.5)


def spatial_order(system: System) -> NDArray[np.int64]:
    """(N,) atoms along a Morton curve through boxes of some 5 Å; it keeps neighbors together."""
    lengths = np.linalg.norm(system.cell, axis=1)
    boxes = (fractional_positions(system) * np.maximum(1, np.round(lengths / BOX_A))).astype(np.int64)
    code = np.zeros(len(system), dtype=np.int64)
    for bit in range(16):
        for axis in range(3):
            code |= ((boxes[:, axis] >> bit) & 1) << (3 * bit + axis)
    return np.argsort(code, kind="stable")

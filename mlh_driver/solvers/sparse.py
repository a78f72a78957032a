"""Block-sparse matrices in a frozen pattern: pairs of atoms within a radius, in the order of a Morton curve.

Products keep the pattern. That truncates them, by an amount that the radius controls, but the pattern does
not move with the numbers: as long as it is kept, results are smooth functions of the Hamiltonian.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from vesin import NeighborList

from mlh_driver.errors import SolverError
from mlh_driver.hamiltonian import BlockMatrix
from mlh_driver.solvers import kernels
from mlh_driver.system import Array, System

Matrix = NDArray[np.floating]
"""(blocks, n * n), the values of a block-sparse matrix in some pattern."""

Operator = Callable[[Matrix], Matrix]
"""A matrix as what it makes of a vector (N, n)."""


class SparsePattern:
    """Which blocks of a symmetric matrix exist, and the operations on matrices of that pattern.

    It holds all pairs of atoms within ``radius`` Å and those of ``like``, whose padding stays zero in every
    matrix of the pattern. ``distances`` has the distance in Å of every block (infinite if beyond the radius).
    """

    def __init__(self, system: System, radius: float, like: BlockMatrix) -> None:
        sizes, n = like.sizes.cpu().numpy(), like.blocks.shape[-1]
        self.radius, self.n, self.n_orbitals = radius, n, like.n_orbitals
        self.n_atoms = n_atoms = len(system)
        order = spatial_order(system, cell_size=5.0)
        self._rank = np.empty(n_atoms, dtype=np.int64)
        self._rank[order] = np.arange(n_atoms)
        self._starts, self._columns, self.distances = self._rows(system, like.index.cpu().numpy())
        longest = int(np.diff(self._starts).max())
        if longest > kernels.MAX_BLOCKS_PER_ROW:
            raise SolverError(f"{longest} neighbors within {radius:.1f} Å are too many for a sparse solver")
        rows = np.repeat(np.arange(n_atoms), np.diff(self._starts))
        self._transposes = self._find(self._columns.astype(np.int64), rows)
        atoms = np.arange(n_atoms)
        self._diagonal = self._find(atoms, atoms)
        self._unit = (np.arange(n) < sizes[order, None]).astype(float)
        self._first = np.cumsum(kernels.count_terms(self._starts, self._columns))
        self._terms = kernels.list_terms(self._starts, self._columns, self._first)
        self._kernels = kernels.block_kernels(n)

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
        return len(self._columns) == len(self._rank) ** 2

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
        return values

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
        self._kernels.multiply(
            self._starts, self._columns, self._transposes, self._first, self._terms,
            a, b, scalar(scale), a if c is None else c, scalar(beta), out,
        )  # fmt: skip
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

    def trace(self, a: Matrix) -> float:
        return float(a[self._diagonal, :: self.n + 1].sum(dtype=np.float64))

    def dot(self, a: Matrix, b: Matrix) -> float:
        """Tr[a b], exact: the diagonal of a product needs no block outside the pattern."""
        return float(kernels.row_dots(self._starts, a, b).sum())

    def operator(self, a: Matrix) -> Operator:
        """The function x -> a x of vectors (N, n), in the order of the pattern; zero blocks cost nothing."""
        filled = a.any(axis=1)
        starts = np.concatenate([[0], np.cumsum(filled)])[self._starts]
        columns, blocks = self._columns[filled], a[filled]
        return lambda x: self._kernels.apply(starts, columns, blocks, x)

    def random_vector(self, dtype: type = np.float32) -> Matrix:
        """A reproducible random vector (N, n), zero on padding."""
        return (np.random.default_rng(0).normal(size=self._unit.shape) * self._unit).astype(dtype)


def spatial_order(system: System, cell_size: float) -> NDArray[np.int64]:
    """(N,) atoms along a Morton curve through boxes of about ``cell_size`` Å; it keeps neighbors together."""
    fractional = system.positions @ np.linalg.inv(system.cell) % 1.0
    lengths = np.linalg.norm(system.cell, axis=1)
    boxes = (fractional * np.maximum(1, np.round(lengths / cell_size))).astype(np.int64)
    code = np.zeros(len(system), dtype=np.int64)
    for bit in range(16):
        for axis in range(3):
            code |= ((boxes[:, axis] >> bit) & 1) << (3 * bit + axis)
    return np.argsort(code, kind="stable")

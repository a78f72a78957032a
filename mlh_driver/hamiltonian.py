"""Network blocks -> the Gamma-point Hamiltonian as a block-sparse matrix, and cotangents back.

Nothing here is larger than the number of pairs of atoms that interact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mlh_driver.network.network import Blocks
from mlh_driver.parts import WHOLE, Whole


@dataclass(frozen=True, eq=False)
class BlockMatrix:
    """A symmetric matrix of orbitals, stored as the blocks of pairs of atoms i <= j.

    index:  (2, K) atoms i <= j of each block, sorted by (i, j); every (i, i) is present
    blocks: (K, n, n), zero-padded for atoms with fewer than n orbitals; diagonal blocks are symmetric
    sizes:  (N,) number of orbitals of each atom

    Of a matrix that several processes share, each holds the rows of its own atoms: the blocks (i, j) with i
    among them, in any order, those of two own atoms once. What is said of atoms is zero for those of others.
    """

    index: Tensor
    blocks: Tensor
    sizes: Tensor

    @property
    def n_orbitals(self) -> int:
        """Order of the matrix, padding not counted."""
        return int(self.sizes.sum())

    @property
    def diagonal(self) -> Tensor:
        """(M,) where the diagonal blocks stand."""
        return torch.nonzero(self.index[0] == self.index[1])[:, 0]

    @property
    def rows(self) -> Tensor:
        """(M,) the atoms whose rows these are."""
        return self.index[0, self.diagonal]

    @property
    def orbital_mask(self) -> Tensor:
        """(N, n) which orbitals exist and are not padding."""
        return torch.arange(self.blocks.shape[-1], device=self.sizes.device) < self.sizes[:, None]

    def with_blocks(self, blocks: Tensor) -> BlockMatrix:
        """A matrix of the same pattern."""
        return replace(self, blocks=blocks)

    def plus_diagonal(self, values: Tensor) -> BlockMatrix:
        """Add (N, n) values, zero on padding, to the diagonal."""
        return self.with_blocks(self.blocks.index_add(0, self.diagonal, torch.diag_embed(values[self.rows])))

    def orbital_populations(self) -> Tensor:
        """(N, n) the diagonal of the matrix."""
        values = torch.diagonal(self.blocks[self.diagonal], dim1=1, dim2=2)
        return values.new_zeros(len(self.sizes), values.shape[1]).index_copy(0, self.rows, values)

    def atom_products(self, other: BlockMatrix) -> Tensor:
        """(N,) each atom's share of Tr[A B], the sum over its rows; both have the same pattern."""
        products = (self.blocks * other.blocks).sum(dim=(1, 2))
        i, j = self.index
        shares = products.new_zeros(len(self.sizes)).index_add(0, i, products)
        here = torch.zeros_like(self.sizes, dtype=torch.bool)
        here[self.rows] = True
        return shares.index_add(0, j, torch.where((i != j) & here[j], products, 0.0))

    def dense(self) -> Tensor:
        """(n_orbitals, n_orbitals), differentiable in the blocks."""
        n_atoms, n = len(self.sizes), self.blocks.shape[-1]
        i, j = self.index
        half = torch.where((i == j)[:, None, None], 0.5 * self.blocks, self.blocks)
        grid = half.new_zeros(n_atoms * n_atoms, n, n).index_copy(0, i * n_atoms + j, half)
        matrix = grid.reshape(n_atoms, n_atoms, n, n).transpose(1, 2).reshape(n_atoms * n, n_atoms * n)
        matrix = matrix + matrix.T
        mask = self.orbital_mask.flatten()
        return matrix if bool(mask.all()) else matrix[mask][:, mask]

    def like_dense(self, matrix: Tensor) -> BlockMatrix:
        """The blocks of a dense symmetric matrix that lie in this pattern; differentiable."""
        n_atoms, n = len(self.sizes), self.blocks.shape[-1]
        mask = self.orbital_mask.flatten()
        if not bool(mask.all()):
            orbitals = torch.nonzero(mask)[:, 0]
            padded = matrix.new_zeros(n_atoms * n, len(matrix)).index_copy(0, orbitals, matrix)
            matrix = matrix.new_zeros(n_atoms * n, n_atoms * n).index_copy(1, orbitals, padded)
        i, j = self.index
        return self.with_blocks(matrix.reshape(n_atoms, n, n_atoms, n).transpose(1, 2)[i, j])


class Assembly:
    """Where each block of a network's output goes in H; periodic images and paths add up.

    ``sizes`` (N,) is the number of orbitals of each atom, ``part`` that of the blocks.
    """

    def __init__(self, blocks: Blocks, sizes: Tensor, part: Whole = WHOLE) -> None:
        n_atoms, n_own = len(sizes), len(blocks.onsite)
        i, j = blocks.pair_index
        atoms = torch.arange(n_own, device=sizes.device)
        keys = torch.cat([torch.minimum(i, j) * n_atoms + torch.maximum(i, j), atoms * (n_atoms + 1)])
        unique, slots = torch.unique(keys, return_inverse=True)
        self._index = part.named(torch.stack([unique // n_atoms, unique % n_atoms]))
        self._slots, self._diagonal = slots[: len(i)], slots[len(i) :]
        self._swapped = (i > j)[:, None, None]
        self._images = (i == j)[:, None, None]
        self._both_here = (torch.maximum(i, j) < n_own)[:, None, None]
        self._blocks, self._sizes = blocks, sizes

    def hamiltonian(self, dtype: torch.dtype = torch.float64) -> BlockMatrix:
        """H in eV, differentiable in the blocks."""
        pairs = self._blocks.pairs.to(dtype)
        transposed = pairs.transpose(1, 2)
        pairs = torch.where(self._images, pairs + transposed, torch.where(self._swapped, transposed, pairs))
        total = pairs.new_zeros(self._index.shape[1], *pairs.shape[1:])
        total = total.index_add(0, self._slots, pairs)
        total = total.index_add(0, self._diagonal, self._blocks.onsite.to(dtype))
        return BlockMatrix(self._index, total, self._sizes)

    def cotangents(self, gradient: BlockMatrix) -> tuple[Tensor, Tensor]:
        """Derivatives with respect to the on-site and pair blocks, given dE/dH in the pattern of H.

        A pair stands for two elements of H, so its derivative is twice that of its block; of one that joins
        two parts each has one of the two.
        """
        onsite = gradient.blocks[self._diagonal]
        pairs = gradient.blocks[self._slots]
        pairs = torch.where(self._swapped, pairs.transpose(1, 2), pairs)
        pairs = torch.where(self._both_here, 2.0 * pairs, pairs)
        return onsite.to(self._blocks.onsite.dtype), pairs.to(self._blocks.pairs.dtype)

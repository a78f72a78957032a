"""Blocks -> the dense Gamma-point Hamiltonian, and cotangents of H -> cotangents of the blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from mlh_driver.network.network import Blocks


def orbital_index(sizes: Tensor, n: int) -> Tensor:
    """Where the orbitals of each atom (``sizes`` of them) stand in the zero-padded order of n per atom."""
    slots = torch.arange(len(sizes) * n, device=sizes.device).reshape(-1, n)
    return slots[torch.arange(n, device=sizes.device) < sizes[:, None]]


def assemble(blocks: Blocks, sizes: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    """Dense symmetric H, (n_orbitals, n_orbitals) in eV; blocks of periodic images are summed.

    ``sizes`` (N,) is the number of orbitals of each atom. Differentiable in the blocks.
    """
    n_atoms, n = len(sizes), blocks.onsite.shape[-1]
    i, j = blocks.pair_index
    upper = blocks.pairs.new_zeros(n_atoms * n_atoms, n, n, dtype=dtype)
    upper = upper.index_add(0, i * n_atoms + j, blocks.pairs.to(dtype))
    diagonal = torch.arange(n_atoms, device=sizes.device) * (n_atoms + 1)
    upper = upper.index_add(0, diagonal, 0.5 * blocks.onsite.to(dtype))
    matrix = upper.reshape(n_atoms, n_atoms, n, n).transpose(1, 2).reshape(n_atoms * n, n_atoms * n)
    matrix = matrix + matrix.T
    if bool((sizes == n).all()):
        return matrix
    index = orbital_index(sizes, n)
    return matrix[index][:, index]


def block_cotangents(gradient: Tensor, blocks: Blocks, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives with respect to the on-site and pair blocks, given dE/dH (symmetric, dense)."""
    n_atoms, n = len(sizes), blocks.onsite.shape[-1]
    if not bool((sizes == n).all()):
        index = orbital_index(sizes, n)
        padded = gradient.new_zeros(n_atoms * n, n_atoms * n)
        padded[index[:, None], index] = gradient
        gradient = padded
    grid = gradient.reshape(n_atoms, n, n_atoms, n).transpose(1, 2)
    atoms = torch.arange(n_atoms, device=sizes.device)
    i, j = blocks.pair_index
    return grid[atoms, atoms].to(blocks.onsite.dtype), (2.0 * grid[i, j]).to(blocks.pairs.dtype)

"""Hamiltonians that no network has made: a chain of any matrix, and a disordered solid."""

from __future__ import annotations

import numpy as np
import torch

from mlh_driver.hamiltonian import BlockMatrix
from mlh_driver.solvers import ElectronicProblem
from mlh_driver.system import System

CHAIN_STEP_A = 2.0


def block_matrix(matrix: torch.Tensor, sizes: list[int]) -> BlockMatrix:
    """A dense matrix as one that has a block for every pair of atoms."""
    n_atoms, n = len(sizes), max(sizes)
    index = torch.triu_indices(n_atoms, n_atoms)
    empty = BlockMatrix(index, torch.zeros(index.shape[1], n, n), torch.tensor(sizes))
    return empty.like_dense(matrix)


def problem(
    H: torch.Tensor, S: torch.Tensor | None, n_electrons: float, kT: float, n: int = 4
) -> ElectronicProblem:
    """Atoms of n orbitals each, on a line."""
    sizes = [n] * (len(H) // n)
    positions = np.zeros((len(sizes), 3))
    positions[:, 0] = CHAIN_STEP_A * np.arange(len(sizes))
    cell = np.diag([CHAIN_STEP_A * len(sizes), 50.0, 50.0])
    system = System(np.full(len(sizes), 14), positions, cell)
    return ElectronicProblem(
        block_matrix(H, sizes), None if S is None else block_matrix(S, sizes), n_electrons, kT, system
    )


def disordered_solid(
    shape: tuple[int, int, int] = (5, 5, 5),
    n: int = 2,
    split: float = 3.0,
    seed: int = 0,
    disorder: float = 0.3,
) -> ElectronicProblem:
    """n orbitals on each site of a cubic lattice of 3 Å, coupled to neighbors; half filled.

    ``split`` separates the orbitals of a site: 0 makes a metal.
    """
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(k) for k in shape), indexing="ij"), -1).reshape(-1, 3)
    n_atoms, cell = len(grid), np.diag(3.0 * np.array(shape))
    fractional = grid[:, None] - grid[None]
    steps = np.abs(fractional - np.array(shape) * np.round(fractional / np.array(shape))).sum(axis=2)
    i, j = np.nonzero(np.triu(steps <= 1))
    blocks = rng.normal(size=(len(i), n, n)) * disorder
    same = i == j
    blocks[~same] += np.eye(n) * -0.4
    blocks[same] = 0.5 * (blocks[same] + blocks[same].transpose(0, 2, 1))
    blocks[same] += np.diag(np.linspace(-split, split, n))
    H = BlockMatrix(torch.from_numpy(np.stack([i, j])), torch.from_numpy(blocks), torch.full((n_atoms,), n))
    return ElectronicProblem(
        H, None, float(n_atoms * n), 0.02, System(np.full(n_atoms, 14), 3.0 * grid.astype(float), cell)
    )

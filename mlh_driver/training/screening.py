"""How much of the charges in the minimal basis the on-site levels feel from afar, by least squares.

Charges of orthogonal orbitals are not those of the density, and their dipoles come without matrix elements.
At long wavelengths the mean on-site level of an atom follows the electrostatic potential, so there the
waves of the labelled levels, beyond the mean of each species, are fitted by the potential of the labelled
multipoles times the factors f and g of :mod:`mlh_driver.network.electrostatics`, and by what neighbors
explain: waves in the number and in the excess electrons of the atoms of each species. Without these, f and g
would stand for a part of them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mlh_driver.constants import COULOMB_eV_A
from mlh_driver.network.network import HamiltonianNetwork
from mlh_driver.training.samples import Sample

#: Of each structure: the longest ones, one along each axis of an ordinary cell.
N_WAVES = 3
#: Fewer equations for each unknown would make the factors a matter of chance.
LEAST_EQUATIONS = 3
#: Waves shorter than this say little about distant charges.
SHORTEST_WAVE_A = 9.0
#: Where atoms leave much of the cell empty, waves at the atoms look alike, and their amplitudes mean nothing.
#: The smallest singular value of the waves, 1 if they are independent, is 0.75 or more in glasses.
LEAST_INDEPENDENCE = 0.7
#: The potential of orthogonal orbitals' charges is screened, not reversed, and dipoles are of that size.
LARGEST_CHARGE_FACTOR, LARGEST_DIPOLE_FACTOR = 1.5, 3.0


def fit_screening(network: HamiltonianNetwork, samples: list[Sample]) -> None:
    """Set the factors of ``network.long_range``.

    Where samples have too few long waves, or the factors make no sense, they stay as they are (at first zero:
    no field).
    """
    n_species = len(network.basis.species)
    labelled = [sample for sample in samples if sample.hamiltonian is not None]
    waves = [(sample, _longest_waves(sample.graph.cell)) for sample in labelled]
    systems = [
        _equations(sample, G, n_species) for sample, G in waves if _independent(sample.graph.positions, G)
    ]
    if sum(len(target) for _, target in systems) < LEAST_EQUATIONS * (1 + 3 * n_species):
        return
    matrix, target = (torch.cat(parts).numpy() for parts in zip(*systems, strict=True))
    factors = torch.from_numpy(np.linalg.lstsq(matrix, target, rcond=None)[0])
    charge, dipoles = factors[0], factors[1 : 1 + n_species]
    if 0.0 < charge < LARGEST_CHARGE_FACTOR and dipoles.abs().max() < LARGEST_DIPOLE_FACTOR:
        network.long_range.charge_factor.copy_(charge)
        network.long_range.dipole_factors.copy_(dipoles)


def _independent(positions: Tensor, G: Tensor) -> bool:
    """Whether the waves G (K, 3) can be told apart at the atoms, (N, 3)."""
    if not 0 < 2 * len(G) <= len(positions):
        return False
    least = torch.linalg.svdvals(_at_atoms(positions @ G.T))[-1]
    return float(least) >= LEAST_INDEPENDENCE * (len(positions) / 2) ** 0.5


def _at_atoms(angles: Tensor) -> Tensor:
    """(N, 2 K) cosines and sines."""
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _equations(sample: Sample, G: Tensor, n_species: int) -> tuple[Tensor, Tensor]:
    """Amplitudes in eV of the waves G (K, 3): by factor (2 K, 1 + 3 n_species), as labelled (2 K,).

    The factors are f and g, then those of the numbers and of the excess electrons of each species.
    """
    graph, multipoles = sample.graph, sample.multipoles
    assert sample.hamiltonian is not None and multipoles is not None
    sums = torch.stack([part.sum() for part in sample.hamiltonian.diagonal().split(sample.sizes.tolist())])
    levels = sums.double() / sample.sizes
    one_hot = torch.nn.functional.one_hot(graph.species, n_species).double()
    levels = levels - one_hot @ ((one_hot.T @ levels) / one_hot.sum(dim=0).clamp(min=1.0))
    angles = graph.positions @ G.T
    waves = _at_atoms(angles)
    slopes = torch.cat([-angles.sin(), angles.cos()], dim=1)
    volume = torch.linalg.det(graph.cell).abs()
    strength = (8.0 * torch.pi * COULOMB_eV_A / volume / G.square().sum(dim=1)).repeat(2)
    along = (multipoles[:, 1:].double() @ G.T).repeat(1, 2) * slopes
    electrons = multipoles[:, :1].double() * waves
    distant = strength * torch.cat([electrons.sum(dim=0)[None], one_hot.T @ along])
    local = torch.cat([one_hot.T @ waves, one_hot.T @ electrons]) / volume
    amplitudes = torch.linalg.lstsq(waves, levels[:, None]).solution[:, 0]
    return torch.cat([distant, local]).T, amplitudes


def _longest_waves(cell: Tensor) -> Tensor:
    """(K, 3) the smallest reciprocal lattice vectors, one of each pair +-G, in 1/Å."""
    integers = torch.cartesian_prod(*[torch.arange(-1.0, 2.0, dtype=torch.float64)] * 3)
    integers = integers[len(integers) // 2 + 1 :]  # before (0, 0, 0), in the middle, is -G of each
    G = integers @ (2.0 * torch.pi * torch.linalg.inv(cell).T)
    lengths = torch.linalg.vector_norm(G, dim=1)
    order = torch.argsort(lengths)[:N_WAVES]
    return G[order[lengths[order] < 2.0 * torch.pi / SHORTEST_WAVE_A]]

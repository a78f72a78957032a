"""The double-counting energy: as repulsion in tight binding, a pair potential and a small many-body rest.

With the neighbor density rho_i of an atom as a function on the sphere, mixed over species and radial
functions into four factors u, v, w, z of ``channels`` functions each,

    eps_i = sum_j phi(r_ij) / 2 + sum_c [a_c <u v>_c + b_c <u v w>_c + d_c <u v w z>_c],

where < > is the mean over the sphere: sums over two, three and four neighbors, in the spirit of the atomic
cluster expansion (Drautz, Phys. Rev. B 99, 014104, 2019), with the tensors of its coefficients in factorized
form. With the electronic term in place, what is left is short-ranged and nearly pairwise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mlh_driver.network.chunks import ATOMS, chunk_sizes, in_chunks
from mlh_driver.network.nodes import NodeLinear, random_weights, sphere_quadrature

ORDERS = 3


class ManyBodyEnergy(nn.Module):
    """Many-body part of the double-counting energy; zero for an atom without neighbors."""

    to_sphere: Tensor
    weights: Tensor

    def __init__(self, lmax: int, n_density: int, channels: int, n_species: int) -> None:
        super().__init__()
        harmonics, weights = sphere_quadrature(lmax)
        self.register_buffer("to_sphere", harmonics, persistent=False)
        self.register_buffer("weights", weights, persistent=False)
        self.factors = NodeLinear(lmax, n_density, (ORDERS + 1) * channels, n_species)
        self.readout = random_weights(n_species, ORDERS * channels, 1)

    def reset(self) -> None:
        """Draw the factors anew and start from zero energy."""
        nn.init.normal_(self.factors.weight, std=self.factors.weight.shape[-2] ** -0.5)
        nn.init.zeros_(self.readout)

    def forward(self, density: Tensor, species: Tensor) -> Tensor:
        """(N,) eV from (N, K, n_density), see :class:`~mlh_driver.network.nodes.AtomDensity`."""
        sizes = chunk_sizes(len(density), ATOMS)
        parts = list(zip(density.split(sizes), species.split(sizes), strict=True))
        return torch.cat(list(in_chunks(self._energies, parts)))

    def _energies(self, density: Tensor, species: Tensor) -> Tensor:
        product, *others = torch.matmul(self.to_sphere, self.factors(density, species)).chunk(
            ORDERS + 1, dim=-1
        )
        means = []
        for factor in others:
            product = product * factor
            means.append(torch.einsum("npc,p->nc", product, self.weights))
        return (torch.cat(means, dim=1) * self.readout[species, :, 0]).sum(dim=1)

"""How far an atom's environment is from those of the training data.

The indicator is the Mahalanobis distance of an atom's scalar features from the training atoms of the same
species, divided by the largest such distance among the training atoms themselves: 1 is the edge of the
training data. It costs one small matrix product per call. (Distances in the space of learned features as
an error indicator: Janet et al., doi:10.1039/C9SC02298H.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SHRINKAGE = 1e-3


@dataclass(frozen=True)
class ExtrapolationIndicator:
    """Training statistics of the features of each species.

    means:     (n_species, C)
    whiteners: (n_species, C, C), scaled so that the farthest training atom is at distance 1
    """

    means: Tensor
    whiteners: Tensor

    def __call__(self, descriptors: Tensor, species: Tensor) -> Tensor:
        """(N,) indicator of every atom, from (N, C) features."""
        centered = descriptors.to(self.means) - self.means[species]
        return torch.linalg.vector_norm(torch.einsum("nc,ncd->nd", centered, self.whiteners[species]), dim=1)

    def to(self, device: torch.device | str) -> ExtrapolationIndicator:
        return ExtrapolationIndicator(self.means.to(device), self.whiteners.to(device))


def fit_indicator(descriptors: Tensor, species: Tensor, n_species: int) -> ExtrapolationIndicator:
    """Fit on the (N, C) features of all training atoms.

    Directions in which the training data hardly vary are kept at a thousandth of the mean variance, so
    that they count, but not without bound.
    """
    means, whiteners = [], []
    for k in range(n_species):
        x = descriptors[species == k].double()
        mean = x.mean(dim=0)
        centered = x - mean
        covariance = centered.T @ centered / len(x)
        variances, axes = torch.linalg.eigh(covariance)
        whitener = axes * (variances + SHRINKAGE * variances.mean()).rsqrt()
        farthest = torch.linalg.vector_norm(centered @ whitener, dim=1).max()
        means.append(mean)
        whiteners.append(whitener / farthest)
    return ExtrapolationIndicator(torch.stack(means), torch.stack(whiteners))

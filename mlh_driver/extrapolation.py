"""How far an atom's environment is from those of the training data.

The indicator is the Mahalanobis distance of an atom's scalar features from the training atoms of the same
species, divided by the largest such distance of a training atom from the others: 1 is the edge of the
training data. It costs one small matrix product per call. (Distances in the space of learned features as
an error indicator: Janet et al., doi:10.1039/C9SC02298H.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mlh_driver.errors import InputError

#: Of the mean variance, added to that of each direction: one along which the training hardly varies would
#: otherwise rule the distance.
SHRINKAGE = 1e-3


@dataclass(frozen=True)
class ExtrapolationIndicator:
    """Training statistics of the features of each species.

    means:     (n_species, C)
    whiteners: (n_species, C, C), scaled so that the training atom farthest from the others is at distance 1
    """

    means: Tensor
    whiteners: Tensor

    def __call__(self, descriptors: Tensor, species: Tensor) -> Tensor:
        """(N,) indicator of every atom, from (N, C) features, in their precision."""
        means, whiteners = self.means.to(descriptors.dtype), self.whiteners.to(descriptors.dtype)
        centered = descriptors - means[species]
        return torch.linalg.vector_norm(torch.einsum("nc,ncd->nd", centered, whiteners[species]), dim=1)

    def to(self, device: torch.device | str) -> ExtrapolationIndicator:
        return ExtrapolationIndicator(self.means.to(device), self.whiteners.to(device))


def fit_indicator(descriptors: Tensor, species: Tensor, n_species: int) -> ExtrapolationIndicator:
    """Fit on the (N, C) features of all training atoms, at least two of each species.

    Directions in which the training data hardly vary are kept at a thousandth of the mean variance, so
    that they count, but not without bound. The distance that is called 1 is one from mean and covariance
    of the other atoms (leave one out, in closed form), as that of an atom not trained on: with few atoms,
    each lies close to an ellipsoid that it helped to draw. Raises InputError where the atoms of a species do
    not differ.
    """
    means, whiteners = [], []
    for k in range(n_species):
        x = descriptors[species == k].double()
        mean = x.mean(dim=0)
        centered = x - mean
        covariance = centered.T @ centered / len(x)
        variances, axes = torch.linalg.eigh(covariance)
        if not variances.mean() > 0.0:
            raise InputError(
                f"all {len(x)} training atoms of species {k + 1} look the same within the cutoffs, so "
                "nothing tells how far the data reach; use longer cutoffs (pair_cutoff_A, message_cutoff_A), "
                "or more structures"
            )
        whitener = axes * (variances + SHRINKAGE * variances.mean()).rsqrt()
        squares = (centered @ whitener).square().sum(dim=1)
        n = len(x)
        without_itself = n / (n - 1) * squares / (1 - squares / (n - 1))
        means.append(mean)
        whiteners.append(whitener / without_itself.max().sqrt())
    return ExtrapolationIndicator(torch.stack(means), torch.stack(whiteners))

"""Radial functions that vanish smoothly at the cutoff."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def envelope(distances: Tensor, cutoff: float) -> Tensor:
    """Polynomial that goes from 1 to 0 with two vanishing derivatives at the cutoff.

    1 - 28 x^6 + 48 x^7 - 21 x^8 with x = r / cutoff (Gasteiger et al., arXiv:2003.03123, p = 6); energy,
    force and force constants are therefore continuous when a pair enters or leaves.
    """
    x = (distances / cutoff).clamp(max=1.0)
    return 1.0 + x**6 * (-28.0 + x * (48.0 - 21.0 * x))


class RadialBasis(nn.Module):
    """Gaussians in r on an even grid, times the envelope: (P,) -> (P, size).

    Gaussians of fixed width resolve short and long distances alike, which is what blocks that
    oscillate on the scale of a bond need.
    """

    centers: Tensor

    def __init__(self, size: int, cutoff: float, start: float = 0.6) -> None:
        super().__init__()
        self.cutoff = cutoff
        centers = torch.linspace(start, cutoff, size, dtype=torch.float64)
        self.register_buffer("centers", centers, persistent=False)
        self.width = (cutoff - start) / (size - 1)

    def forward(self, distances: Tensor) -> Tensor:
        scaled = (distances[:, None] - self.centers) / (math.sqrt(2.0) * self.width)
        return torch.exp(-(scaled**2)) * envelope(distances, self.cutoff)[:, None]

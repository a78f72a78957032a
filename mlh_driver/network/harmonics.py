"""Real spherical harmonics and how they couple, in the conventions of e3nn: polar axis y, m = -l ... l.

Harmonics are normalized to mean square 1 over the sphere for each component, sqrt(2 l + 1) times those of
unit sum of squares (e3nn's normalization "component").
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from scipy.special import lpmv
from torch import Tensor

from mlh_driver.system import Array


def degrees(lmax: int) -> Tensor:
    """((lmax + 1)^2,) the l of each component."""
    return torch.tensor([l for l in range(lmax + 1) for _ in range(2 * l + 1)])


def spherical_harmonics(lmax: int, points: Array) -> Array:
    """(points, (lmax + 1)^2) from unit vectors (points, 3)."""
    x, y, z = points.T
    azimuth = np.arctan2(x, z)
    columns = []
    for l in range(lmax + 1):
        for m in range(-l, l + 1):
            k = abs(m)
            square = (2 * l + 1) * (2 if m else 1) * math.factorial(l - k) / math.factorial(l + k)
            wave = np.cos(k * azimuth) if m >= 0 else np.sin(k * azimuth)
            columns.append((-1) ** k * math.sqrt(square) * lpmv(k, l, y) * wave)  # lpmv has the sign (-1)^k
    return np.stack(columns, axis=1)


def sphere_quadrature(lmax: int) -> tuple[Tensor, Tensor]:
    """Harmonics (points, (lmax + 1)^2) and weights (points,) that integrate degree 4 lmax exactly.

    Gauss-Legendre in the polar angle, uniform in the azimuth; the weights sum to one. A feature of natural
    parity is a function on the sphere, the sum of its components times these harmonics.
    """
    degree = 4 * lmax
    cosines, weights = np.polynomial.legendre.leggauss(degree // 2 + 1)
    azimuths = 2 * np.pi * np.arange(degree + 1) / (degree + 1)
    cos, phi = (a.flatten() for a in np.meshgrid(cosines, azimuths, indexing="ij"))
    sin = np.sqrt(1 - cos**2)
    harmonics = spherical_harmonics(lmax, np.stack([sin * np.sin(phi), cos, sin * np.cos(phi)], axis=1))
    return torch.from_numpy(harmonics), torch.tensor(np.repeat(weights, degree + 1)) / (2 * (degree + 1))


@lru_cache
def coupling(l1: int, l2: int, l3: int) -> Tensor:
    """(2 l1 + 1, 2 l2 + 1, 2 l3 + 1) of unit norm, invariant under rotations, for an even l1 + l2 + l3.

    The integral of three harmonics over the sphere (Gaunt), which is the Wigner 3j symbol up to a factor.
    """
    harmonics, weights = sphere_quadrature(max(l1, l2, l3))
    first, second, third = (harmonics[:, l * l : (l + 1) ** 2] for l in (l1, l2, l3))
    integral = torch.einsum("pa,pb,pc,p->abc", first, second, third, weights)
    return integral / torch.linalg.vector_norm(integral)

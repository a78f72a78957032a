"""What happens at distances shorter than any in the training data.

A network knows nothing there, and an atom that gets in may find a hole without bottom. So below an inner
radius r0 of each kind of pair the distance that the network sees stops changing, over a width w,

    s(r) = r0 - (t - 2 t^3 / (3 w^2) + t^5 / (5 w^4)),   t = min(r0 - r, w),

and a wall K (r0 - r)^3 is added to the energy. Both join the outside with two continuous derivatives.
"""

from __future__ import annotations

import torch
from torch import Tensor

WIDTH_A = 0.25
STIFFNESS_eV_A3 = 100.0


def saturated(distances: Tensor, inner: Tensor) -> Tensor:
    """(P,) distances that the network sees, given true ones and the inner radius of each pair, in Å."""
    t = (inner - distances).clamp(0.0, WIDTH_A)
    u = (t / WIDTH_A) ** 2
    return torch.maximum(distances, inner) - t * (1.0 - u * (2.0 / 3.0 - u / 5.0))


def wall(distances: Tensor, inner: Tensor) -> Tensor:
    """(P,) repulsive energies in eV, zero outside the inner radii."""
    return STIFFNESS_eV_A3 * (inner - distances).clamp(min=0.0) ** 3

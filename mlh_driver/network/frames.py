"""Bond-aligned local frames.

Conventions are e3nn's: real spherical harmonics with the polar axis along y, components m = -l ... l, so
that l = 1 is (x, y, z). In the frame of a bond (bond along +y) a feature falls apart by |m|; components +m
and -m are the real and imaginary part of a complex number, which a turn by phi around the bond multiplies by
exp(i m phi), and which a mirror plane that contains the bond conjugates. Linear maps that multiply both parts
by the same real weights, and products of such numbers, are therefore exactly equivariant (Passaro and
Zitnick, arXiv:2302.03655, for the reduction to SO(2); mirror symmetry makes the weights real).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mlh_driver.network.rotation import Rows, Terms, bilinear
from mlh_driver.network.so3 import wigner_3j


def bond_rotations(vectors: Tensor, distances: Tensor) -> Tensor:
    """Rotations that turn each bond to the y axis: (P, 3, 3) from (P, 3) vectors and (P,) lengths.

    The angle around the bond is arbitrary and drops out of every result. It is fixed by the Cartesian
    axis most nearly perpendicular to the bond, so that the rotation is smooth around any given bond.
    """
    y = vectors / distances[:, None]
    helper = torch.zeros_like(y).scatter_(1, y.abs().argmin(dim=1, keepdim=True), 1.0)
    z = torch.linalg.cross(y, helper)
    z = z / z.norm(dim=1, keepdim=True)
    return torch.stack([torch.linalg.cross(y, z), y, z], dim=1)


def ladder(l: int) -> Terms:
    """D^(l + 1) from D^l and D^1, by the coupling l ⊗ 1 -> l + 1."""
    coupling = wigner_3j(l, 1, l + 1, dtype=torch.float64) * (2 * l + 3) ** 0.5
    tensor = torch.einsum("mia,njb->abmnij", coupling, coupling)
    return Terms.of(tensor.reshape((2 * l + 3) ** 2, (2 * l + 1) ** 2, 9).numpy())


class FrameRotation(nn.Module):
    """Wigner matrices of bond rotations, and their rows sorted by |m| up to ``m_max`` (``rows``).

    ``parity`` has the sign of every entry for the reversed bond, (-1)^l.

    A feature in the frame is a list over m = 0 ... m_max of tensors (P, copies * n_l, C) with the components
    l = m ... lmax (n_l of them): once for m = 0, twice for m > 0, first all +m, then all -m.
    """

    parity: Tensor

    def __init__(self, lmax: int, m_max: int) -> None:
        super().__init__()
        self.lmax, self.m_max = lmax, m_max
        parity = [(-1.0) ** l for l in range(1, lmax + 1) for _ in range((2 * l + 1) ** 2)]
        self.register_buffer("parity", torch.tensor(parity, dtype=torch.float64), persistent=False)
        self._ladder = [ladder(l) for l in range(1, lmax)]
        self.rows = [self._rows_of(m) for m in range(m_max + 1)]

    def copies(self, m: int) -> int:
        """How many components +m, -m there are."""
        return 2 if m else 1

    def n_l(self, m: int) -> int:
        """How many l have a component m."""
        return self.lmax + 1 - m

    def _rows_of(self, m: int) -> Rows:
        """Rows (l, m), then (l, -m), of [D^1 | D^2 | ...]."""
        starts = np.cumsum([0, 0] + [(2 * l + 1) ** 2 for l in range(1, self.lmax + 1)])
        found = [(l, sign * m) for sign in ((1, -1) if m else (1,)) for l in range(m, self.lmax + 1)]
        first = [starts[l] + (l + order) * (2 * l + 1) for l, order in found]
        return Rows(np.array([l for l, _ in found]), np.array(first))

    def entries(self, rotations: Tensor) -> Tensor:
        """(P, entries) [D^1 | D^2 | ...], each row by row, from (P, 3, 3) rotations."""
        first = rotations.flatten(1)
        found = [first]
        for terms in self._ladder:
            found.append(bilinear(found[-1], first, terms))
        return torch.cat(found, dim=1)

    @staticmethod
    def wigner(entries: Tensor, l: int) -> Tensor:
        """D^l, (P, 2 l + 1, 2 l + 1)."""
        n = 2 * l + 1
        start = sum((2 * k + 1) ** 2 for k in range(1, l))
        return (
            entries[:, start : start + n * n].unflatten(1, (n, n))
            if l
            else entries.new_ones(len(entries), 1, 1)
        )

    def harmonics(self, entries: Tensor) -> Tensor:
        """(P, (lmax + 1)^2) spherical harmonics of the bonds, in e3nn's normalization "component".

        They are the rows m = 0 of the rotations, which turn the bond into the polar axis.
        """
        polar = [(2 * l + 1) ** 0.5 * self.wigner(entries, l)[:, l] for l in range(self.lmax + 1)]
        return torch.cat(polar, dim=1)

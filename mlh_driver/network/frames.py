"""Bond-aligned local frames.

Conventions are e3nn's: real spherical harmonics with the polar axis along y, components m = -l ... l, so
that l = 1 is (x, y, z). In the frame of a bond (bond along +y) a feature falls apart by |m|; components +m
and -m are the real and imaginary part of a number that turns with exp(i m phi) around the bond and is
conjugated by a mirror plane that contains it. Linear maps that multiply both parts by the same real
weights, and products of such numbers, are therefore exactly equivariant (Passaro and Zitnick,
arXiv:2302.03655, for the reduction to SO(2); mirror symmetry makes the weights real).
"""

from __future__ import annotations

import torch
from e3nn import o3
from torch import Tensor, nn


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


def ladder(l: int) -> Tensor:
    """Coupling l ⊗ 1 -> l + 1 as a ((2l + 1) * 3, 2l + 3) matrix with orthonormal columns."""
    coupling = o3.wigner_3j(l, 1, l + 1, dtype=torch.float64)
    return (coupling * (2 * l + 3) ** 0.5).reshape(-1, 2 * l + 3)


class FrameRotation(nn.Module):
    """Wigner matrices of bond rotations, and their rows sorted by |m| up to ``m_max``.

    A feature in the frame is a list over m = 0 ... m_max of tensors (P, copies * n_l, C) with the components
    l = m ... lmax (n_l of them): once for m = 0, twice for m > 0, first all +m, then all -m.
    """

    def __init__(self, lmax: int, m_max: int) -> None:
        super().__init__()
        self.lmax, self.m_max = lmax, m_max
        for l in range(1, lmax):
            self.register_buffer(f"ladder{l}", ladder(l), persistent=False)
        for m in range(m_max + 1):
            rows = [(l, sign * m) for sign in ((1, -1) if m else (1,)) for l in range(m, lmax + 1)]
            self.register_buffer(f"gather{m}", self._gather_index(rows), persistent=False)

    def copies(self, m: int) -> int:
        """How many components +m, -m there are."""
        return 2 if m else 1

    def n_l(self, m: int) -> int:
        """How many l have a component m."""
        return self.lmax + 1 - m

    def parity(self, m: int) -> Tensor:
        """(n_l,) signs (-1)^l for l = m ... lmax."""
        return (-1.0) ** torch.arange(m, self.lmax + 1)

    def _gather_index(self, rows: list[tuple[int, int]]) -> Tensor:
        """Where each entry of the rows is found in [D1 | D2 | ... | 0 | 1]."""
        sizes = [(2 * l + 1) ** 2 for l in range(1, self.lmax + 1)]
        zero, one = sum(sizes), sum(sizes) + 1
        index = torch.full((len(rows), (self.lmax + 1) ** 2), zero)
        for row, (l, m) in enumerate(rows):
            for column in range(2 * l + 1):
                entry = sum(sizes[: l - 1]) + (l + m) * (2 * l + 1) + column if l else one
                index[row, l * l + column] = entry
        return index.flatten()

    def wigner(self, rotations: Tensor) -> list[Tensor]:
        """D^l for l = 1 ... lmax, each (P, 2l + 1, 2l + 1), from (P, 3, 3) rotations."""
        matrices = [rotations]
        for l in range(1, self.lmax):
            coupling = getattr(self, f"ladder{l}")
            d, n = matrices[-1], 2 * l + 1
            product = (d[:, :, None, :, None] * rotations[:, None, :, None, :]).reshape(-1, n * 3, n * 3)
            matrices.append(coupling.T @ (product @ coupling))
        return matrices

    def by_order(self, wigner: list[Tensor]) -> list[Tensor]:
        """Per m, (P, copies * n_l, (lmax + 1)^2) rotation of features into the frames."""
        n = len(wigner[0])
        constants = wigner[0].new_tensor([0.0, 1.0]).expand(n, 2)
        entries = torch.cat([*(d.flatten(1) for d in wigner), constants], dim=1)
        columns = (self.lmax + 1) ** 2
        return [
            entries.index_select(1, getattr(self, f"gather{m}")).reshape(
                n, self.copies(m) * self.n_l(m), columns
            )
            for m in range(self.m_max + 1)
        ]

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
    """Wigner matrices from bond rotations, rows sorted by |m| and cut at ``m_max``.

    Rows: all m = 0 (l = 0 ... lmax), then for m = 1 ... m_max all +m and all -m (l = m ... lmax).
    Columns: the (lmax + 1)^2 components of a feature.
    """

    gather: Tensor
    parity: Tensor

    def __init__(self, lmax: int, m_max: int) -> None:
        super().__init__()
        self.lmax = lmax
        for l in range(1, lmax):
            self.register_buffer(f"ladder{l}", ladder(l), persistent=False)
        rows = [(l, 0) for l in range(lmax + 1)]
        for m in range(1, m_max + 1):
            rows += [(l, sign * m) for sign in (1, -1) for l in range(m, lmax + 1)]
        self.n_rows = len(rows)
        self.register_buffer("gather", self._gather_index(rows), persistent=False)
        parity = torch.tensor([(-1.0) ** l for l, _ in rows], dtype=torch.float64)
        self.register_buffer("parity", parity[:, None], persistent=False)

    def _gather_index(self, rows: list[tuple[int, int]]) -> Tensor:
        """Where each entry of the packed matrix is found in [D1 | D2 | ... | 0 | 1]."""
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

    def pack(self, wigner: list[Tensor]) -> Tensor:
        """(P, n_rows, (lmax + 1)^2) packed rotation of features into the frames."""
        n = len(wigner[0])
        parts = [d.flatten(1) for d in wigner]
        constants = wigner[0].new_tensor([0.0, 1.0]).expand(n, 2)
        entries = torch.cat([*parts, constants], dim=1)
        return entries.index_select(1, self.gather).unflatten(1, (self.n_rows, -1))

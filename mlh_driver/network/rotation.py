"""Features of atoms turned into the frames of their bonds, and back, without a copy per bond.

Three operations, each of which is the derivative of the others, so any order of differentiation works:

    gather    y_p = D_p x_i(p)            features of atom i(p) in the frame of bond p
    scatter   z_i = sum_{p: i(p)=i} D_p^T y_p
    outer     E_p = y_p x_i(p)^T          the derivative with respect to D_p

D_p is block-diagonal in l; its entries are stored row by row, (D^1, D^2, ...) flattened. One call treats the
rows of one |m|. The entries themselves come from products of entries, a bilinear map with few terms, whose
derivatives are again such maps. On the CPU the loops are compiled by numba; elsewhere torch operations do the
same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Rows of D: the l of each, and where its 2 l + 1 entries begin.

    l = 0 has no entry: it is 1, or 0 in the part of D that is linear in the entries (``unit`` False).
    """

    l: NDArray[np.int64]
    first: NDArray[np.int64]
    unit: bool = True

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Rows of several |m| behind each other."""
        return cls(np.concatenate([part.l for part in parts]), np.concatenate([part.first for part in parts]))

    @cached_property
    def linear(self) -> Rows:
        """The part that is linear in the entries."""
        return Rows(self.l, self.first, unit=False)

    @cached_property
    def table(self) -> NDArray[np.int64]:
        """(rows, 3): the first entry, the first component of the feature, and how many there are."""
        counts = np.where(self.l == 0, int(self.unit), 2 * self.l + 1)
        return np.stack([self.first, self.l**2, counts], axis=1)

    def matrices(self, entries: Tensor, n_components: int) -> Tensor:
        """(P, rows, n_components) from (P, entries)."""
        columns = [
            [first + k - l * l if l * l <= k < (l + 1) ** 2 and l else -2 + (self.unit and l == 0 and k == 0)
             for k in range(n_components)]
            for l, first in zip(self.l.tolist(), self.first.tolist(), strict=True)
        ]  # fmt: skip
        padded = torch.cat([entries, entries.new_tensor([0.0, 1.0]).expand(len(entries), 2)], dim=1)
        index = torch.tensor(columns, device=entries.device) % padded.shape[1]
        return padded[:, index]


@dataclass(frozen=True)
class Terms:
    """A bilinear map c[out[t]] += weight[t] a[left[t]] b[right[t]]; ``sizes`` are those of c, a and b."""

    out: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    weight: NDArray[np.float64]
    sizes: tuple[int, int, int]

    @classmethod
    def of(cls, tensor: NDArray[np.float64]) -> Terms:
        """The nonzero elements of a tensor (c, a, b)."""
        out, left, right = np.nonzero(np.abs(tensor) > 1e-12)
        sizes = (tensor.shape[0], tensor.shape[1], tensor.shape[2])
        return cls(out, left, right, tensor[out, left, right], sizes)

    @cached_property
    def derivatives(self) -> tuple[Terms, Terms]:
        """(cotangent of c, b) -> cotangent of a, and (cotangent of c, a) -> cotangent of b."""
        c, a, b = self.sizes
        return (
            Terms(self.left, self.out, self.right, self.weight, (a, c, b)),
            Terms(self.right, self.out, self.left, self.weight, (b, c, a)),
        )

    @cached_property
    def gradient(self) -> Terms:
        """(cotangent of c, z) -> cotangent of z, for a = b = z."""
        left, right = self.derivatives
        out, first, second, weight = (
            np.concatenate([getattr(left, name), getattr(right, name)])
            for name in ("out", "left", "right", "weight")
        )
        return Terms(out, first, second, weight, left.sizes)


def bilinear(a: Tensor, b: Tensor, terms: Terms) -> Tensor:
    """(P, c) from (P, a) and (P, b)."""
    if a.is_cpu:
        return _Bilinear.apply(a, b, terms)
    out, left, right = (
        torch.from_numpy(index).to(a.device) for index in (terms.out, terms.left, terms.right)
    )
    products = a[:, left] * b[:, right] * torch.from_numpy(terms.weight).to(a)
    return a.new_zeros(len(a), terms.sizes[0]).index_add(1, out, products)


def quadratic(z: Tensor, terms: Terms) -> Tensor:
    """(P, c) from z, (P, a), taken for both factors."""
    return _Quadratic.apply(z, terms) if z.is_cpu else bilinear(z, z, terms)


@dataclass(frozen=True)
class Ends:
    """One end of every bond: (P,) atoms, of ``n_atoms``."""

    atoms: Tensor
    n_atoms: int

    @cached_property
    def by_atom(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Bonds sorted by atom, and where the bonds of each atom begin."""
        atoms = self.atoms.numpy()
        counts = np.bincount(atoms, minlength=self.n_atoms)
        return np.argsort(atoms, kind="stable"), np.concatenate([[0], np.cumsum(counts)])

    def join(self, other: Ends) -> Ends:
        """These bonds, then others of the same atoms."""
        return Ends(torch.cat([self.atoms, other.atoms]), self.n_atoms)

    def split(self, sizes: Sequence[int]) -> list[Ends]:
        """Consecutive parts."""
        return [Ends(atoms, self.n_atoms) for atoms in self.atoms.split(list(sizes))]


def gather(entries: Tensor, x: Tensor, ends: Ends, rows: Rows) -> Tensor:
    """(P, rows, C) from (P, entries) and (N, K, C)."""
    if x.is_cpu:
        return _Gather.apply(entries, x, ends, rows)
    return torch.bmm(rows.matrices(entries, x.shape[1]), x.index_select(0, ends.atoms))


def scatter(entries: Tensor, y: Tensor, ends: Ends, rows: Rows, n_components: int) -> Tensor:
    """(N, K, C) from (P, entries) and (P, rows, C)."""
    if y.is_cpu:
        return _Scatter.apply(entries, y, ends, rows, n_components)
    turned = torch.bmm(rows.matrices(entries, n_components).transpose(1, 2), y)
    return turned.new_zeros(ends.n_atoms, *turned.shape[1:]).index_add(0, ends.atoms, turned)


def outer(y: Tensor, x: Tensor, ends: Ends, rows: Rows, n_entries: int) -> Tensor:
    """(P, entries) on the CPU, from (P, rows, C) and (N, K, C)."""
    return _Outer.apply(y, x, ends, rows, n_entries)


class _Bilinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, terms: Terms) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.terms = terms
        c = a.new_empty(len(a), terms.sizes[0])
        _bilinear(_values(a), _values(b), terms.out, terms.left, terms.right, terms.weight, c.numpy())
        return c

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        a, b = ctx.saved_tensors
        needs = ctx.needs_input_grad
        return (
            _Bilinear.apply(g, b, ctx.terms.derivatives[0]) if needs[0] else None,
            _Bilinear.apply(g, a, ctx.terms.derivatives[1]) if needs[1] else None,
            None,
        )


class _Quadratic(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, terms: Terms) -> Tensor:
        ctx.save_for_backward(z)
        ctx.terms = terms
        return _Bilinear.apply(z, z, terms)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (z,) = ctx.saved_tensors
        return _Bilinear.apply(g, z, ctx.terms.gradient), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, entries: Tensor, x: Tensor, ends: Ends, rows: Rows) -> Tensor:
        ctx.save_for_backward(entries, x)
        ctx.ends, ctx.rows = ends, rows
        y = x.new_empty(len(entries), len(rows.l), x.shape[2])
        _gather(_values(entries), _values(x), ends.atoms.numpy(), rows.table, y.numpy())
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        entries, x = ctx.saved_tensors
        needs = ctx.needs_input_grad
        return (
            _Outer.apply(g, x, ctx.ends, ctx.rows, entries.shape[1]) if needs[0] else None,
            _Scatter.apply(entries, g, ctx.ends, ctx.rows, x.shape[1]) if needs[1] else None,
            None,
            None,
        )


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, entries: Tensor, y: Tensor, ends: Ends, rows: Rows, n_components: int) -> Tensor:
        ctx.save_for_backward(entries, y)
        ctx.ends, ctx.rows = ends, rows
        z = y.new_empty(ends.n_atoms, n_components, y.shape[2])
        _scatter(_values(entries), _values(y), *ends.by_atom, rows.table, z.numpy())
        return z

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        entries, y = ctx.saved_tensors
        needs = ctx.needs_input_grad
        return (
            _Outer.apply(y, g, ctx.ends, ctx.rows, entries.shape[1]) if needs[0] else None,
            _Gather.apply(entries, g, ctx.ends, ctx.rows) if needs[1] else None,
            None,
            None,
            None,
        )


class _Outer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, ends: Ends, rows: Rows, n_entries: int) -> Tensor:
        ctx.save_for_backward(y, x)
        ctx.ends, ctx.rows = ends, rows
        entries = y.new_empty(len(y), n_entries)
        _outer(_values(y), _values(x), ends.atoms.numpy(), rows.table, entries.numpy())
        return entries

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        y, x = ctx.saved_tensors
        needs = ctx.needs_input_grad
        return (
            _Gather.apply(g, x, ctx.ends, ctx.rows.linear) if needs[0] else None,
            _Scatter.apply(g, y, ctx.ends, ctx.rows.linear, x.shape[1]) if needs[1] else None,
            None,
            None,
            None,
        )


def _values(tensor: Tensor) -> NDArray[np.floating]:
    return tensor.detach().contiguous().numpy()


_TILE = 16


@njit(parallel=True, cache=True, fastmath=True)
def _bilinear(a, b, out, left, right, weight, c):  # type: ignore[no-untyped-def]
    """Tiles of pairs are transposed, so that every term is one vector operation."""
    n_pairs = len(a)
    for tile in prange((n_pairs + _TILE - 1) // _TILE):
        begin = tile * _TILE
        count = min(_TILE, n_pairs - begin)
        columns_a = np.zeros((a.shape[1], _TILE), a.dtype)
        columns_b = np.zeros((b.shape[1], _TILE), a.dtype)
        columns_c = np.zeros((c.shape[1], _TILE), a.dtype)
        for p in range(count):
            for k in range(a.shape[1]):
                columns_a[k, p] = a[begin + p, k]
            for k in range(b.shape[1]):
                columns_b[k, p] = b[begin + p, k]
        for t in range(len(out)):
            w = a.dtype.type(weight[t])
            target, first, second = columns_c[out[t]], columns_a[left[t]], columns_b[right[t]]
            for p in range(_TILE):
                target[p] += w * first[p] * second[p]
        for p in range(count):
            for k in range(c.shape[1]):
                c[begin + p, k] = columns_c[k, p]


@njit(parallel=True, cache=True, fastmath=True)
def _gather(entries, x, atoms, rows, y):  # type: ignore[no-untyped-def]
    """Columns of D after the first come in pairs, which halves the traffic of the sums."""
    for p in prange(len(y)):
        features = x[atoms[p]]
        for r in range(len(rows)):
            first, k0, count = rows[r]
            row = y[p, r]
            d = entries[p, first] if count > 1 else entries.dtype.type(1)
            f = features[k0]
            if count == 1:
                row[:] = f
            elif count == 0:
                row[:] = 0
            for k in range(1, count, 2):
                d1, d2 = entries[p, first + k], entries[p, first + k + 1]
                f1, f2 = features[k0 + k], features[k0 + k + 1]
                if k == 1:
                    for c in range(len(row)):
                        row[c] = d * f[c] + d1 * f1[c] + d2 * f2[c]
                else:
                    for c in range(len(row)):
                        row[c] += d1 * f1[c] + d2 * f2[c]


@njit(parallel=True, cache=True, fastmath=True)
def _scatter(entries, y, order, starts, rows, z):  # type: ignore[no-untyped-def]
    """Two bonds at a time, which halves the traffic of the sums."""
    one = entries.dtype.type(1)
    for i in prange(len(z)):
        z[i] = 0
        end = starts[i + 1]
        for place in range(starts[i], end, 2):
            p = order[place]
            q = order[place + 1] if place + 1 < end else p
            both = one if place + 1 < end else entries.dtype.type(0)
            for r in range(len(rows)):
                first, k0, count = rows[r]
                row_p, row_q = y[p, r], y[q, r]
                for k in range(count):
                    d_p = entries[p, first + k] if count > 1 else one
                    d_q = (entries[q, first + k] if count > 1 else one) * both
                    total = z[i, k0 + k]
                    for c in range(len(total)):
                        total[c] += d_p * row_p[c] + d_q * row_q[c]


@njit(parallel=True, cache=True, fastmath=True)
def _outer(y, x, atoms, rows, entries):  # type: ignore[no-untyped-def]
    for p in prange(len(y)):
        features = x[atoms[p]]
        entries[p] = 0
        for r in range(len(rows)):
            first, k0, count = rows[r]
            if count > 1:
                row = y[p, r]
                for k in range(count):
                    total = entries.dtype.type(0)
                    f = features[k0 + k]
                    for c in range(len(row)):
                        total += row[c] * f[c]
                    entries[p, first + k] = total

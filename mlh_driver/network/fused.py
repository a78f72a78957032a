"""A pair head with fixed weights in few passes over memory, and its vector-Jacobian product by hand.

It computes what :class:`mlh_driver.network.heads.BondBlocks` does with torch operations, which training needs
and which define it. Here matrix products write into parts of large arrays, and all that is elementwise is
done row by row while the row is in the cache:

    Y_e = gather(entries, x)        both atoms' features, all m at once
    A   = sum_e Y_e mix             per component 0, +1, -1, ...: numbers of all directions, (directions, h)
    R   = [z_0 + bias | products | z_1 ...],  z = A (radial weights)
    G   = gates(silu(..silu(R_scalar ..)))
    F   = numbers of R times gates
    out = [s | R_0 | F] M,          M: output weights times the map to the block

A row of R, G or F is one direction of one bond; the directions of a bond follow each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear, silu

from mlh_driver.network.heads import BondBlocks, PairHead
from mlh_driver.network.rotation import Ends, Rows, gather, outer, scatter

Table = NDArray[np.int64]


@dataclass(frozen=True)
class _Component:
    """Where one component, m or -m, stands: in the rows of Y, the columns of A, of the weights and of R."""

    m: int
    rows: slice
    columns: slice
    weight: int
    place: int


class Layout:
    """Tables of where everything stands; depends on sizes alone.

    mixing:   per component: first column in A, width, first weight, first bias or -1, place in R
    products: of R, see :func:`runs_of`
    gating:   per run: place in R, in G and in F, length, and what is added to the gate
    """

    def __init__(self, head: PairHead, ways: int) -> None:
        hidden, products = head.hidden, head.products
        terms = products.terms
        n_products = terms.sizes[0]
        first_number = hidden[0] + n_products
        self.n_row = first_number + terms.sizes[1]
        self.n_even = products.n_scalars
        bias = sum(hidden)
        self.components: list[_Component] = []
        row = column = weight = 0
        place = first_number
        for m, ((n_l, copies), width) in enumerate(zip(head.layout, hidden, strict=True)):
            for _ in range(copies):
                at = place if m else 0
                self.components.append(
                    _Component(m, slice(row, row + n_l), slice(column, column + ways * width), weight, at)
                )
                row, column, place = row + n_l, column + ways * width, place + (width if m else 0)
            weight += width
        self.n_columns = column
        self.mixing = np.array(
            [(c.columns.start, hidden[c.m], c.weight, -1 if c.m else bias, c.place) for c in self.components]
        )
        out, left, right, sign = terms.out, terms.left, terms.right, terms.weight
        self.products = runs_of(out + hidden[0], left + first_number, right + first_number, sign)
        self.gating = self._gating(head, first_number)

    def _gating(self, head: PairHead, first_number: int) -> Table:
        """F has the pseudoscalars, then for each m the old and new real parts, the old and new imaginary."""
        products = head.products
        gate = products.n_scalars
        place = head.hidden[0] + products.n_scalars
        found = [(place, 0, 0, products.n_scalars, 0)]
        to, new, old = products.n_scalars, place + products.n_scalars, first_number
        for m in range(1, len(head.hidden)):
            n_old, n_new = head.hidden[m], products.n_new[m]
            for _ in range(2):
                found += [(old, gate, to, n_old, 1), (new, gate + n_old, to + n_old, n_new, 1)]
                old, new, to = old + n_old, new + n_new, to + n_old + n_new
            gate += n_old + n_new
        self.n_gated = to
        return np.array(found)


def runs_of(
    out: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64], sign: NDArray[np.float64]
) -> Table:
    """Terms out[o] += sign left[l] right[r], joined where o, l and r grow by one: (o, l, r, sign, length)."""
    order = np.lexsort((out, out - right, out - left, sign))
    terms = np.stack([out, left, right, sign.astype(np.int64)], axis=1)[order]
    steps = np.diff(terms, axis=0)
    starts = np.concatenate([[0], 1 + np.flatnonzero((steps != [1, 1, 1, 0]).any(axis=1))])
    lengths = np.diff(np.append(starts, len(terms)))
    return np.concatenate([terms[starts], lengths[:, None]], axis=1)


@dataclass(frozen=True)
class _Weights:
    """What the matrix products multiply with.

    mix: per m, for both atoms (n_l * C, ways * hidden);  out: (h + h + n_gated, copies * n_i * n_j)
    """

    mix: list[tuple[Tensor, Tensor]]
    out: tuple[Tensor, Tensor, Tensor]

    @classmethod
    def of(cls, head: PairHead, ways: int) -> _Weights:
        mix = []
        for m, ((n_l, _), matrix) in enumerate(zip(head.layout, head.mix, strict=True)):
            there = matrix.reshape(n_l, 2, head.channels, -1)
            both = [there, (there * head.parity[m:]).flip(1)][:ways]  # back, the atoms change places
            first, second = torch.cat(both, dim=3).unbind(1)
            mix.append((first.flatten(0, 1), second.flatten(0, 1)))
        return cls(mix, _output(head))


def _output(head: PairHead) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices from s, from the scalars and from F to all copies of the block."""
    n_even, n_odd = (part.shape[1] // head.copies for part in (head.out_even, head.out_odd))
    sizes = [n_even, n_odd]
    for matrix in head.out:
        sizes += 2 * [matrix.shape[1] // head.copies]
    even, odd, *pairs = head.to_block.split(sizes)

    def joined(matrix: Tensor, part: Tensor) -> Tensor:
        return (matrix.reshape(len(matrix), head.copies, len(part)) @ part).flatten(1)

    gated = [joined(head.out_odd, odd)]
    for m, matrix in enumerate(head.out):
        gated += [joined(matrix, part) for part in pairs[2 * m : 2 * m + 2]]
    s, scalars = joined(head.out_even, even).chunk(2)
    return s, scalars, torch.cat(gated)


class FusedBondBlocks(BondBlocks):
    """Blocks of pairs, fused where weights are fixed and tensors are on the CPU."""

    def __init__(self, *arguments: Any, **sizes: Any) -> None:
        super().__init__(*arguments, **sizes)
        self.layout = Layout(self.head, self.ways)
        self.rows = Rows.joined(self.frames.rows[: len(self.head.hidden)])

    def numbers(self, x: Tensor, entries: Tensor, radial: Tensor, ends: tuple[Ends, Ends]) -> Tensor:
        if x.is_cpu and not any(weight.requires_grad for weight in self.head.parameters()):
            return FusedHead.apply(x, entries, radial, self, ends)
        return super().numbers(x, entries, radial, ends)


class FusedHead(torch.autograd.Function):
    """(P * ways, copies * n_i * n_j) from x (N, K, C), entries (P, E) and radial (P, n_radial)."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, entries: Tensor, radial: Tensor, blocks: FusedBondBlocks, ends: tuple[Ends, Ends]
    ) -> Tensor:
        head, ways, layout, rows = blocks.head, blocks.ways, blocks.layout, blocks.rows
        weights = _Weights.of(head, ways)
        n_bonds = len(radial)
        A = x.new_empty(n_bonds, layout.n_columns)
        turned = [gather(entries, x, end, rows) for end in ends]
        for c in layout.components:
            first, second = (y[:, c.rows].flatten(1) for y in turned)
            part = torch.mm(first, weights.mix[c.m][0], out=A[:, c.columns])
            part.addmm_(second, weights.mix[c.m][1])
        W = radial @ head.radial
        R = x.new_empty(n_bonds * ways, layout.n_row)
        _weigh_and_multiply(A.numpy(), W.numpy(), ways, layout.mixing, layout.products, R.numpy())
        width = head.hidden[0]
        inner1 = linear(R[:, : width + layout.n_even], head.scalars1.weight, head.scalars1.bias)
        inner2 = head.scalars2(silu(inner1))
        s = silu(inner2)
        G = head.gates(s)
        F = x.new_empty(len(R), layout.n_gated)
        _gate(R.numpy(), G.numpy(), layout.gating, F.numpy())
        ctx.save_for_backward(x, entries, radial, A, W, R, inner1, inner2, G)
        ctx.blocks, ctx.ends, ctx.weights = blocks, ends, weights
        from_s, from_scalars, from_gated = weights.out
        return (s @ from_s).addmm_(R[:, :width], from_scalars).addmm_(F, from_gated)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, entries, radial, A, W, R, inner1, inner2, G = ctx.saved_tensors
        blocks: FusedBondBlocks = ctx.blocks
        if torch.is_grad_enabled():  # what comes out will be differentiated again
            return (*_by_definition(blocks, (x, entries, radial), ctx.ends, g), None, None)
        head, ways, layout, rows = blocks.head, blocks.ways, blocks.layout, blocks.rows
        from_s, from_scalars, from_gated = ctx.weights.out
        width = head.hidden[0]
        g_R, g_G = torch.empty_like(R), torch.empty_like(G)
        g_F = g @ from_gated.T
        _gate_gradient(R.numpy(), G.numpy(), g_F.numpy(), layout.gating, g_R.numpy(), g_G.numpy())
        g_s = torch.addmm(g_G @ head.gates.weight, g, from_s.T)
        g_inner2 = torch.ops.aten.silu_backward(g_s, inner2)
        g_inner1 = torch.ops.aten.silu_backward(g_inner2 @ head.scalars2.weight, inner1)
        torch.mm(g_inner1, head.scalars1.weight, out=g_R[:, : width + layout.n_even])
        g_R[:, :width].addmm_(g, from_scalars.T)
        g_A, g_W = torch.empty_like(A), torch.empty_like(W)
        _weigh_and_multiply_gradient(
            A.numpy(), W.numpy(), R.numpy(), ways, layout.mixing, layout.products,
            g_R.numpy(), g_A.numpy(), g_W.numpy(),
        )  # fmt: skip
        g_x, g_entries = torch.zeros_like(x), torch.zeros_like(entries)
        for atom, end in enumerate(ctx.ends):
            g_turned = x.new_empty(len(radial), len(rows.l), x.shape[2])
            for c in layout.components:
                torch.mm(g_A[:, c.columns], ctx.weights.mix[c.m][atom].T, out=g_turned[:, c.rows].flatten(1))
            g_x += scatter(entries, g_turned, end, rows, x.shape[1])
            g_entries += outer(g_turned, x, end, rows, entries.shape[1])
        return g_x, g_entries, g_W @ head.radial.T, None, None


def _by_definition(
    blocks: BondBlocks, inputs: tuple[Tensor, Tensor, Tensor], ends: tuple[Ends, Ends], g: Tensor
) -> Iterator[Tensor | None]:
    """Cotangents of the inputs, differentiable."""
    needed = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(BondBlocks.numbers(blocks, *inputs, ends), needed, g, create_graph=True))
    return (next(found) if tensor.requires_grad else None for tensor in inputs)


@njit(inline="always")
def _part(row, first, length):  # type: ignore[no-untyped-def]
    """Loops over parts are vector instructions; over ``row[first + t]`` they would not be."""
    return row[first : first + length]


@njit(inline="always")
def _add_product(scale, a, b, out):  # type: ignore[no-untyped-def]
    for t in range(len(out)):
        out[t] += scale * a[t] * b[t]


@njit(parallel=True, cache=True, fastmath=True)
def _weigh_and_multiply(A, W, ways, mixing, products, R):  # type: ignore[no-untyped-def]
    one = A.dtype.type(1)
    for q in prange(len(R)):
        row, a, w = R[q], A[q // ways], W[q // ways]
        row[:] = 0
        for k in range(len(mixing)):
            column, n, weight, bias, place = mixing[k]
            numbers = _part(row, place, n)
            if bias >= 0:
                numbers[:] = _part(w, bias, n)
            _add_product(one, _part(a, column + q % ways * n, n), _part(w, weight, n), numbers)
        for k in range(len(products)):
            out, left, right, sign, n = products[k]
            _add_product(A.dtype.type(sign), _part(row, left, n), _part(row, right, n), _part(row, out, n))


@njit(parallel=True, cache=True, fastmath=True)
def _weigh_and_multiply_gradient(A, W, R, ways, mixing, products, g_R, g_A, g_W):  # type: ignore[no-untyped-def]
    one = A.dtype.type(1)
    for p in prange(len(A)):
        a, w, g_a, g_w = A[p], W[p], g_A[p], g_W[p]
        g_a[:] = 0
        g_w[:] = 0
        for q in range(p * ways, (p + 1) * ways):
            row, g = R[q], g_R[q]
            for k in range(len(products)):
                out, left, right, sign, n = products[k]
                scale, g_out = A.dtype.type(sign), _part(g, out, n)
                _add_product(scale, g_out, _part(row, right, n), _part(g, left, n))
                _add_product(scale, g_out, _part(row, left, n), _part(g, right, n))
            for k in range(len(mixing)):
                column, n, weight, bias, place = mixing[k]
                column += q % ways * n
                g_numbers = _part(g, place, n)
                _add_product(one, g_numbers, _part(w, weight, n), _part(g_a, column, n))
                _add_product(one, g_numbers, _part(a, column, n), _part(g_w, weight, n))
                if bias >= 0:
                    g_bias = _part(g_w, bias, n)
                    for t in range(n):
                        g_bias[t] += g_numbers[t]


@njit(parallel=True, cache=True, fastmath=True)
def _gate(R, G, gating, F):  # type: ignore[no-untyped-def]
    for q in prange(len(R)):
        for k in range(len(gating)):
            place, gate, to, n, one = gating[k]
            numbers, gates, gated = _part(R[q], place, n), _part(G[q], gate, n), _part(F[q], to, n)
            offset = R.dtype.type(one)
            for t in range(n):
                gated[t] = numbers[t] * (offset + gates[t])


@njit(parallel=True, cache=True, fastmath=True)
def _gate_gradient(R, G, g_F, gating, g_R, g_G):  # type: ignore[no-untyped-def]
    for q in prange(len(R)):
        g_R[q] = 0
        g_G[q] = 0
        for k in range(len(gating)):
            place, gate, to, n, one = gating[k]
            numbers, gates, g = _part(R[q], place, n), _part(G[q], gate, n), _part(g_F[q], to, n)
            g_numbers, g_gates, offset = _part(g_R[q], place, n), _part(g_G[q], gate, n), R.dtype.type(one)
            for t in range(n):
                g_numbers[t] += g[t] * (offset + gates[t])
                g_gates[t] += g[t] * numbers[t]

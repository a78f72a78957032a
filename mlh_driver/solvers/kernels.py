"""Compiled loops over block-sparse matrices, by numba.

A matrix is an array (blocks, n * n) of row-major blocks beside a symmetric pattern in compressed rows
(``starts``, ``columns``). All loops run over rows in parallel; every sum has a fixed order, so results are
reproducible. ``wanted`` (blocks,) tells which blocks of a product are computed: of a symmetric one, (i, j) or
(j, i). They are in the first rows, as many as ``first`` knows of.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

MAX_BLOCKS_PER_ROW = 2**16
_VECTOR_BITS = 512
_CHAINS = 4  # such sums fit into the registers beside what they add up
_TILE = 8


@njit(parallel=True, cache=True)
def find_slots(starts, columns, rows, wanted):  # type: ignore[no-untyped-def]
    """Where the blocks (rows, wanted) stand; -1 for blocks outside the pattern."""
    slots = np.empty(len(rows), np.int64)
    for q in prange(len(rows)):
        begin, end = starts[rows[q]], starts[rows[q] + 1]
        slot = begin + np.searchsorted(columns[begin:end], wanted[q])
        slots[q] = slot if slot < end and columns[slot] == wanted[q] else -1
    return slots


@njit(inline="always")
def _common(starts, columns, i, j, terms, t):  # type: ignore[no-untyped-def]
    """How many columns rows i and j share. Their places go to ``terms`` from ``t`` on, if it has any."""
    in_i, end_i, end_j = starts[i], starts[i + 1], starts[j + 1]
    in_j = starts[j] + np.searchsorted(columns[starts[j] : end_j], columns[in_i])
    count = 0
    while in_i < end_i and in_j < end_j:
        if columns[in_i] < columns[in_j]:
            in_i += 1
        elif columns[in_j] < columns[in_i]:
            in_j += 1
        else:
            if len(terms):
                terms[t + count, 0] = in_i - starts[i]
                terms[t + count, 1] = in_j - starts[j]
            count += 1
            in_i += 1
            in_j += 1
    return count


@njit(parallel=True, cache=True)
def count_terms(starts, columns, wanted, n_rows):  # type: ignore[no-untyped-def]
    """For every wanted block (i, j), how many k have blocks (i, k) and (j, k): terms of a product."""
    counts = np.zeros(starts[n_rows] + 1, np.int64)
    nowhere = np.empty((0, 2), np.uint16)
    for i in prange(n_rows):
        for slot in range(starts[i], starts[i + 1]):
            if wanted[slot]:
                counts[slot + 1] = _common(starts, columns, i, columns[slot], nowhere, 0)
    return counts


@njit(parallel=True, cache=True)
def list_terms(starts, columns, wanted, n_rows, first):  # type: ignore[no-untyped-def]
    """For every term the places of (i, k) in row i and of (j, k) in row j, as (terms, 2) uint16."""
    terms = np.empty((first[-1], 2), np.uint16)
    for i in prange(n_rows):
        for slot in range(starts[i], starts[i + 1]):
            if wanted[slot]:
                _common(starts, columns, i, columns[slot], terms, first[slot])
    return terms


@njit(parallel=True, cache=True, fastmath={"reassoc", "contract"})
def row_dots(starts, a, b):  # type: ignore[no-untyped-def]
    """(rows,) sums of the elementwise product of two matrices over each row, in double precision."""
    sums = np.zeros(len(starts) - 1)
    for i in prange(len(starts) - 1):
        total = 0.0
        for slot in range(starts[i], starts[i + 1]):
            part = a.dtype.type(0)
            for q in range(a.shape[1]):
                part += a[slot, q] * b[slot, q]
            total += part
        sums[i] = total
    return sums


@lru_cache
def block_kernels(n: int) -> SimpleNamespace:
    """Kernels for n x n blocks: ``transpose``, ``multiply``, ``mirror`` and ``apply``."""
    return SimpleNamespace(
        transpose=_transposition(n),
        multiply=_multiplication(n),
        mirror=_mirroring(n),
        apply=_application(n),
    )


def _shuffled(builder, vector, lanes):  # type: ignore[no-untyped-def]
    """A vector of these lanes of another."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def _blocks(target, builder, kind, value, n):  # type: ignore[no-untyped-def]
    """Of an array of blocks with n numbers: (block, offset, lanes) -> vector, and what stores one there."""
    data = target.make_array(kind)(target, builder, value).data
    scalar, align = target.get_value_type(kind.dtype), kind.dtype.bitwidth // 8

    def address(block, offset, lanes):  # type: ignore[no-untyped-def]
        index = ir.IntType(64)
        place = builder.add(builder.mul(block, ir.Constant(index, n)), ir.Constant(index, offset))
        return builder.bitcast(builder.gep(data, [place]), ir.VectorType(scalar, lanes).as_pointer())

    def load(block, offset, lanes):  # type: ignore[no-untyped-def]
        return builder.load(address(block, offset, lanes), align=align)

    def store(vector, block, offset):  # type: ignore[no-untyped-def]
        builder.store(vector, address(block, offset, vector.type.count), align=align)

    return load, store


def _zeros(builder, scalar, lanes):  # type: ignore[no-untyped-def]
    """A place for a sum of vectors."""
    return cgutils.alloca_once_value(builder, ir.Constant(ir.VectorType(scalar, lanes), [0.0] * lanes))


def _add_product(builder, total, left, right):  # type: ignore[no-untyped-def]
    """total += left right, where ``total`` is such a place."""
    term = builder.fmul(left, right, flags=["contract"])
    builder.store(builder.fadd(builder.load(total), term, flags=["contract"]), total)


@intrinsic(prefer_literal=True)
def _sum_of_products(context, n, out, slot, a, b, terms, a_row, b_row, begin, end):  # type: ignore[no-untyped-def]
    """One block of a product, out[i, j] = sum of a[i, k] b[k, j] over its terms; ``b`` has transposed blocks.

    Written in LLVM's vector types, because compilers find no vectors as short as the rows of a small block:
    several rows of a are one vector (all four of a 4 x 4 block in single precision), and a row of b is
    repeated beside itself. The sums stay in registers; of small blocks one for each row of b, or for every
    second, so that additions do not wait for each other.
    It belongs to the module, and n comes as a literal: what a kernel has in its closure is a part of the name
    under which numba keeps it, and an intrinsic is another one in each process.
    """
    signature = types.void(n, out, slot, a, b, terms, a_row, b_row, begin, end)
    n = n.literal_value
    most = max(1, _VECTOR_BITS // out.dtype.bitwidth // n)
    rows = next(r for r in range(most, 0, -1) if n % r == 0)

    def generate(target, builder, signature, arguments):  # type: ignore[no-untyped-def]
        index, lanes = ir.IntType(64), rows * n
        scalar = target.get_value_type(signature.args[1].dtype)
        (_, store), (load_a, _), (load_b, _) = (
            _blocks(target, builder, signature.args[at], arguments[at], n * n) for at in (1, 3, 4)
        )
        terms = target.make_array(signature.args[5])(target, builder, arguments[5]).data
        slot, (a_row, b_row, begin, end) = arguments[2], arguments[6:]

        def place(pair, which: int):  # type: ignore[no-untyped-def]
            at = builder.add(builder.mul(pair, ir.Constant(index, 2)), ir.Constant(index, which))
            return builder.zext(builder.load(builder.gep(terms, [at])), index)

        groups = range(0, n, rows)
        chains = min(n, max(1, _CHAINS // len(groups)))
        totals = [[_zeros(builder, scalar, lanes) for _ in range(chains)] for _ in groups]
        with cgutils.for_range_slice(builder, begin, end, ir.Constant(index, 1), index) as (at, _):
            a_block, b_block = builder.add(a_row, place(at, 0)), builder.add(b_row, place(at, 1))
            repeated = [
                _shuffled(builder, load_b(b_block, k * n, n), list(range(n)) * rows) for k in range(n)
            ]
            for sums, row in zip(totals, groups, strict=True):
                part = load_a(a_block, row * n, lanes)
                for k in range(n):
                    factor = _shuffled(builder, part, [r * n + k for r in range(rows) for _ in range(n)])
                    _add_product(builder, sums[k % chains], factor, repeated[k])
        for sums, row in zip(totals, groups, strict=True):
            total = builder.load(sums[0])
            for other in sums[1:]:
                total = builder.fadd(total, builder.load(other))
            store(total, slot, row * n)
        return target.get_dummy_value()

    return signature, generate


def _transposition(n: int) -> Callable[..., Any]:
    @njit(parallel=True, cache=True)
    def transpose(a):  # type: ignore[no-untyped-def]
        """Each block transposed in its place."""
        out = np.empty_like(a)
        for slot in prange(len(a)):
            for row in range(n):
                for column in range(n):
                    out[slot, row * n + column] = a[slot, column * n + row]
        return out

    return transpose  # type: ignore[no-any-return]


def _multiplication(n: int) -> Callable[..., Any]:
    @njit(parallel=True, cache=True, fastmath={"contract"})
    def multiply(starts, columns, wanted, n_rows, first, terms, a, b, scale, c, beta, out):  # type: ignore[no-untyped-def]
        """out = scale a b + beta c in the wanted blocks, all symmetric; ``b`` has its blocks transposed.

        Rows that follow each other share most of their columns j, so a few of them take every row of b
        together, while it is in the cache.
        """
        n_columns = len(starts) - 1
        for tile in prange((n_rows + _TILE - 1) // _TILE):
            low, high = tile * _TILE, min(n_rows, (tile + 1) * _TILE)
            next_slots = starts[low:high].copy()
            j = np.int64(0)
            while j < n_columns:
                following = np.int64(n_columns)
                for r in range(high - low):
                    slot = next_slots[r]
                    end = starts[low + r + 1]
                    if slot < end and columns[slot] == j:
                        if wanted[slot]:
                            _sum_of_products(
                                n,
                                out,
                                slot,
                                a,
                                b,
                                terms,
                                starts[low + r],
                                starts[j],
                                first[slot],
                                first[slot + 1],
                            )
                            for q in range(n * n):
                                out[slot, q] = scale * out[slot, q] + beta * c[slot, q]
                        slot += 1
                        next_slots[r] = slot
                    if slot < end:
                        following = min(following, np.int64(columns[slot]))
                j = following

    return multiply  # type: ignore[no-any-return]


def _mirroring(n: int) -> Callable[..., Any]:
    @njit(parallel=True, cache=True)
    def mirror(mirrored, transposes, out):  # type: ignore[no-untyped-def]
        """The blocks ``mirrored`` (blocks,) of a symmetric matrix, from their transposes."""
        for slot in prange(len(mirrored)):
            if mirrored[slot]:
                source = transposes[slot]
                for row in range(n):
                    for column in range(n):
                        out[slot, row * n + column] = out[source, column * n + row]

    return mirror  # type: ignore[no-any-return]


@intrinsic(prefer_literal=True)
def _row_times_vector(context, n, columns, a, x, begin, end, y, i):  # type: ignore[no-untyped-def]
    """y[i] = sum of a[slot] x[columns[slot]] over the slots of a row, in vectors as above."""
    signature = types.void(n, columns, a, x, begin, end, y, i)
    n = n.literal_value

    def generate(target, builder, signature, arguments):  # type: ignore[no-untyped-def]
        index = ir.IntType(64)
        scalar = target.get_value_type(signature.args[2].dtype)
        columns = target.make_array(signature.args[1])(target, builder, arguments[1]).data
        (load_a, _), (load_x, _), (_, store) = (
            _blocks(target, builder, signature.args[at], arguments[at], size)
            for at, size in ((2, n * n), (3, n), (6, n))
        )
        (begin, end), i = arguments[4:6], arguments[7]
        total = _zeros(builder, scalar, n * n)
        with cgutils.for_range_slice(builder, begin, end, ir.Constant(index, 1), index) as (slot, _):
            column = builder.sext(builder.load(builder.gep(columns, [slot])), index)
            repeated = _shuffled(builder, load_x(column, 0, n), list(range(n)) * n)
            _add_product(builder, total, load_a(slot, 0, n * n), repeated)
        product = builder.load(total)
        first, *others = (_shuffled(builder, product, list(range(column, n * n, n))) for column in range(n))
        for other in others:
            first = builder.fadd(first, other)
        store(first, i, 0)
        return target.get_dummy_value()

    return signature, generate


def _application(n: int) -> Callable[..., Any]:
    @njit(parallel=True, cache=True)
    def apply(starts, columns, a, x):  # type: ignore[no-untyped-def]
        """a x in the first rows, as many as ``starts`` knows of, for a vector (columns, n)."""
        y = np.empty((len(starts) - 1, n), x.dtype)
        for i in prange(len(y)):
            _row_times_vector(n, columns, a, x, starts[i], starts[i + 1], y, i)
        return y

    return apply  # type: ignore[no-any-return]

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
_LANES = 16
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
def _first_wanted(starts, wanted, i):  # type: ignore[no-untyped-def]
    """The first slot of row i that is wanted, or its end."""
    slot = starts[i]
    while slot < starts[i + 1] and not wanted[slot]:
        slot += 1
    return slot


@njit(inline="always")
def _common(starts, columns, wanted, i, k, in_i, terms, t):  # type: ignore[no-untyped-def]
    """How many columns rows i and k share that are wanted in row i, from slot ``in_i`` on.

    Their places go to ``terms`` from ``t`` on, if it has any.
    """
    end_i, end_k = starts[i + 1], starts[k + 1]
    if in_i == end_i:
        return 0
    in_k = starts[k] + np.searchsorted(columns[starts[k] : end_k], columns[in_i])
    count = 0
    while in_i < end_i and in_k < end_k:
        if columns[in_i] < columns[in_k]:
            in_i += 1
        elif columns[in_k] < columns[in_i]:
            in_k += 1
        else:
            if wanted[in_i]:
                if len(terms):
                    terms[t + count, 0] = in_i - starts[i]
                    terms[t + count, 1] = in_k - starts[k]
                count += 1
            in_i += 1
            in_k += 1
    return count


@njit(parallel=True, cache=True)
def count_terms(starts, columns, wanted, n_rows):  # type: ignore[no-untyped-def]
    """For every block (i, k), how many j have blocks (k, j) and wanted ones (i, j): terms of a product."""
    counts = np.zeros(starts[n_rows] + 1, np.int64)
    nowhere = np.empty((0, 2), np.uint16)
    for i in prange(n_rows):
        begin = _first_wanted(starts, wanted, i)
        for slot in range(starts[i], starts[i + 1]):
            counts[slot + 1] = _common(starts, columns, wanted, i, columns[slot], begin, nowhere, 0)
    return counts


@njit(parallel=True, cache=True)
def list_terms(starts, columns, wanted, n_rows, first):  # type: ignore[no-untyped-def]
    """For every term the places of (i, j) in row i and of (k, j) in row k, as (terms, 2) uint16."""
    terms = np.empty((first[-1], 2), np.uint16)
    for i in prange(n_rows):
        begin = _first_wanted(starts, wanted, i)
        for slot in range(starts[i], starts[i + 1]):
            _common(starts, columns, wanted, i, columns[slot], begin, terms, first[slot])
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
    """Kernels for n x n blocks: ``multiply``, ``mirror`` and ``apply``."""
    return SimpleNamespace(multiply=_multiplication(n), mirror=_mirroring(n), apply=_application(n))


def _shuffled(builder, vector, lanes):  # type: ignore[no-untyped-def]
    """A vector of these lanes of another."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


@intrinsic(prefer_literal=True)
def _accumulate(context, n, out, a, b, terms, out_row, slot, b_row, begin, end):  # type: ignore[no-untyped-def]
    """The inner loop of a product, out[i, j] += a[i, k] b[k, j] over the terms of one block (i, k).

    Written in LLVM's vector types, because compilers find no vectors as short as the rows of a small block:
    several rows of out are one vector (all four of a 4 x 4 block), and a row of b is repeated beside itself.
    It belongs to the module, and n comes as a literal: what a kernel has in its closure is a part of the name
    under which numba keeps it, and an intrinsic is another one in each process.
    """
    signature = types.void(n, out, a, b, terms, out_row, slot, b_row, begin, end)
    n = n.literal_value
    rows = next(r for r in range(max(1, _LANES // n), 0, -1) if n % r == 0)

    def generate(target, builder, signature, arguments):  # type: ignore[no-untyped-def]
        index = ir.IntType(64)
        scalar = target.get_value_type(signature.args[1].dtype)
        wide, narrow = ir.VectorType(scalar, rows * n), ir.VectorType(scalar, n)
        out, a, b, terms = (
            target.make_array(kind)(target, builder, value).data
            for kind, value in zip(signature.args[1:5], arguments[1:5], strict=True)
        )
        out_row, slot, b_row, begin, end = arguments[5:]
        bytes_each = signature.args[1].dtype.bitwidth // 8

        def constant(value: int) -> ir.Constant:
            return ir.Constant(index, value)

        def address(base, block, offset, vector):  # type: ignore[no-untyped-def]
            place = builder.add(builder.mul(block, constant(n * n)), constant(offset))
            return builder.bitcast(builder.gep(base, [place]), vector.as_pointer())

        factors = []
        for row in range(0, n, rows):
            part = builder.load(address(a, slot, row * n, wide), align=bytes_each)
            factors.append([
                _shuffled(builder, part, [r * n + k for r in range(rows) for _ in range(n)])
                for k in range(n)
            ])  # fmt: skip
        with cgutils.for_range_slice(builder, begin, end, constant(1), index) as (at, _):
            pair = builder.mul(at, constant(2))
            in_out = builder.zext(builder.load(builder.gep(terms, [pair])), index)
            in_b = builder.zext(builder.load(builder.gep(terms, [builder.add(pair, constant(1))])), index)
            out_block, b_block = builder.add(out_row, in_out), builder.add(b_row, in_b)
            rows_of_b = [builder.load(address(b, b_block, k * n, narrow), align=bytes_each) for k in range(n)]
            repeated = [_shuffled(builder, row_of_b, list(range(n)) * rows) for row_of_b in rows_of_b]
            for group, factor in enumerate(factors):
                place = address(out, out_block, group * rows * n, wide)
                total = builder.load(place, align=bytes_each)
                for left, right in zip(factor, repeated, strict=True):
                    term = builder.fmul(left, right, flags=["contract"])
                    total = builder.fadd(total, term, flags=["contract"])
                builder.store(total, place, align=bytes_each)
        return target.get_dummy_value()

    return signature, generate


def _multiplication(n: int) -> Callable[..., Any]:
    @njit(parallel=True, cache=True, fastmath={"contract"})
    def multiply(starts, columns, wanted, n_rows, first, terms, a, b, scale, c, beta, out):  # type: ignore[no-untyped-def]
        """out = scale a b + beta c in the wanted blocks, all symmetric.

        Rows that follow each other share most of their columns k, so a few of them take every row of b
        together, while it is in the cache.
        """
        n_columns = len(starts) - 1
        for tile in prange((n_rows + _TILE - 1) // _TILE):
            low, high = tile * _TILE, min(n_rows, (tile + 1) * _TILE)
            for slot in range(starts[low], starts[high]):
                if wanted[slot]:
                    out[slot] = 0
            next_slots = starts[low:high].copy()
            k = np.int64(0)
            while k < n_columns:
                following = np.int64(n_columns)
                for r in range(high - low):
                    slot = next_slots[r]
                    end = starts[low + r + 1]
                    if slot < end and columns[slot] == k:
                        _accumulate(
                            n,
                            out,
                            a,
                            b,
                            terms,
                            starts[low + r],
                            slot,
                            starts[k],
                            first[slot],
                            first[slot + 1],
                        )
                        slot += 1
                        next_slots[r] = slot
                    if slot < end:
                        following = min(following, np.int64(columns[slot]))
                k = following
            for slot in range(starts[low], starts[high]):
                if wanted[slot]:
                    for q in range(n * n):
                        out[slot, q] = scale * out[slot, q] + beta * c[slot, q]

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
    """y[i] = sum of a[slot] x[columns[slot]] over the slots of a row, in vectors like :func:`_accumulate`."""
    signature = types.void(n, columns, a, x, begin, end, y, i)
    n = n.literal_value

    def generate(target, builder, signature, arguments):  # type: ignore[no-untyped-def]
        index = ir.IntType(64)
        scalar = target.get_value_type(signature.args[2].dtype)
        wide, narrow = ir.VectorType(scalar, n * n), ir.VectorType(scalar, n)
        bytes_each = signature.args[2].dtype.bitwidth // 8
        columns, a, x, y = (
            target.make_array(signature.args[at])(target, builder, arguments[at]).data for at in (1, 2, 3, 6)
        )
        begin, end, i = arguments[4], arguments[5], arguments[7]

        def load(base, place, vector):  # type: ignore[no-untyped-def]
            at = builder.gep(base, [builder.mul(place, ir.Constant(index, vector.count))])
            return builder.load(builder.bitcast(at, vector.as_pointer()), align=bytes_each)

        total = cgutils.alloca_once_value(builder, ir.Constant(wide, [0.0] * (n * n)))
        with cgutils.for_range_slice(builder, begin, end, ir.Constant(index, 1), index) as (slot, _):
            column = builder.sext(builder.load(builder.gep(columns, [slot])), index)
            repeated = _shuffled(builder, load(x, column, narrow), list(range(n)) * n)
            term = builder.fmul(load(a, slot, wide), repeated, flags=["contract"])
            builder.store(builder.fadd(builder.load(total), term, flags=["contract"]), total)
        product = builder.load(total)
        parts = [_shuffled(builder, product, list(range(column, n * n, n))) for column in range(n)]
        result = parts[0]
        for part in parts[1:]:
            result = builder.fadd(result, part)
        place = builder.gep(y, [builder.mul(i, ir.Constant(index, n))])
        builder.store(result, builder.bitcast(place, narrow.as_pointer()), align=bytes_each)
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

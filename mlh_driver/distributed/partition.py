"""Who owns which atoms: recursive bisection, and what lies around a part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlh_driver.system import Array, System, fractional_positions, widths


def bisected(system: System, n_parts: int) -> NDArray[np.int64]:
    """(N,) the part of each atom; parts are boxes of equal numbers of atoms, as nearly as can be.

    A box is halved across the direction in which it is longest, again and again. There must be ``n_parts``
    atoms at least.
    """
    fractional, lengths = fractional_positions(system), widths(system.cell)
    owner = np.zeros(len(system), dtype=np.int64)

    def split(atoms: NDArray[np.int64], low: Array, high: Array, first: int, count: int) -> None:
        owner[atoms] = first
        if count == 1:
            return
        axis = int(((high - low) * lengths).argmax())
        left = count // 2
        n_left = min(max(round(len(atoms) * left / count), left), len(atoms) - (count - left))
        ordered = atoms[np.argsort(fractional[atoms, axis], kind="stable")]
        middle = fractional[ordered[n_left], axis]
        ends_left, starts_right = high.copy(), low.copy()
        ends_left[axis] = starts_right[axis] = middle
        split(ordered[:n_left], low, ends_left, first, left)
        split(ordered[n_left:], starts_right, high, first + left, count - left)

    split(np.arange(len(system)), np.zeros(3), np.ones(3), 0, n_parts)
    return owner


def around(system: System, own: NDArray[np.int64], reach_A: float) -> NDArray[np.int64]:
    """Atoms, others than ``own``, in the box of these and ``reach_A`` around it: all within this distance."""
    fractional = fractional_positions(system)
    low, high = fractional[own].min(axis=0), fractional[own].max(axis=0)
    reach = reach_A / widths(system.cell) + 1e-9
    size = high - low + 2.0 * reach
    within = ((fractional - (low - reach)) % 1.0 <= size) | (size >= 1.0)
    inside = within.all(axis=1)
    inside[own] = False
    return np.flatnonzero(inside)

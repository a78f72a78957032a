"""Narrow cells are repeated, since one point of the Brillouin zone (Gamma) says too little about them.

Models are trained at Gamma, on cells that are wide enough for it. The energy of a narrower cell at Gamma is
another quantity: in silica, 1 meV per atom off at widths of 8.5 Å (quartz) and 9.9 Å (cristobalite), 2 where
one side is 6.9 Å, and 90 in unit cells. Gamma of a cell that is repeated n times is a mesh of n points of the
cell itself.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ase.geometry import minkowski_reduce

from mlh_driver.results import EXTENSIVE, PER_ATOM, Results
from mlh_driver.system import Array, System, displacements, widths

Repeats = tuple[int, int, int]
ONCE: Repeats = (1, 1, 1)
#: Cells at least this part as wide as the narrowest of the training are taken as they are.
NARROWER = 0.85
#: A cell that breathes around the least width keeps its repeats within this part of it, for smooth energies.
KEPT = 0.1
#: So much, and no more, the cell and the atoms move from one step of a trajectory to the next.
STEP, STEP_A = 0.02, 1.0


class CellRepeater:
    """How often cells must be repeated to be ``least_A`` wide; 0 Å: never.

    It remembers what it said of the last structure, and keeps to it while a structure follows that may be the
    next step of its trajectory.
    """

    def __init__(self, least_A: float) -> None:
        self.least_A = least_A
        self._last: tuple[System, Repeats] | None = None

    def __call__(self, system: System) -> Repeats:
        if self.least_A <= 0.0:
            return ONCE
        found = widths(system.cell)
        needed = np.maximum(np.ceil(self.least_A / found - 1e-9), 1).astype(int)
        if (needed > 1).any() and (widths(minkowski_reduce(system.cell)[0]) >= self.least_A).all():
            needed = np.ones(3, int)  # only the choice of the lattice vectors makes it narrow
        elif self._last is not None and _may_follow(self._last[0], system):
            before = np.array(self._last[1])
            enough = before * found >= (1.0 - KEPT) * self.least_A
            sparing = (before - 1) * found < (1.0 + KEPT) * self.least_A
            needed = np.where(enough & sparing, before, needed)
        a, b, c = needed.tolist()
        self._last = (system, (a, b, c))
        return a, b, c


def _may_follow(old: System, new: System) -> bool:
    """Whether a structure may be the step after another; a step of Monte Carlo may exchange elements."""
    if len(old) != len(new):
        return False
    deformation, _, moves = displacements(old, new)
    return bool(abs(deformation - np.eye(3)).max() < STEP and abs(moves).max() < STEP_A)


def repeated(system: System, repeats: Repeats) -> System:
    """The cell beside itself; copies of the structure follow each other."""
    shifts = np.indices(repeats).reshape(3, -1).T @ system.cell
    return System(
        np.tile(system.numbers, len(shifts)),
        (shifts[:, None] + system.positions).reshape(-1, 3),
        np.array(repeats)[:, None] * system.cell,
    )


def folded(results: Results, repeats: Repeats) -> Results:
    """Results for one of the copies; the forces are the derivatives of its energy by its own atoms."""
    n = int(np.prod(repeats))

    def one(values: Array) -> Array:
        return np.asarray(values.reshape(n, -1, *values.shape[1:]).mean(axis=0))

    changed = {name: getattr(results, name) / n for name in EXTENSIVE}
    changed |= {name: one(getattr(results, name)) for name in ("forces", *PER_ATOM)}
    return replace(results, **changed, repeats=repeats)

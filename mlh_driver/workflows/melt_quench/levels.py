"""Highest occupied and lowest empty level along a melt-quench, from its frames: ``levels.csv``.

Levels count from the center of the lowest band (in silica that of O 2s, deep below the gap), since the zero
of potential is the model's own in each structure. So the two curves say which edge of the gap moves; how wide
it is stands in the log of every step. Only the occupied one has a meaning beyond the model: its minimal basis
has no good empty levels.

==============  ===========================================
``step``        of the run
``time_ps``
``homo_eV``     highest occupied level above that center
``lumo_eV``     lowest empty one
==============  ===========================================
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from mlh_driver.engine import Engine
from mlh_driver.files import write_csv
from mlh_driver.small_cells import repeated
from mlh_driver.system import Array, System
from mlh_driver.workflows.defect_levels import Levels

LEVELS = "levels.csv"
COLUMNS = ("step", "time_ps", "homo_eV", "lumo_eV")
#: Each takes a dense diagonalization: half a second for 96 atoms.
MOST_FRAMES = 100
#: Beyond some 500 atoms these would take longer than the relaxation of the glass.
MOST_ORBITALS = 2000


def write_levels(frames: Sequence[tuple[int, Atoms]], timestep_fs: float, engine: Engine, path: Path) -> None:
    """Of frames spread evenly over a run, each with its step; none of large cells, nor of open shells."""
    basis = engine.model.basis
    numbers = _wide(frames[0][1], engine).numbers
    if basis.n_electrons(numbers) % 2 or basis.sizes[basis.species_index(numbers)].sum() > MOST_ORBITALS:
        return
    rows = []
    for k in np.linspace(0, len(frames) - 1, min(MOST_FRAMES, len(frames))).round().astype(int):
        step, atoms = frames[k]
        levels = Levels.of(_wide(atoms, engine), engine)
        center = levels.deep_center(np.unique(levels.atoms))
        rows.append((step, step * timestep_fs / 1e3, levels.homo - center, levels.lumo - center))
    write_csv(path, [COLUMNS, *rows])


def _wide(atoms: Atoms, engine: Engine) -> Atoms:
    """A narrow cell as often as the engine repeats it in the run."""
    system = System.from_ase(atoms)
    return repeated(system, engine.repeater(system)).to_ase()


def read_levels(path: Path) -> dict[str, Array]:
    """The columns; none where there is no file."""
    if not path.exists():
        return {}
    return dict(zip(COLUMNS, np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2).T, strict=True))

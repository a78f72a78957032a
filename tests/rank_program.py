"""``mpiexec -n N python rank_program.py FOLDER``: several processes compute the cases of ``test_ranks.py``.

The first one writes what it gets, or the error that it gets, to ``FOLDER/N.pickle``.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.spacegroup import crystal

from mlh_driver.distributed.ranks import world
from mlh_driver.distributed.team import Team
from mlh_driver.engine_settings import EngineSettings
from mlh_driver.errors import MLHError
from mlh_driver.runtime import launched_ranks
from mlh_driver.system import System

FEW = "fewer atoms than processes, and more again"
COMMON: dict[str, Any] = {"dtype": "float64", "sampling": "gamma"}


def cristobalite(copies: int) -> Atoms:
    """Cells of 12 atoms and 5 x 5 x 7 Å in a row, triclinic, shaken; some atoms are outside the cell."""
    cell = crystal(
        ["Si", "O"],
        [(0.3003, 0.3003, 0), (0.2392, 0.1044, 0.1787)],
        spacegroup=92,
        cellpar=[4.9717, 4.9717, 6.9223, 90, 90, 90],
    )
    atoms = Atoms(cell.numbers, cell.positions, cell=cell.cell, pbc=True) * (1, 1, copies)
    shear = np.array([[0, 0, 0], [0.3, 0, 0], [-0.4, 0.2, 0]])
    atoms.set_cell(atoms.cell.array + shear, scale_atoms=True)
    atoms.rattle(0.03, seed=2)
    atoms.positions[::3] += atoms.cell.array[0] - 2.0 * atoms.cell.array[2]
    return atoms


def moved(atoms: Atoms, scale: float) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(scale, seed=3)
    return atoms


def cases() -> dict[str, tuple[dict[str, Any], list[System]]]:
    """Settings and structures, one after the other in the same engine."""
    row, cell = cristobalite(6), cristobalite(1)
    vacancy, twice, two = cell[:-1], cell.copy(), cell[[0, 4]]
    twice.positions[7] = twice.positions[3]
    cold, hot = {"solver": "sp2"}, {"solver": "foe", "electronic_temperature_K": 3000.0}
    found = {
        "a row so long that a part does not see all of it": (cold, [row, moved(row, 0.005), moved(row, 0.1)]),
        "a cell smaller than the range, and errors": (hot, [cell, vacancy, twice, cell]),
        FEW: (hot, [two, cell]),
    }
    return {
        name: (COMMON | settings, [System.from_ase(atoms) for atoms in structures])
        for name, (settings, structures) in found.items()
    }


def main() -> None:
    ranks = world(launched_ranks())
    answers: dict[str, list[object]] = {}
    for name, (settings, systems) in cases().items():
        team = Team(EngineSettings(**settings), ranks)
        if ranks.rank:
            team.follow()
            continue
        engine = team.engine()
        answers[name] = []
        for system in systems:
            try:
                answers[name].append(engine.compute(system))
            except MLHError as error:
                answers[name].append(error)
        engine.close()
        team.dismiss()
    if not ranks.rank:
        (Path(sys.argv[1]) / f"{ranks.size}.pickle").write_bytes(pickle.dumps(answers))


if __name__ == "__main__":
    main()

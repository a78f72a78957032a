"""``mpiexec -n N python rank_program.py FOLDER``: several processes compute the cases of ``test_ranks.py``.

The first one writes what it gets, or the error that it gets, to ``FOLDER/N.pickle``.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
from conftest import random_model, small_system

from mlh_driver.distributed.ranks import world
from mlh_driver.distributed.team import Team
from mlh_driver.engine_settings import EngineSettings
from mlh_driver.errors import MLHError
from mlh_driver.runtime import launched_ranks
from mlh_driver.small_cells import repeated
from mlh_driver.system import System

HOT = {"solver": "foe", "electronic_temperature_K": 5000.0}
COLD = {"solver": "sp2", "electronic_temperature_K": 0.0}


def row_of_cells() -> System:
    """72 atoms, triclinic, so long that a part does not see all others; some are outside the cell."""
    row = repeated(small_system(), (6, 1, 1))
    shaken = row.positions + np.random.default_rng(0).normal(scale=0.05, size=row.positions.shape)
    shaken[::3] += row.cell[0] - 2.0 * row.cell[2]
    return System(row.numbers, shaken, row.cell)


def moved(system: System, scale: float) -> System:
    shifts = np.random.default_rng(1).normal(scale=scale, size=system.positions.shape)
    return System(system.numbers, system.positions + shifts, system.cell)


def cases() -> dict[str, tuple[dict[str, object], list[System]]]:
    """Settings and structures, one after the other in the same engine; 10 meV make a pattern short."""
    small, row = small_system(), row_of_cells()
    twice = System(small.numbers, np.concatenate([small.positions[:11], small.positions[:1]]), small.cell)
    odd = System(small.numbers[:11], small.positions[:11], small.cell)
    few = System(small.numbers[:2], small.positions[:2], small.cell)
    short = {"error_per_atom_meV": 10.0}
    return {
        "a long cell, cold": (COLD | short, [row, moved(row, 0.01), moved(row, 0.4)]),
        "a long cell, hot": (HOT | short, [row]),
        "cells smaller than the range": (HOT, [small, odd, few, twice, small]),
    }


def main() -> None:
    ranks, model = world(launched_ranks()), random_model()
    answers: dict[str, list[object]] = {}
    for name, (settings, systems) in cases().items():
        team = Team(EngineSettings(model, dtype="float64", **settings), ranks)
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

"""The tasks of a campaign of vacancies: relax a host, a defect of it, or two vacancies; what they leave.

The task of a defect names that of its host, which is done and whose folder is beside its own. Where the host
has no place for a start, the result says so.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlh_driver.engine import Engine
from mlh_driver.system import Array, System
from mlh_driver.workflows.campaign import Inputs
from mlh_driver.workflows.defect_levels import Levels, defect_level
from mlh_driver.workflows.relaxation import RELAXED, Relaxed, read_relaxed, relax
from mlh_driver.workflows.sites import (
    distances_from,
    index_in_defect,
    index_without_two,
    kept_atoms,
    neighbors_of_two,
    pair_of,
    start_geometry,
    start_of_two,
    without,
)
from mlh_driver.workflows.task_inputs import atoms_from, engine_for


def relax_host(inputs: Inputs, folder: Path) -> dict[str, Any]:
    """The task of a host."""
    atoms, engine = atoms_from(inputs["host"]), engine_for(inputs["engine"])
    found = relax(atoms, engine, folder, inputs["fmax_eV_A"], inputs["steps"])
    found.write(folder / RELAXED)
    return {
        **_summary(found),
        "charges": found.results.charges.tolist(),
        "extrapolations": found.results.extrapolations.tolist(),
    }


def relax_vacancy(inputs: Inputs, folder: Path) -> dict[str, Any]:
    """The task of a vacancy or an interstitial from one start."""
    host, _ = _host_of(inputs, folder)
    site, defect = inputs["site"], inputs["defect"]
    start = start_geometry(host, site, inputs["start"])
    if start is None:
        return _impossible(inputs)
    unmoved = start if defect == "interstitial" else without(host, site)
    i, j = index_in_defect(site, pair_of(host, site), defect)
    kept = kept_atoms(len(host), site, defect)
    found, result = _relax_defect(
        inputs, folder, start, unmoved, kept, distances_from(host, site, kept), [i, j]
    )
    return {
        **result,
        "pair_A": float(found.atoms.get_distance(i, j, mic=True)),
        "charges_e": found.results.charges[[i, j]].tolist(),
    }


def relax_two(inputs: Inputs, folder: Path) -> dict[str, Any]:
    """The task of two vacancies together, from one start."""
    host, _ = _host_of(inputs, folder)
    one, other = sites = tuple(inputs["sites"])
    start = start_of_two(host, sites, inputs["start"])
    if start is None:
        return _impossible(inputs)
    kept = np.delete(np.arange(len(host)), sites)
    distances = np.minimum(*(distances_from(host, site, kept) for site in sites))
    unmoved = without(without(host, other), one)
    beside = index_without_two(sites, neighbors_of_two(host, sites))
    found, result = _relax_defect(inputs, folder, start, unmoved, kept, distances, beside)
    pairs = [index_without_two(sites, pair_of(host, site)) for site in sites]
    return {**result, "pairs_A": [float(found.atoms.get_distance(i, j, mic=True)) for i, j in pairs]}


def _impossible(inputs: Inputs) -> dict[str, Any]:
    return {"impossible": f"the host has no place for start {inputs['start']}"}


def _relax_defect(inputs: Inputs, folder: Path, start: Atoms, unmoved: Atoms, kept: NDArray[np.int64],
                  distances: Array, beside: list[int]) -> tuple[Relaxed, dict[str, Any]]:  # fmt: skip
    """The minimum, and what is said of every defect.

    kept, distances: as in :func:`~mlh_driver.workflows.defect_levels.defect_level`
    beside: the atoms next to the defect, as its cell counts
    """
    engine = engine_for(inputs["engine"])
    host, host_levels = _host_of(inputs, folder)
    unmoved_eV = engine.compute(System.from_ase(unmoved)).energy
    found = relax(start, engine, folder, inputs["fmax_eV_A"], inputs["steps"])
    found.write(folder / RELAXED)
    levels = Levels.of(found.atoms, engine)
    level = defect_level(host_levels, levels, kept, distances, host.numbers[kept], beside)
    return found, {**_summary(found), "unmoved_eV": unmoved_eV, "level": asdict(level)}


def _host_of(inputs: Inputs, folder: Path) -> tuple[Atoms, Levels]:
    return _host(folder.parent / inputs["host"], engine_for(inputs["engine"]))


@lru_cache(maxsize=2)
def _host(folder: Path, engine: Engine) -> tuple[Atoms, Levels]:
    """A relaxed host, which does not change any more, with its levels."""
    atoms = read_relaxed(folder)
    return atoms, Levels.of(atoms, engine)


def _summary(found: Relaxed) -> dict[str, Any]:
    return {
        "energy_eV": found.results.energy,
        "steps": found.steps,
        "largest_force_eV_A": found.results.largest_force,
        **found.results.observables(),
        "doubts": found.results.doubts(),
    }

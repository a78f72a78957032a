"""The tasks of a campaign of vacancies: relax a host, a defect of it, or two vacancies; what they leave.

The task of a defect names that of its host, which is done and whose folder is beside its own. Where the host
has no place for a start, the result says so.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
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

#: In eV: an alignment that is off by more is a reason to doubt a level.
ALIGNMENT_eV = 0.02


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


@dataclass(frozen=True)
class Minima:
    """What the starts of a defect led to.

    host, host_eV: name and energy of its host
    results: of each start, by name: what its task returned, or why it failed
    keys:    folders of these tasks
    """

    host: str
    host_eV: float
    results: dict[str, dict[str, Any]]
    keys: dict[str, str]

    @property
    def found(self) -> dict[str, float]:
        """Energy in eV of each start that has a minimum."""
        return {start: each["energy_eV"] for start, each in self.results.items() if "energy_eV" in each}

    @property
    def lowest(self) -> str:
        """The start of the lowest minimum; there is one."""
        return min(self.found, key=self.found.__getitem__)

    @property
    def best(self) -> dict[str, Any]:
        return self.results[self.lowest]

    @property
    def difference_eV(self) -> float:
        return self.found[self.lowest] - self.host_eV

    def columns(self) -> dict[str, Any]:
        """What is said of a defect of any kind."""
        best = self.best
        level = best["level"]
        return {
            "host": self.host,
            "start": self.lowest,
            "key": self.keys[self.lowest],
            "energy_eV": best["energy_eV"],
            "difference_eV": self.difference_eV,
            "relaxation_eV": best["unmoved_eV"] - best["energy_eV"],
            "level_eV": level["above_vbm_eV"],
            "level_on_pair": level["on_pair"],
            "level_ipr": level["inverse_participation_ratio"],
            "levels_residual_eV": level["levels_residual_eV"],
            "deep_residual_eV": level["deep_residual_eV"],
            "band_gap_eV": best["band_gap"],
            "extrapolation": best["extrapolation"],
            "charge_deviation": best["charge_deviation"],
            "steps": best["steps"],
            "largest_force_eV_A": best["largest_force_eV_A"],
            "starts": {start: self._of_start(result) for start, result in self.results.items()},
        }

    def _of_start(self, result: dict[str, Any]) -> dict[str, Any]:
        if "energy_eV" not in result:
            return result
        pair = {"pair_A": result["pair_A"]} if "pair_A" in result else {}
        return {"difference_eV": result["energy_eV"] - self.host_eV, **pair}

    def doubts(self) -> dict[str, str]:
        """Those of the engine, of the alignment, and starts without a minimum."""
        doubts = dict(self.best["doubts"])
        residuals = [self.best["level"][f"{check}_residual_eV"] for check in ("levels", "deep")]
        if any(residual is None or abs(residual) > ALIGNMENT_eV for residual in residuals):
            shown = ", ".join("none found" if r is None else f"{1e3 * r:.0f} meV" for r in residuals)
            doubts["alignment"] = (
                f"the host's levels do not come back (all occupied ones, deep ones: {shown} off): the level "
                "of the defect is as uncertain"
            )
        for start, result in self.results.items():
            if "failed" in result:
                doubts[f"start {start}"] = f"start {start} has no minimum: {result['failed']}"
        return doubts

"""The files of a campaign of vacancies that nobody computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mlh_driver.workflows.campaign import open_campaign
from mlh_driver.workflows.relaxation import RELAXED
from mlh_driver.workflows.sites import describe_site, index_without, rings_of, without
from mlh_driver.workflows.vacancies import Vacancy, VacancyCampaign
from mlh_driver.workflows.vacancy_files import write_files
from mlh_driver.workflows.vacancy_pairs import VacancyPair, pair_name

OBSERVABLES = {"band_gap": 7.0, "homo": -4.5, "extrapolation": 0.2, "charge_deviation": 0.01}
MINIMUM = {**OBSERVABLES, "doubts": {}, "steps": 5}
DEFECT: dict[str, Any] = {
    "start": "unmoved",
    "relaxation_eV": 1.0,
    "level_on_pair": 0.3,
    "level_ipr": 0.1,
    "levels_residual_eV": 0.0,
    "deep_residual_eV": 0.0,
    "charge_deviation": 0.01,
    "steps": 5,
    "largest_force_eV_A": 0.01,
}
"""What a vacancy and a pair of them have alike."""


def write_campaign(
    folder: Path,
    hosts: Mapping[str, Atoms],
    energy_eV: Callable[[Atoms], float],
    sites: Mapping[str, Mapping[int, Atoms]] | None = None,
    mu_eV: float | None = -434.2,
    pairs: Sequence[tuple[str, int, int]] = (),
) -> VacancyCampaign:
    """Of all O sites, or of those with the minima given; extrapolations and the rest by dice.

    pairs: host and two of its sites each, which are empty together
    """
    sites = sites or {
        name: {int(k): without(host, k) for k in np.flatnonzero(host.symbols == "O")}
        for name, host in hosts.items()
    }
    with open_campaign(
        folder,
        {
            "model": {"name": "dice", "reference": "none"},
            "settings": {"element": "O", "defect": "vacancy", "seed": 0, "starts": []},
        },
        1,
    ) as run:
        for name, host in hosts.items():
            _write_minimum(run.folder / "tasks" / name, host, energy_eV(host))
            for site, atoms in sites[name].items():
                _write_minimum(run.folder / "tasks" / f"{name}-{site}", atoms, energy_eV(atoms))
        for name, *two in pairs:
            atoms = without_both(hosts[name], two)
            _write_minimum(run.folder / "tasks" / f"{name}-{two}", atoms, energy_eV(atoms))
    dice = np.random.default_rng(0)
    vacancies = [
        _vacancy(name, host, site, atoms, energy_eV, mu_eV, dice)
        for name, host in hosts.items()
        for site, atoms in sites[name].items()
    ]
    results: dict[str, dict[str, Any]] = {
        name: {"key": name, "energy_eV": energy_eV(host), **MINIMUM} for name, host in hosts.items()
    }
    together = [_pair(name, hosts[name], two, energy_eV, vacancies) for name, *two in pairs]
    found = VacancyCampaign(folder, "O", "vacancy", vacancies, results, [], [], mu_eV, -431.6, together)
    write_files(found)
    return found


def without_both(host: Atoms, sites: Sequence[int]) -> Atoms:
    return without(without(host, max(sites)), min(sites))


def _write_minimum(folder: Path, atoms: Atoms, energy: float) -> None:
    folder.mkdir(parents=True)
    copy = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    copy.calc = SinglePointCalculator(copy, energy=energy, forces=np.zeros((len(copy), 3)))
    ase.io.write(folder / RELAXED, copy)


def _vacancy(
    name: str,
    host: Atoms,
    site: int,
    atoms: Atoms,
    energy_eV: Callable[[Atoms], float],
    mu_eV: float | None,
    dice: np.random.Generator,
) -> Vacancy:
    place = describe_site(host, site, rings_of(host))
    difference = energy_eV(atoms) - energy_eV(host)
    level, gap, extrapolation = dice.uniform([0.1, 6.5, 0.1], [0.7, 7.5, 0.9])
    i, j = index_without(site, place["pair"])
    return Vacancy(
        name=f"{name}_v_O_site{site}",
        host=name,
        site=site,
        equivalent=1,
        key=f"{name}-{site}",
        energy_eV=energy_eV(atoms),
        difference_eV=difference,
        from_atoms_eV=difference - 431.6,
        formation_eV=None if mu_eV is None else difference + mu_eV,
        pair_A=float(atoms.get_distance(i, j, mic=True)),
        charge_1_e=1.3,
        charge_2_e=1.3,
        level_eV=level,
        band_gap_eV=gap,
        charge_before_e=-0.85,
        extrapolation_before=0.1,
        extrapolation=extrapolation,
        starts={"unmoved": {"difference_eV": difference, "pair_A": 2.4}},
        doubts={"extrapolation": f"extrapolation is {extrapolation:.2f} </script><b>"}
        if extrapolation > 0.8
        else {},
        **place,
        **DEFECT,
    )


def _pair(
    name: str, host: Atoms, sites: list[int], energy_eV: Callable[[Atoms], float], singles: list[Vacancy]
) -> VacancyPair:
    energy = energy_eV(without_both(host, sites))
    difference = energy - energy_eV(host)
    alone = [single.difference_eV for single in singles if single.host == name and single.site in sites]
    return VacancyPair(
        name=pair_name(name, "O", (sites[0], sites[1])),
        host=name,
        sites=sites,
        distance_A=float(host.get_distance(*sites, mic=True)),
        neighbors=[0, 1],
        key=f"{name}-{sites}",
        energy_eV=energy,
        difference_eV=difference,
        from_atoms_eV=difference - 2 * 431.6,
        formation_eV=difference - 2 * 434.2,
        interaction_eV=difference - sum(alone),
        pair_1_A=2.4,
        pair_2_A=2.4,
        level_eV=0.5,
        band_gap_eV=6.0,
        extrapolation=0.3,
        starts={},
        doubts={},
        **DEFECT,
    )

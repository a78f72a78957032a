"""Neutral vacancies, or interstitials, of one or several hosts: every site, or a sample, from several starts.

    hosts --relax--> relaxed hosts --choose sites, starts--> vacancies --relax--> the lowest of each site

    E_f = E(defect) - E(host) + mu  (interstitials: - mu),     relaxation energy = E(unmoved) - E(defect)

Each arrow called *relax* is a task of a :mod:`~mlh_driver.workflows.campaign`: one for each host, and one for
each start of each site. A task of a vacancy names that of its host, whose relaxed structure it reads; it
returns energies, the level of the defect (:mod:`~mlh_driver.workflows.defect_levels`) and the engine's
doubts. So :func:`run_vacancies` only puts together what the tasks left: it can be called again at any time,
and :mod:`~mlh_driver.workflows.vacancy_files` writes its tables from that alone. mu is no part of any task,
and may be another one each time.

Sites are atoms of the host, counted from 0, and keep their number in every table: atoms of a vacancy follow
the order of the host, with one missing. Hosts keep their cells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from mlh_driver.engine import Engine
from mlh_driver.engine_settings import EngineSettings
from mlh_driver.errors import InputError
from mlh_driver.model_files import model_digest
from mlh_driver.small_cells import ONCE
from mlh_driver.system import System
from mlh_driver.workflows.campaign import (
    Campaign,
    Inputs,
    Pool,
    Progress,
    State,
    Task,
    in_this_process,
    open_campaign,
    state,
    states,
)
from mlh_driver.workflows.defect_levels import Levels, defect_level
from mlh_driver.workflows.relaxation import RELAXED, Relaxed, read_relaxed, relax
from mlh_driver.workflows.sites import (
    DEFECTS,
    choose_sites,
    describe_site,
    distances_from,
    index_in_defect,
    kept_atoms,
    pair_of,
    rings_of,
    start_geometry,
    without,
)
from mlh_driver.workflows.task_inputs import atoms_fields, atoms_from, engine_fields, engine_for

#: In eV: an alignment that is off by more is a reason to doubt a level.
ALIGNMENT_eV = 0.02


@dataclass(frozen=True)
class VacancySettings:
    """What is computed, beside the hosts and the engine.

    element: symbol of what is removed or put in
    defect:  ``vacancy``, or ``interstitial``: a second atom beside the site, in a peroxy bridge
    sites:   atoms of every host, counted from 0; none means one of each symmetry orbit
    sample:  so many of them only, drawn at random in each host by ``seed``; 0 means all
    starts:  of the relaxation of each site, see :mod:`mlh_driver.workflows.sites`; the lowest minimum wins
    fmax_eV_A, steps: a relaxation ends when no force is larger, and fails after so many steps
    """

    element: str = "O"
    sites: tuple[int, ...] = ()
    sample: int = 0
    seed: int = 0
    starts: tuple[str, ...] = ("unmoved", "together", "apart")
    fmax_eV_A: float = 0.02
    steps: int = 300
    defect: str = "vacancy"

    def __post_init__(self) -> None:
        if self.element not in atomic_numbers:
            raise InputError(f"element is {self.element!r}; give a chemical symbol, such as O")
        if self.sites and self.sample:
            raise InputError(f"sites and a sample of {self.sample} were asked for; give one of them")
        if self.defect not in DEFECTS:
            raise InputError(f"defect is {self.defect!r}; choose {' or '.join(DEFECTS)}")
        known = DEFECTS[self.defect]
        if not self.starts or not set(self.starts) <= set(known):
            raise InputError(f"starts are {', '.join(self.starts) or 'none'}; choose of {', '.join(known)}")
        if self.starts == ("puckered",):
            raise InputError("not every site can start puckered; give another start, too, such as unmoved")
        if not self.fmax_eV_A > 0.0 or self.steps < 1 or self.sample < 0:
            raise InputError(
                f"fmax_eV_A is {self.fmax_eV_A}, steps {self.steps} and sample {self.sample}; give "
                "positive numbers"
            )


@dataclass(frozen=True)
class Vacancy:
    """A site with a vacancy or an interstitial, and the lowest of its minima.

    name:     unique: host, what is missing or too much, and where: ``glass_v_O_site32``, ``glass_i_O_site32``
    equivalent: how many sites of the host it stands for, by symmetry
    start, key: which start led here, and the folder of its task
    energy_eV, difference_eV: E(defect) and E(defect) - E(host)
    from_atom_eV: the same with mu the model's energy of an isolated atom
    formation_eV: the same with the mu that was given, None without
    relaxation_eV: energy of the host's geometry without the atom, or of the start of an interstitial, minus
              ``energy_eV``
    pair:     the two atoms beside the site, as the host counts
    pair_before_A, pair_A: their distance in the host and here
    charge_1_e, charge_2_e: of the pair, here
    level_eV, level_on_pair, level_participation: see :class:`~mlh_driver.workflows.defect_levels.DefectLevel`
    levels_residual_eV, deep_residual_eV: what the checks of the alignment leave
    bonds, bond_1_A, bond_2_A, angle_deg, ring: see :func:`~mlh_driver.workflows.sites.describe_site`
    charge_before_e, extrapolation_before: of the atom of the site, in the host
    extrapolation, charge_deviation, band_gap_eV, steps, largest_force_eV_A: of this minimum
    starts:   of each start the difference_eV and pair_A, or why it failed or was impossible
    doubts:   reasons not to trust these numbers, by kind
    """

    name: str
    host: str
    site: int
    equivalent: int
    start: str
    key: str
    energy_eV: float
    difference_eV: float
    from_atom_eV: float
    formation_eV: float | None
    relaxation_eV: float
    pair: list[int]
    pair_before_A: float
    pair_A: float
    charge_1_e: float
    charge_2_e: float
    level_eV: float
    level_on_pair: float
    level_participation: float
    levels_residual_eV: float | None
    deep_residual_eV: float
    band_gap_eV: float
    bonds: int
    bond_1_A: float
    bond_2_A: float
    angle_deg: float
    ring: int | None
    charge_before_e: float
    extrapolation_before: float
    extrapolation: float
    charge_deviation: float
    steps: int
    largest_force_eV_A: float
    starts: dict[str, dict[str, Any]]
    doubts: dict[str, str]

    @property
    def reported_eV(self) -> float:
        """The formation energy, or without mu the energy from an isolated atom."""
        return self.from_atom_eV if self.formation_eV is None else self.formation_eV


@dataclass(frozen=True)
class VacancyCampaign:
    """All that a campaign has found.

    vacancies: of all sites with at least one minimum
    hosts:     results of the tasks of the hosts, by name, with the ``key`` of each
    failed:    tasks that failed, with the reasons
    missing:   names of the sites, and of the hosts, without a result
    mu_eV:     as given; atom_eV: the model's energy of an isolated atom of ``element``
    """

    folder: Path
    element: str
    defect: str
    vacancies: list[Vacancy]
    hosts: dict[str, dict[str, Any]]
    failed: list[State]
    missing: list[str]
    mu_eV: float | None
    atom_eV: float


def run_vacancies(
    hosts: Mapping[str, Atoms],
    folder: Path,
    settings: VacancySettings | None = None,
    engine: EngineSettings | None = None,
    *,
    mu_eV: float | None = None,
    pool: Pool = in_this_process,
    progress: Progress | None = None,
) -> VacancyCampaign:
    """Relax hosts and their vacancies, or go on with that in ``folder``, and put the results together.

    mu_eV: chemical potential of the element, on the energy scale of the model's reference

    A task that fails is left out and listed. Raises InputError, before anything is computed, for hosts, sites
    or settings that cannot be used, and for a folder with a campaign of other settings.
    """
    settings, engine = settings or VacancySettings(), engine or EngineSettings()
    used = engine_fields(engine)
    model = engine_for(used)
    sites = {name: _sites(name, atoms, k, settings, model) for k, (name, atoms) in enumerate(hosts.items())}
    number = len(hosts) + len(settings.starts) * sum(map(len, sites.values()))
    with open_campaign(folder, _described(hosts, sites, settings, used, model), number) as campaign:
        convergence = {"engine": used, "fmax_eV_A": settings.fmax_eV_A, "steps": settings.steps}
        host_tasks = {
            name: Task(name, relax_host, {"host": atoms_fields(atoms), **convergence})
            for name, atoms in hosts.items()
        }
        found = campaign.run(list(host_tasks.values()), pool, "hosts", progress)
        tasks = {
            (name, site, start): Task(
                f"{_name(name, settings, site)}_{start}",
                relax_vacancy,
                {
                    "host": host_tasks[name].key,
                    "site": site,
                    "defect": settings.defect,
                    "start": start,
                    **convergence,
                },
            )
            for name in found
            for site in sites[name]
            for start in settings.starts
        }
        results = campaign.run(list(tasks.values()), pool, "defects", progress)
        collector = _Collector(campaign, settings, model, mu_eV, host_tasks, tasks, found, results)
        return collector.campaign(sites)


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
    """The task of a vacancy or an interstitial from one start; the host's task, done, is beside it. Where the
    host has no place for that start, the result says so.
    """
    engine = engine_for(inputs["engine"])
    host, host_levels = _host(folder.parent / inputs["host"], engine)
    site, defect = inputs["site"], inputs["defect"]
    start = start_geometry(host, site, inputs["start"])
    if start is None:
        return {"impossible": f"the host has no place for start {inputs['start']}"}
    unmoved = start if defect == "interstitial" else without(host, site)
    unmoved_eV = engine.compute(System.from_ase(unmoved)).energy
    found = relax(start, engine, folder, inputs["fmax_eV_A"], inputs["steps"])
    found.write(folder / RELAXED)
    i, j = index_in_defect(site, pair_of(host, site), defect)
    kept = kept_atoms(len(host), site, defect)
    level = defect_level(
        host_levels,
        Levels.of(found.atoms, engine),
        kept,
        distances_from(host, site, kept),
        host.numbers[kept],
        [i, j],
    )
    return {
        **_summary(found),
        "unmoved_eV": unmoved_eV,
        "pair_A": float(found.atoms.get_distance(i, j, mic=True)),
        "charges_e": found.results.charges[[i, j]].tolist(),
        "level": asdict(level),
    }


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


def _sites(name: str, atoms: Atoms, k: int, settings: VacancySettings, engine: Engine) -> dict[int, int]:
    """Checked sites of a host; raises InputError with its name."""
    try:
        system = System.from_ase(atoms)
        engine.check_species(system.numbers)
        repeats = engine.repeater(system)
        if repeats != ONCE:
            raise InputError(
                "the cell is so narrow that a vacancy would meet its own images; give a supercell, "
                f"{' x '.join(map(str, repeats))} at least"
            )
        found = choose_sites(atoms, settings.element, settings.sites, settings.sample, (settings.seed, k))
        for site in found:
            pair_of(atoms, site)
        return found
    except InputError as error:
        raise InputError(f"host {name}: {error}") from error


def _described(
    hosts: Mapping[str, Atoms],
    sites: Mapping[str, dict[int, int]],
    settings: VacancySettings,
    engine: Mapping[str, Any],
    model: Engine,
) -> dict[str, Any]:
    """What campaign.json holds."""
    metadata = model.model.metadata
    return {
        "workflow": "vacancies",
        "model": {
            "name": metadata.name,
            "reference": metadata.reference,
            "digest": model_digest(engine["model"]),
        },
        "engine": engine,
        "settings": asdict(settings),
        "hosts": {
            name: {
                "formula": atoms.get_chemical_formula(),
                "sha256": hashlib.sha256(repr(atoms_fields(atoms)).encode()).hexdigest(),
                "sites": list(sites[name]),
            }
            for name, atoms in hosts.items()
        },
    }


def _name(host: str, settings: VacancySettings, site: int) -> str:
    return f"{host}_{settings.defect[0]}_{settings.element}_site{site}"


@dataclass(frozen=True)
class _Collector:
    """Puts the results of the tasks together."""

    run: Campaign
    settings: VacancySettings
    engine: Engine
    mu_eV: float | None
    host_tasks: dict[str, Task]
    tasks: dict[tuple[str, int, str], Task]
    hosts: dict[str, dict[str, Any]]
    results: dict[str, dict[str, Any]]

    def campaign(self, sites: dict[str, dict[int, int]]) -> VacancyCampaign:
        vacancies: list[Vacancy] = []
        for host in self.hosts:
            relaxed = read_relaxed(self.run.task_folder(self.host_tasks[host]))
            rings = rings_of(relaxed)
            for site, equivalent in sites[host].items():
                starts = self._starts(host, site)
                if any("energy_eV" in result for result in starts.values()):
                    place = describe_site(relaxed, site, rings)
                    vacancies.append(self._vacancy(host, site, equivalent, starts, place))
        there = {vacancy.name for vacancy in vacancies}
        names = [_name(host, self.settings, site) for host in self.hosts for site in sites[host]]
        return VacancyCampaign(
            self.run.folder,
            self.settings.element,
            self.settings.defect,
            vacancies,
            {host: {"key": self.host_tasks[host].key, **result} for host, result in self.hosts.items()},
            [task for task in states(self.run.folder) if task.status == "failed"],
            [name for name in (*self.host_tasks, *names) if name not in self.hosts and name not in there],
            self.mu_eV,
            self._atom_eV,
        )

    @property
    def _atom_eV(self) -> float:
        metadata = self.engine.model.metadata
        return metadata.atom_energies_eV[metadata.basis.species.index(self.settings.element)]

    def _starts(self, host: str, site: int) -> dict[str, dict[str, Any]]:
        """Result of each start, or why there is none."""
        tasks = {start: self.tasks[host, site, start] for start in self.settings.starts}
        return {
            start: self.results.get(task.name) or {"failed": state(self.run.task_folder(task)).note}
            for start, task in tasks.items()
        }

    def _vacancy(
        self, host: str, site: int, equivalent: int, starts: dict[str, dict[str, Any]], place: dict[str, Any]
    ) -> Vacancy:
        start = min(starts, key=lambda name: starts[name].get("energy_eV", np.inf))
        best, before = starts[start], self.hosts[host]
        difference = best["energy_eV"] - before["energy_eV"]
        missing = -1 if self.settings.defect == "interstitial" else 1
        level = best["level"]
        return Vacancy(
            name=_name(host, self.settings, site),
            host=host,
            site=site,
            equivalent=equivalent,
            start=start,
            key=self.tasks[host, site, start].key,
            energy_eV=best["energy_eV"],
            difference_eV=difference,
            from_atom_eV=difference + missing * self._atom_eV,
            formation_eV=None if self.mu_eV is None else difference + missing * self.mu_eV,
            relaxation_eV=best["unmoved_eV"] - best["energy_eV"],
            pair_A=best["pair_A"],
            charge_1_e=best["charges_e"][0],
            charge_2_e=best["charges_e"][1],
            level_eV=level["above_vbm_eV"],
            level_on_pair=level["on_pair"],
            level_participation=level["participation"],
            levels_residual_eV=level["levels_residual_eV"],
            deep_residual_eV=level["deep_residual_eV"],
            band_gap_eV=best["band_gap"],
            charge_before_e=before["charges"][site],
            extrapolation_before=before["extrapolations"][site],
            extrapolation=best["extrapolation"],
            charge_deviation=best["charge_deviation"],
            steps=best["steps"],
            largest_force_eV_A=best["largest_force_eV_A"],
            starts={name: _of_start(result, before["energy_eV"]) for name, result in starts.items()},
            doubts=_doubts(best, starts),
            **place,
        )


def _of_start(result: dict[str, Any], host_eV: float) -> dict[str, Any]:
    if "energy_eV" not in result:
        return result
    return {"difference_eV": result["energy_eV"] - host_eV, "pair_A": result["pair_A"]}


def _doubts(best: dict[str, Any], starts: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Those of the engine, of the alignment, and starts without a minimum."""
    doubts = dict(best["doubts"])
    residuals = [best["level"][f"{check}_residual_eV"] for check in ("levels", "deep")]
    if any(residual is None or abs(residual) > ALIGNMENT_eV for residual in residuals):
        shown = ", ".join("none found" if r is None else f"{1e3 * r:.0f} meV" for r in residuals)
        doubts["alignment"] = (
            f"the host's levels do not come back (all occupied ones, deep ones: {shown} off): the level of "
            "the defect is as uncertain"
        )
    for name, result in starts.items():
        if "failed" in result:
            doubts[f"start {name}"] = f"start {name} has no minimum: {result['failed']}"
    return doubts

"""Neutral vacancies, or interstitials, of one or several hosts: every site, or a sample, from several starts.

    hosts --relax--> relaxed hosts --choose sites, starts--> vacancies --relax--> the lowest of each site

    E_f = E(defect) - E(host) + mu  (interstitials: - mu),     relaxation energy = E(unmoved) - E(defect)

Each arrow called *relax* is a task (:mod:`~mlh_driver.workflows.vacancy_tasks`) of a
:mod:`~mlh_driver.workflows.campaign`: one for each host, one for each start of each site, and one for each
start of two sites together where pairs are asked for (:mod:`~mlh_driver.workflows.vacancy_pairs`). A task of
a vacancy names that of its host, whose relaxed structure it reads; it returns energies, the level of the
defect (:mod:`~mlh_driver.workflows.defect_levels`) and the engine's doubts. So :func:`run_vacancies` only
puts together what the tasks left: it can be called again at any time, and
:mod:`~mlh_driver.workflows.vacancy_files` writes its tables from that alone. mu is no part of any task, and
may be another one each time.

Sites are atoms of the host, counted from 0, and keep their number in every table: atoms of a vacancy follow
the order of the host, with one missing. Hosts keep their cells.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from operator import index
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
    CampaignProgress,
    Pool,
    State,
    Task,
    in_this_process,
    open_campaign,
    state,
    states,
)
from mlh_driver.workflows.defect_minima import Defect, Minima
from mlh_driver.workflows.relaxation import read_relaxed
from mlh_driver.workflows.sites import (
    DEFECTS,
    USUAL_STARTS,
    choose_sites,
    choose_two_sites,
    describe_site,
    pair_of,
    rings_of,
)
from mlh_driver.workflows.task_inputs import atoms_fields, engine_fields, engine_for
from mlh_driver.workflows.vacancy_pairs import VacancyPair, pair_name, vacancy_pair
from mlh_driver.workflows.vacancy_tasks import relax_host, relax_two, relax_vacancy

Place = int | tuple[int, int]
"""A site, or the two of a pair, as the host counts."""


@dataclass(frozen=True)
class VacancySettings:
    """What is computed, beside the hosts and the engine.

    element: symbol of what is removed or put in
    defect:  ``vacancy``, or ``interstitial``: a second atom beside the site, in a peroxy bridge
    sites:   atoms of every host, counted from 0; none means one of each symmetry orbit
    sample:  so many of them only, drawn at random in each host by ``seed``; 0 means all
    starts:  of the relaxation of each site, see :mod:`mlh_driver.workflows.sites`; the lowest minimum wins.
             If none is named, the usual ones of the defect
    pairs:   vacancies by twos: each two of ``sites``, or those at most ``within_A`` apart, or where that is 0
             each site with its nearest one; a ``sample`` of them, or all. Of single ones those of the pairs
    fmax_eV_A, steps: a relaxation ends when no force is larger, and fails after so many steps
    """

    element: str = "O"
    sites: tuple[int, ...] = ()
    sample: int = 0
    seed: int = 0
    starts: tuple[str, ...] = ()
    fmax_eV_A: float = 0.02
    steps: int = 300
    defect: str = "vacancy"
    pairs: bool = False
    within_A: float = 0.0

    def __post_init__(self) -> None:
        if self.element not in atomic_numbers:
            raise InputError(f"element is {self.element!r}; give a chemical symbol, such as O")
        self._make_plain()
        if self.sites and self.sample:
            raise InputError(f"sites and a sample of {self.sample} were asked for; give one of them")
        if self.defect not in DEFECTS:
            raise InputError(f"defect is {self.defect!r}; choose {', '.join(DEFECTS)} or, as a command, pair")
        object.__setattr__(self, "starts", self.starts or USUAL_STARTS[self.defect])
        known = DEFECTS[self.defect]
        if not set(self.starts) <= set(known):
            raise InputError(f"starts are {', '.join(self.starts)}; choose of {', '.join(known)}")
        if len(set(self.starts)) < len(self.starts):
            raise InputError(f"starts are {', '.join(self.starts)}; give each of them once")
        if self.starts == ("puckered",):
            raise InputError("not every site can start puckered; give another start, too, such as unmoved")
        if not 0.0 < self.fmax_eV_A < math.inf:
            raise InputError(f"fmax_eV_A is {self.fmax_eV_A}; give a positive number, such as 0.02")
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}; give a positive number, such as 300")
        if self.sample < 0:
            raise InputError(f"sample is {self.sample}; give a positive number, or 0 for all sites")
        if self.pairs and self.defect != "vacancy":
            raise InputError(f"pairs are of vacancies, but defect is {self.defect}; leave one of them out")
        if not 0.0 <= self.within_A < math.inf or (self.within_A and (self.sites or not self.pairs)):
            raise InputError(
                f"within_A is {self.within_A}; give a positive distance, for pairs, and no sites beside it"
            )

    def _make_plain(self) -> None:
        """Numbers of NumPy become Python's, which JSON can hold."""
        try:
            object.__setattr__(self, "sites", tuple(index(site) for site in self.sites))
            for name in ("sample", "seed", "steps"):
                object.__setattr__(self, name, index(getattr(self, name)))
            for name in ("fmax_eV_A", "within_A"):
                object.__setattr__(self, name, float(getattr(self, name)))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"sites {self.sites}, sample {self.sample!r}, seed {self.seed!r} and steps {self.steps!r} "
                f"must be whole numbers, fmax_eV_A {self.fmax_eV_A!r} and within_A {self.within_A!r} numbers"
            ) from error

    def name(self, host: str, place: Place) -> str:
        """Of a defect of a host, at a site or at two."""
        if not isinstance(place, int):
            return pair_name(host, self.element, place)
        return f"{host}_{self.defect[0]}_{self.element}_site{place}"


@dataclass(frozen=True, kw_only=True)
class Vacancy(Defect):
    """A site with a vacancy or an interstitial: ``glass_v_O_site32``, ``glass_i_O_site32``.

    equivalent: how many sites of the host it stands for, by symmetry
    pair:     the two atoms beside the site, as the host counts
    pair_before_A, pair_A: their distance in the host and here
    charge_1_e, charge_2_e: of the pair, here
    bonds, bond_1_A, bond_2_A, angle_deg, ring: see :func:`~mlh_driver.workflows.sites.describe_site`
    charge_before_e, extrapolation_before: of the atom of the site, in the host
    """

    site: int
    equivalent: int
    pair: list[int]
    pair_before_A: float
    pair_A: float
    charge_1_e: float
    charge_2_e: float
    bonds: int
    bond_1_A: float
    bond_2_A: float
    angle_deg: float
    ring: int | None
    charge_before_e: float
    extrapolation_before: float


@dataclass(frozen=True)
class VacancyCampaign:
    """All that a campaign has found.

    vacancies: of all sites with at least one minimum
    hosts:     results of the tasks of the hosts, by name, with the ``key`` of each
    failed:    tasks that failed, with the reasons
    missing:   names of the sites and pairs, and of the hosts, without a result
    pairs:     of vacancies, with at least one minimum; none unless they were asked for
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
    pairs: list[VacancyPair]


def run_vacancies(
    hosts: Mapping[str, Atoms],
    folder: str | Path,
    settings: VacancySettings | None = None,
    engine: EngineSettings | None = None,
    *,
    mu_eV: float | None = None,
    pool: Pool = in_this_process,
    progress: CampaignProgress | None = None,
) -> VacancyCampaign:
    """Relax hosts and their vacancies, or go on with that in ``folder``, and put the results together.

    mu_eV: chemical potential of the element, on the energy scale of the model's reference

    A task that fails is left out and listed. Raises InputError, before anything is computed, for hosts,
    sites, settings or a potential that cannot be used, and for a folder with a campaign of other settings.
    """
    settings, engine = settings or VacancySettings(), engine or EngineSettings()
    if mu_eV is not None and not np.isfinite(mu_eV):
        raise InputError(f"the chemical potential is {mu_eV}; give a number of eV, or leave it out")
    used = engine_fields(engine)
    model = engine_for(used)
    places = {name: _places(name, atoms, k, settings, model) for k, (name, atoms) in enumerate(hosts.items())}
    number = len(hosts) + len(settings.starts) * sum(len(each.all) for each in places.values())
    with open_campaign(folder, _described(hosts, places, settings, used, model), number) as campaign:
        convergence = {"engine": used, "fmax_eV_A": settings.fmax_eV_A, "steps": settings.steps}
        host_tasks = {
            name: Task(name, relax_host, {"host": atoms_fields(atoms), **convergence})
            for name, atoms in hosts.items()
        }
        found = campaign.run(list(host_tasks.values()), pool, "hosts", progress)
        tasks: dict[tuple[str, Place, str], Task] = {}
        for name in found:
            tasks |= _tasks(name, host_tasks[name].key, places[name], settings, convergence)
        results = campaign.run(list(tasks.values()), pool, "defects", progress)
        collector = _Collector(campaign, settings, model, mu_eV, host_tasks, tasks, found, results)
        return collector.campaign(places)


@dataclass(frozen=True)
class Places:
    """What is computed of a host: sites, and how many each stands for by symmetry; and pairs of them."""

    sites: dict[int, int]
    pairs: list[tuple[int, int]]

    @property
    def all(self) -> list[Place]:
        return [*self.sites, *self.pairs]


def _places(name: str, atoms: Atoms, k: int, settings: VacancySettings, engine: Engine) -> Places:
    """Checked sites of a host, those of pairs among them; raises InputError with its name."""
    try:
        system = System.from_ase(atoms)
        engine.check_species(system.numbers)
        _check_electrons(system, settings.element, engine)
        repeats = engine.repeater(system)
        if repeats != ONCE:
            raise InputError(
                "the cell is so narrow that a vacancy would meet its own images; give a supercell, "
                f"{' x '.join(map(str, repeats))} at least"
            )
        chosen, draw = (atoms, settings.element, settings.sites), (settings.sample, (settings.seed, k))
        pairs = choose_two_sites(*chosen, settings.within_A, *draw) if settings.pairs else []
        singles = sorted({site for pair in pairs for site in pair})
        sites = dict.fromkeys(singles, 1) if settings.pairs else choose_sites(*chosen, *draw)
        for site in sites:
            pair_of(atoms, site)
        return Places(sites, pairs)
    except InputError as error:
        raise InputError(f"host {name}: {error}") from error


def _check_electrons(system: System, element: str, engine: Engine) -> None:
    """Levels are those of pairs of electrons."""
    for of, numbers in (("the host", system.numbers), (element, np.array([atomic_numbers[element]]))):
        electrons = engine.model.basis.n_electrons(numbers)
        if electrons % 2:
            raise InputError(
                f"{of} has {electrons} electrons, an odd number, and the model pairs all: take another"
            )


def _tasks(
    host: str,
    key: str,
    places: Places,
    settings: VacancySettings,
    convergence: dict[str, Any],
) -> dict[tuple[str, Place, str], Task]:
    """Of all defects of a host, whose own task has the key, from all starts."""
    singles = {"host": key, "defect": settings.defect, **convergence}
    together = {"host": key, **convergence}
    tasks: dict[tuple[str, Place, str], Task] = {}
    for place in places.all:
        for start in settings.starts:
            name = f"{settings.name(host, place)}_{start}"
            tasks[host, place, start] = (
                Task(name, relax_vacancy, {**singles, "site": place, "start": start})
                if isinstance(place, int)
                else Task(name, relax_two, {**together, "sites": list(place), "start": start})
            )
    return tasks


def _described(
    hosts: Mapping[str, Atoms],
    places: Mapping[str, Places],
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
                "sites": list(places[name].sites),
                "pairs": places[name].pairs,
            }
            for name, atoms in hosts.items()
        },
    }


@dataclass(frozen=True)
class _Collector:
    """Puts the results of the tasks together."""

    run: Campaign
    settings: VacancySettings
    engine: Engine
    mu_eV: float | None
    host_tasks: dict[str, Task]
    tasks: dict[tuple[str, Place, str], Task]
    hosts: dict[str, dict[str, Any]]
    results: dict[str, dict[str, Any]]

    def campaign(self, places: Mapping[str, Places]) -> VacancyCampaign:
        vacancies: dict[str, Vacancy] = {}
        pairs: list[VacancyPair] = []
        for host in self.hosts:
            relaxed = read_relaxed(self.run.task_folder(self.host_tasks[host]))
            rings = rings_of(relaxed)
            for site, equivalent in places[host].sites.items():
                name, minima = self.settings.name(host, site), self._minima(host, site)
                if minima.found:
                    place = describe_site(relaxed, site, rings)
                    vacancies[name] = self._vacancy(name, site, equivalent, minima, place)
            pairs += self._pairs(host, relaxed, places[host].pairs, vacancies)
        there = {*vacancies, *(pair.name for pair in pairs)}
        names = [self.settings.name(host, place) for host in self.hosts for place in places[host].all]
        return VacancyCampaign(
            self.run.folder,
            self.settings.element,
            self.settings.defect,
            list(vacancies.values()),
            {host: {"key": self.host_tasks[host].key, **result} for host, result in self.hosts.items()},
            [task for task in states(self.run.folder) if task.status == "failed"],
            [name for name in (*self.host_tasks, *names) if name not in self.hosts and name not in there],
            self.mu_eV,
            self._atom_eV,
            pairs,
        )

    def _pairs(
        self, host: str, relaxed: Atoms, pairs: list[tuple[int, int]], vacancies: Mapping[str, Vacancy]
    ) -> Iterator[VacancyPair]:
        for sites in pairs:
            minima = self._minima(host, sites)
            if minima.found:
                names = [self.settings.name(host, site) for site in sites]
                alone = [vacancies[name] for name in names if name in vacancies]
                yield vacancy_pair(
                    self.settings.name(host, sites),
                    sites,
                    relaxed,
                    minima,
                    {
                        vacancy.name: (vacancy.difference_eV, bool(vacancy.doubts.keys() - {"alignment"}))
                        for vacancy in alone
                    },
                    self.mu_eV,
                    self._atom_eV,
                )

    @property
    def _atom_eV(self) -> float:
        metadata = self.engine.model.metadata
        return metadata.atom_energies_eV[metadata.basis.species.index(self.settings.element)]

    def _minima(self, host: str, place: Place) -> Minima:
        """Result of each start, or why there is none."""
        tasks = {start: self.tasks[host, place, start] for start in self.settings.starts}
        results = {
            start: self.results.get(task.name) or {"failed": state(self.run.task_folder(task)).note}
            for start, task in tasks.items()
        }
        keys = {start: task.key for start, task in tasks.items()}
        return Minima(host, self.hosts[host]["energy_eV"], results, keys)

    def _vacancy(
        self, name: str, site: int, equivalent: int, minima: Minima, place: dict[str, Any]
    ) -> Vacancy:
        best, before = minima.best, self.hosts[minima.host]
        missing = -1 if self.settings.defect == "interstitial" else 1
        doubts = minima.doubts()
        if place["ring"] == 2:
            doubts["edge"] = (
                f"atom {site} is on an edge that two tetrahedra share, a rare place in any training: compare "
                "with DFT (mlh-driver verify)"
            )
        return Vacancy(
            name=name,
            site=site,
            equivalent=equivalent,
            from_atoms_eV=minima.difference_eV + missing * self._atom_eV,
            formation_eV=None if self.mu_eV is None else minima.difference_eV + missing * self.mu_eV,
            pair_A=best["pair_A"],
            charge_1_e=best["charges_e"][0],
            charge_2_e=best["charges_e"][1],
            charge_before_e=before["charges"][site],
            extrapolation_before=before["extrapolations"][site],
            doubts=doubts,
            **minima.columns(),
            **place,
        )

"""Tables, structures, database and figure of a campaign of vacancies; all can be written anew at any time.

====================  =====================================================================================
``vacancies.csv``     a row for each site, columns as in :class:`~mlh_driver.workflows.vacancies.Vacancy`
``vacancies.json``    the same with all starts and doubts, the distributions, and what failed
``vacancies.extxyz``  the minima with forces, charges and extrapolation of each atom
``hosts.extxyz``      the relaxed hosts, likewise
``vacancies.db``      the minima as a database of ASE
``vacancies.png``     energies and levels of all sites
``pairs.csv``         a row for each pair of vacancies, where there are any, columns as in
                      :class:`~mlh_driver.workflows.vacancy_pairs.VacancyPair`
``pairs.extxyz``      their minima
====================  =====================================================================================

Files of other programs: :mod:`~mlh_driver.workflows.vacancy_exports`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.db import connect
from matplotlib.figure import Figure

from mlh_driver.errors import InputError
from mlh_driver.files import read_json, replacing, write_csv, write_json
from mlh_driver.structures import read_frames
from mlh_driver.workflows.campaign import CAMPAIGN, TASKS
from mlh_driver.workflows.defect_minima import Defect
from mlh_driver.workflows.relaxation import read_relaxed
from mlh_driver.workflows.vacancies import Vacancy, VacancyCampaign
from mlh_driver.workflows.vacancy_pairs import VacancyPair

TABLE, RESULTS, STRUCTURES = "vacancies.csv", "vacancies.json", "vacancies.extxyz"
DATABASE, FIGURE, HOSTS = "vacancies.db", "vacancies.png", "hosts.extxyz"
PAIRS, PAIR_STRUCTURES = "pairs.csv", "pairs.extxyz"
#: Fields that are neither numbers nor names: in the JSON file alone, the doubts also as text.
NO_COLUMNS = ("starts", "doubts", "pair", "neighbors")
COLUMNS = [field.name for field in fields(Vacancy) if field.name not in NO_COLUMNS]
PAIR_COLUMNS = [field.name for field in fields(VacancyPair) if field.name not in NO_COLUMNS]


@dataclass(frozen=True)
class Distribution:
    """Energies of the sites of a host, or of all, each counted as often as symmetry repeats it.

    mean_eV, spread_eV: mean and standard deviation of ``reported_eV``
    lowest_eV, highest_eV, lowest, highest: the extremes, and the names of their sites
    """

    sites: int
    mean_eV: float
    spread_eV: float
    lowest_eV: float
    highest_eV: float
    lowest: str
    highest: str

    @classmethod
    def of(cls, vacancies: list[Vacancy]) -> Distribution:
        energies = np.array([vacancy.reported_eV for vacancy in vacancies])
        weights = np.array([vacancy.equivalent for vacancy in vacancies])
        mean = float(np.average(energies, weights=weights))
        return cls(
            sites=int(weights.sum()),
            mean_eV=mean,
            spread_eV=float(np.sqrt(np.average((energies - mean) ** 2, weights=weights))),
            lowest_eV=float(energies.min()),
            highest_eV=float(energies.max()),
            lowest=vacancies[int(energies.argmin())].name,
            highest=vacancies[int(energies.argmax())].name,
        )


def distributions(found: VacancyCampaign) -> dict[str, Distribution]:
    """Of each host and of ``all hosts``, where there is any vacancy."""
    groups = {host: [v for v in found.vacancies if v.host == host] for host in found.hosts}
    groups["all hosts"] = found.vacancies
    return {name: Distribution.of(group) for name, group in groups.items() if group}


def between_hosts_eV(found: VacancyCampaign) -> float:
    """Standard deviation (N - 1; 0 for a single one) of the mean energies of the hosts."""
    means = [d.mean_eV for host, d in distributions(found).items() if host != "all hosts"]
    return float(np.std(means, ddof=1)) if len(means) > 1 else 0.0


def write_files(found: VacancyCampaign) -> list[Path]:
    """Write them all into the folder of the campaign; returns their paths, none without vacancies."""
    if not found.vacancies:
        return []
    frames = [_minimum(found, vacancy, COLUMNS) for vacancy in found.vacancies]
    hosts = []
    for name, result in found.hosts.items():
        hosts.append(_read(found.folder, result["key"]))
        hosts[-1].info["name"] = name
    paths = [found.folder / name for name in (TABLE, RESULTS, STRUCTURES, DATABASE, FIGURE)]
    table, report, structures, database, figure = paths
    _write_table(found.vacancies, COLUMNS, table)
    write_json(report, _report(found))
    _write_frames(frames, structures)
    _write_frames(hosts, found.folder / HOSTS)
    _write_database(found.vacancies, frames, database)
    with replacing(figure) as partial:
        plot_vacancies(found.vacancies).savefig(partial, dpi=150, format="png")
    return [*paths, found.folder / HOSTS, *(_write_pairs(found) if found.pairs else [])]


def _write_pairs(found: VacancyCampaign) -> list[Path]:
    paths = [found.folder / name for name in (PAIRS, PAIR_STRUCTURES)]
    _write_table(found.pairs, PAIR_COLUMNS, paths[0])
    _write_frames([_minimum(found, pair, PAIR_COLUMNS) for pair in found.pairs], paths[1])
    return paths


def read_results(folder: Path) -> dict[str, Any]:
    """What ``vacancies.json`` of a campaign holds.

    Raises InputError where there is none, or one that another version wrote in another way.
    """
    path = folder / RESULTS
    if not path.exists():
        raise InputError(
            f"{folder} has no {RESULTS}; name the folder of a finished mlh-driver vacancies or melt-quench"
        )
    results: dict[str, Any] = read_json(path)
    for kind, key in ((Vacancy, "vacancies"), (VacancyPair, "pairs")):
        names = {field.name for field in fields(kind)}
        if any(entry.keys() != names for entry in results.get(key, [{}])):
            raise InputError(
                f"{path} is of version {results['campaign']['version']}, with other columns; compute the "
                "campaign in a new folder"
            )
    return results


def read_hosts(folder: Path, results: dict[str, Any]) -> dict[str, Atoms]:
    """The relaxed hosts by name, in the order of the results of :func:`read_results`.

    Their names are not those in the file: extended XYZ makes numbers of names such as 001 or 2_3.
    """
    return dict(zip(results["hosts"], read_frames([folder / HOSTS]).values(), strict=True))


def _read(folder: Path, key: str) -> Atoms:
    return read_relaxed(folder / TASKS / key)


def _minimum(found: VacancyCampaign, defect: Defect, columns: Sequence[str]) -> Atoms:
    """The structure of a vacancy or a pair with its numbers in ``info``."""
    atoms = _read(found.folder, defect.key)
    atoms.info |= _values(defect, columns)
    if defect.doubts:
        atoms.info["doubts"] = "; ".join(defect.doubts.values())
    return atoms


def _values(defect: Defect, columns: Sequence[str]) -> dict[str, Any]:
    """The columns that have a value."""
    values = {name: getattr(defect, name) for name in columns}
    return {name: value for name, value in values.items() if value is not None}


def _write_table(defects: Sequence[Defect], columns: Sequence[str], path: Path) -> None:
    lines = (
        [*(getattr(defect, name) for name in columns), "; ".join(defect.doubts.values())]
        for defect in defects
    )
    write_csv(path, [[*columns, "doubts"], *lines])


def _report(found: VacancyCampaign) -> dict[str, Any]:
    return {
        "campaign": read_json(found.folder / CAMPAIGN),
        "mu_eV": found.mu_eV,
        "atom_eV": found.atom_eV,
        "distributions": {name: asdict(one) for name, one in distributions(found).items()},
        "between_hosts_eV": between_hosts_eV(found),
        "hosts": found.hosts,
        "vacancies": [asdict(vacancy) for vacancy in found.vacancies],
        "pairs": [asdict(pair) for pair in found.pairs],
        "missing": found.missing,
        "failed": [asdict(state) for state in found.failed],
    }


def _write_frames(frames: list[Atoms], path: Path) -> None:
    with replacing(path) as partial:
        ase.io.write(partial, frames, format="extxyz")


def _write_database(vacancies: list[Vacancy], frames: list[Atoms], path: Path) -> None:
    """Numbers and the name as keys; the host, whose name may look like a number, and the rest as data."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".database-") as folder:
        partial = Path(folder) / path.name
        with connect(partial, type="db", use_lock_file=False) as database:  # a lock file would outlive a kill
            for vacancy, atoms in zip(vacancies, frames, strict=True):
                values = _values(vacancy, COLUMNS)
                keys = {k: v for k, v in values.items() if k not in ("host", "key", "energy_eV")}
                database.write(atoms, key_value_pairs=keys, data=asdict(vacancy))
        partial.replace(path)


def plot_vacancies(vacancies: list[Vacancy]) -> Figure:
    """Histograms of energies and of levels, hosts on top of each other, and energy against distance."""
    hosts = list(dict.fromkeys(vacancy.host for vacancy in vacancies))
    of_host = [[vacancy for vacancy in vacancies if vacancy.host == host] for host in hosts]
    energy = energy_title(vacancies)
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    equivalent = [[vacancy.equivalent for vacancy in group] for group in of_host]
    shown = {"reported_eV": energy, "level_eV": "level above the valence band (eV)"}
    for axis, (name, title) in zip(axes[:2], shown.items(), strict=True):
        values = [[getattr(vacancy, name) for vacancy in group] for group in of_host]
        counted = [np.repeat(one, number) for one, number in zip(values, equivalent, strict=True)]
        axis.hist(counted, bins="auto", stacked=True, label=hosts)
        axis.set(xlabel=title, ylabel="sites")
    for group in of_host:
        axes[2].plot([v.pair_A for v in group], [v.reported_eV for v in group], "o", ms=4)
    axes[2].set(xlabel="distance of the two atoms beside it (Å)", ylabel=energy)
    if len(hosts) > 1:
        axes[0].legend(frameon=False, fontsize=7)
    return figure


def energy_title(vacancies: list[Vacancy]) -> str:
    """Of an axis with their ``reported_eV``."""
    given = vacancies[0].formation_eV is not None
    return "formation energy (eV)" if given else "energy from an isolated atom (eV)"

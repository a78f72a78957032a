"""Vacancies of a campaign against DFT, at the minima of the model.

    pick sites --> label host and vacancy by DFT --> errors of each and of their difference

Energies of host and vacancy have most of their errors in common; what is left of it in E(vacancy) - E(host)
is the error of the formation energy, whatever mu is. Labels are kept in a data set in the folder of the
campaign, and none is computed twice.

====================  =====================================================================================
``dft_CODE.h5``       the labels of a reference code, a data set like any other
``verify.json``       errors of each site, their statistics, what was picked and by which settings of DFT
``verify.csv``        a row for each site
``verify.png``        energies of the model against DFT, errors against extrapolation
====================  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from matplotlib.figure import Figure
from scipy.stats import qmc, spearmanr

from mlh_driver.data import LabelledStructure, hdf5
from mlh_driver.errors import InputError
from mlh_driver.files import replacing, write_json, write_rows
from mlh_driver.reference import Labeler, label_into
from mlh_driver.structures import read_frames
from mlh_driver.system import System, same_structure
from mlh_driver.workflows.vacancies import Vacancy
from mlh_driver.workflows.vacancy_files import STRUCTURES, energy_title, read_hosts, read_results

VERIFICATION, VERIFICATION_TABLE, VERIFICATION_FIGURE = "verify.json", "verify.csv", "verify.png"
#: With fewer sites a rank correlation says nothing.
FEWEST_RANKED = 3


@dataclass(frozen=True)
class Verified:
    """A site at the model's minimum. Errors are model minus DFT, in eV of the whole cell.

    picked_as: why this site
    difference_eV, dft_difference_eV, error_eV: E(vacancy) - E(host) of the model and of DFT, and its error,
               which is that of the formation energy
    host_error_eV, vacancy_error_eV: whose difference that is
    forces_rmse_eV_A: root of the mean square over all components of the force errors of the vacancy
    dft_largest_force_eV_A, host_dft_largest_force_eV_A: how far from a minimum of DFT this is
    """

    name: str
    host: str
    picked_as: str
    difference_eV: float
    dft_difference_eV: float
    error_eV: float
    host_error_eV: float
    vacancy_error_eV: float
    forces_rmse_eV_A: float
    dft_largest_force_eV_A: float
    host_dft_largest_force_eV_A: float
    extrapolation: float


@dataclass(frozen=True)
class Statistics:
    """Of the errors of formation energies: mean, mean and largest magnitude, root of the mean square.

    spearman: rank correlation of the energies of model and DFT, None for fewer than three sites
    """

    sites: int
    mean_eV: float
    mae_eV: float
    rmse_eV: float
    largest_eV: float
    spearman: float | None

    @classmethod
    def of(cls, sites: Sequence[Verified]) -> Statistics:
        errors = np.array([site.error_eV for site in sites])
        model, dft = ([getattr(s, key) for s in sites] for key in ("difference_eV", "dft_difference_eV"))
        return cls(
            sites=len(sites),
            mean_eV=float(errors.mean()),
            mae_eV=float(abs(errors).mean()),
            rmse_eV=float(np.sqrt((errors**2).mean())),
            largest_eV=float(abs(errors).max()),
            spearman=float(spearmanr(model, dft).statistic) if len(sites) >= FEWEST_RANKED else None,
        )


@dataclass(frozen=True)
class ToLabel:
    """Structures of a campaign, and the data set that their labels are put into.

    frames: by name, in the order in which they are computed
    """

    folder: Path
    frames: dict[str, Atoms]
    labels: Path

    @property
    def labelled(self) -> set[str]:
        """Names of the structures that have a label already."""
        return {
            name
            for name in self.named_labels
            if same_structure(
                hdf5.read_structure(self.labels, name).system, System.from_ase(self.frames[name])
            )
        }

    @property
    def named_labels(self) -> set[str]:
        """Names under which there is a label, though it may be of a minimum that is the lowest no more."""
        names = set(hdf5.read_names(self.labels)) if self.labels.exists() else set()
        return names & self.frames.keys()

    def label(self, labeler: Labeler, report: Callable[[str], None]) -> dict[str, LabelledStructure]:
        """Compute what has no label yet; all labels there are then.

        The label of another minimum is kept under another name.
        """
        for name in sorted(self.named_labels - self.labelled):
            aside = hdf5.set_aside(self.labels, name)
            report(f"{name}: has another minimum now; its label is kept as {aside}")
        label_into(self.labels, self.frames, labeler, "test", report)
        return {name: hdf5.read_structure(self.labels, name) for name in self.named_labels}


@dataclass(frozen=True)
class Plan(ToLabel):
    """What is to be compared; each host is before its first vacancy.

    picked: why, by the names of vacancies
    defect: ``vacancy`` or ``interstitial``
    """

    defect: str
    vacancies: dict[str, Vacancy]
    hosts_eV: dict[str, float]
    picked: dict[str, str]


def plan_verification(folder: Path, labeler: Labeler, number: int, seed: int = 0) -> Plan:
    """Pick ``number`` sites of a campaign, or all if there are fewer; computes nothing.

    Raises InputError if the campaign has no results.
    """
    results = read_results(folder)
    vacancies = {entry["name"]: Vacancy(**entry) for entry in results["vacancies"]}
    picked = pick_sites(list(vacancies.values()), number, seed)
    hosts, minima = read_hosts(folder, results), read_frames([folder / STRUCTURES])
    frames: dict[str, Atoms] = {}
    for name in picked:
        frames.setdefault(vacancies[name].host, hosts[vacancies[name].host])
        frames[name] = minima[name]
    return Plan(
        folder=folder,
        defect=results["campaign"]["settings"]["defect"],
        vacancies=vacancies,
        hosts_eV={name: host["energy_eV"] for name, host in results["hosts"].items()},
        picked=picked,
        frames=frames,
        labels=folder / f"dft_{labeler.name}.h5",
    )


def pick_sites(vacancies: Sequence[Vacancy], number: int, seed: int) -> dict[str, str]:
    """Names of sites, and why each: both ends of the energies, the highest extrapolation, the smallest gap,
    then by turns a quantile of the energies (1/2, 1/4, 3/4, 1/8 ...) and one at random. A larger number adds
    to the sites of a smaller one, so that no label is in vain.

    Raises InputError unless number is positive.
    """
    if number < 1:
        raise InputError(f"{number} sites were asked for; give a number from 1 on")
    left = {vacancy.name: vacancy for vacancy in vacancies}
    picked = {}
    for reason, key in islice(_strata(vacancies, seed), min(number, len(vacancies))):
        name = min(left.values(), key=key).name
        picked[name] = reason
        del left[name]
    return picked


def _strata(vacancies: Sequence[Vacancy], seed: int) -> Iterator[tuple[str, Callable[[Vacancy], float]]]:
    """Reasons to pick a site, and what is smallest for the best one; at least as many as there are sites."""
    names = [vacancy.name for vacancy in sorted(vacancies, key=lambda vacancy: vacancy.difference_eV)]
    quantile = dict(zip(names, np.linspace(0.0, 1.0, len(names)), strict=True))
    chance = dict(zip(names, np.random.default_rng(seed).random(len(names)), strict=True))

    def at(wanted: float) -> Callable[[Vacancy], float]:
        return lambda vacancy: abs(quantile[vacancy.name] - wanted)

    yield "lowest energy", at(0.0)
    yield "highest energy", at(1.0)
    yield "highest extrapolation", lambda vacancy: -vacancy.extrapolation
    yield "smallest gap", lambda vacancy: vacancy.band_gap_eV
    for wanted in qmc.Halton(1, scramble=False).random(len(names) + 1)[1:, 0]:  # 1/2, 1/4, 3/4, 1/8 ...
        yield f"quantile {wanted:.3g} of energy", at(wanted)
        yield "random", lambda vacancy: chance[vacancy.name]


@dataclass(frozen=True)
class Verification:
    """All errors of a plan.

    left_out: structures without a label, and vacancies without one of their host
    """

    sites: list[Verified]
    left_out: list[str]

    @property
    def statistics(self) -> Statistics:
        return Statistics.of(self.sites)


def verify(plan: Plan, labeler: Labeler, report: Callable[[str], None]) -> Verification:
    """Label what has no label yet, compare, and write the files named above.

    ``report`` gets lines of text about each calculation. What the reference code cannot do is left out; no
    file is written if that leaves no site. Started again after an interruption, it goes on. Raises what
    :func:`~mlh_driver.reference.label_into` raises.
    """
    labels = plan.label(labeler, report)
    sites = [
        _compare(plan, name, labels[plan.vacancies[name].host], labels[name])
        for name in plan.picked
        if {name, plan.vacancies[name].host} <= labels.keys()
    ]
    left_out = [name for name in plan.frames if name not in labels]
    left_out += [name for name in plan.picked if name in labels and plan.vacancies[name].host in left_out]
    found = Verification(sites, left_out)
    if sites:
        _write_files(plan, found, labeler.reference())
    return found


def _compare(plan: Plan, name: str, host: LabelledStructure, label: LabelledStructure) -> Verified:
    vacancy = plan.vacancies[name]
    host_error = plan.hosts_eV[vacancy.host] - host.energy
    vacancy_error = vacancy.energy_eV - label.energy
    return Verified(
        name=name,
        host=vacancy.host,
        picked_as=plan.picked[name],
        difference_eV=vacancy.difference_eV,
        dft_difference_eV=label.energy - host.energy,
        error_eV=vacancy_error - host_error,
        host_error_eV=host_error,
        vacancy_error_eV=vacancy_error,
        forces_rmse_eV_A=forces_rmse(plan.frames[name], label),
        dft_largest_force_eV_A=largest_force(label),
        host_dft_largest_force_eV_A=largest_force(host),
        extrapolation=vacancy.extrapolation,
    )


def forces_rmse(minimum: Atoms, label: LabelledStructure) -> float:
    """Root of the mean square over all components of what the model's forces are off, in eV/Å."""
    return float(np.sqrt(((minimum.get_forces() - label.forces) ** 2).mean()))


def largest_force(label: LabelledStructure) -> float:
    """In eV/Å."""
    return float(np.linalg.norm(label.forces, axis=1).max())


def _write_files(plan: Plan, found: Verification, reference: dict[str, Any]) -> None:
    content = {
        "reference": reference,
        "statistics": asdict(found.statistics),
        "sites": [asdict(site) for site in found.sites],
        "left_out": found.left_out,
    }
    write_json(plan.folder / VERIFICATION, content)
    write_rows(plan.folder / VERIFICATION_TABLE, Verified, found.sites)
    with replacing(plan.folder / VERIFICATION_FIGURE) as partial:
        plot_verification(plan, found).savefig(partial, dpi=150, format="png")


def plot_verification(plan: Plan, found: Verification) -> Figure:
    """Energies against those of DFT, hosts in colors, with the statistics; errors against extrapolation."""
    statistics = found.statistics
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    parity, errors = figure.subplots(1, 2)
    for host in dict.fromkeys(site.host for site in found.sites):
        group = [site for site in found.sites if site.host == host]
        model = np.array([plan.vacancies[site.name].reported_eV for site in group])
        off_meV = 1e3 * np.array([site.error_eV for site in group])
        parity.plot(model - off_meV / 1e3, model, "o", ms=5, label=host)
        errors.plot([site.extrapolation for site in group], off_meV, "o", ms=5)
    ends = [*parity.get_xlim(), *parity.get_ylim()]
    parity.axline((min(ends), min(ends)), slope=1.0, color="0.6", lw=1, ls="--", zorder=0)
    title = energy_title(list(plan.vacancies.values()))
    parity.set(xlabel=f"DFT: {title}", ylabel=f"model: {title}")
    lines = [f"MAE {1e3 * statistics.mae_eV:.0f} meV", f"RMSE {1e3 * statistics.rmse_eV:.0f} meV"]
    lines.append(f"largest {1e3 * statistics.largest_eV:.0f} meV")
    if statistics.spearman is not None:
        lines.append(f"rank correlation {statistics.spearman:.2f}")
    parity.text(0.04, 0.96, "\n".join(lines), transform=parity.transAxes, va="top", fontsize=8)
    if len({site.host for site in found.sites}) > 1:
        parity.legend(frameon=False, fontsize=7, loc="lower right")
    errors.axhline(0.0, color="0.6", lw=1, ls="--", zorder=0)
    errors.set(xlabel="extrapolation", ylabel="error of the energy (meV)")
    return figure

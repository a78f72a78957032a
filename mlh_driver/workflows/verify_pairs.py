"""Interactions of pairs of vacancies against DFT, at the minima of the model.

    pick pairs --> label host, both single vacancies and the pair by DFT --> error of the interaction

The labels are in the data set of :mod:`~mlh_driver.workflows.verify`, with those of single vacancies.

===========================  =================================================================================
``verify_pairs.json, .csv``  a row for each pair
===========================  =================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from mlh_driver.data import LabelledStructure
from mlh_driver.errors import InputError
from mlh_driver.files import write_json, write_rows
from mlh_driver.reference import Labeler
from mlh_driver.structures import read_frames
from mlh_driver.workflows.vacancies import Vacancy
from mlh_driver.workflows.vacancy_files import PAIR_STRUCTURES, STRUCTURES, read_hosts, read_results
from mlh_driver.workflows.vacancy_pairs import VacancyPair
from mlh_driver.workflows.verify import ToLabel, forces_rmse, largest_force

VERIFIED_PAIRS, VERIFIED_PAIRS_TABLE = "verify_pairs.json", "verify_pairs.csv"


@dataclass(frozen=True)
class VerifiedPair:
    """A pair of vacancies at the model's minimum. Errors are model minus DFT, in eV of the whole cell.

    distance_A: of the two sites in the host
    interaction_eV, dft_interaction_eV, error_eV: E(both) + E(host) - E(one) - E(other) of the model and of
               DFT, and its error
    formation_error_eV: error of E(both) - E(host)
    forces_rmse_eV_A, dft_largest_force_eV_A: of the pair, as :class:`~mlh_driver.workflows.verify.Verified`
    """

    name: str
    host: str
    distance_A: float
    interaction_eV: float
    dft_interaction_eV: float
    error_eV: float
    formation_error_eV: float
    forces_rmse_eV_A: float
    dft_largest_force_eV_A: float
    extrapolation: float


@dataclass(frozen=True)
class PairPlan(ToLabel):
    """Pairs to compare, the nearest first.

    singles: the two vacancies of each pair
    """

    hosts_eV: dict[str, float]
    pairs: list[VacancyPair]
    singles: dict[str, tuple[Vacancy, Vacancy]]

    @property
    def roles(self) -> dict[str, str]:
        """What each structure but the hosts is, by name."""
        singles = (single.name for two in self.singles.values() for single in two)
        return dict.fromkeys(singles, "one of a pair") | {pair.name: "pair" for pair in self.pairs}

    def parts(self, pair: VacancyPair) -> list[str]:
        """Names of the structures that an interaction is made of: host, one, other, both."""
        return [pair.host, *(single.name for single in self.singles[pair.name]), pair.name]


def plan_pairs(folder: Path, labeler: Labeler, number: int) -> PairPlan:
    """The ``number`` pairs of a campaign that are nearest, or all if there are fewer; computes nothing.

    Raises InputError if the campaign has no pairs with an interaction.
    """
    results = read_results(folder)
    single = {(v.host, v.site): v for v in (Vacancy(**entry) for entry in results["vacancies"])}
    pairs = [VacancyPair(**entry) for entry in results["pairs"]]
    pairs = [pair for pair in pairs if pair.interaction_eV is not None]
    if not pairs:
        raise InputError(
            f"{folder} has no pairs of vacancies to compare; mlh-driver vacancies --defect pair computes some"
        )
    pairs = sorted(pairs, key=lambda pair: pair.distance_A)[:number]
    plan = PairPlan(
        folder=folder,
        frames={},
        labels=folder / f"dft_{labeler.name}.h5",
        hosts_eV={name: host["energy_eV"] for name, host in results["hosts"].items()},
        pairs=pairs,
        singles={p.name: (single[p.host, p.sites[0]], single[p.host, p.sites[1]]) for p in pairs},
    )
    minima = {
        **read_hosts(folder, results),
        **read_frames([folder / STRUCTURES]),
        **read_frames([folder / PAIR_STRUCTURES]),
    }
    plan.frames.update((name, minima[name]) for pair in pairs for name in plan.parts(pair))
    return plan


def verify_pairs(
    plan: PairPlan, labeler: Labeler, report: Callable[[str], None]
) -> tuple[list[VerifiedPair], list[str]]:
    """Label what has no label yet, compare, and write the files named above.

    Returns the pairs all parts of which have a label, and the names of structures without one; no file is
    written without a pair. Otherwise as :func:`~mlh_driver.workflows.verify.verify`.
    """
    labels = plan.label(labeler, report)
    found = [_compare(plan, pair, labels) for pair in plan.pairs if labels.keys() >= {*plan.parts(pair)}]
    if found:
        content = {"reference": labeler.reference(), "pairs": [asdict(pair) for pair in found]}
        write_json(plan.folder / VERIFIED_PAIRS, content)
        write_rows(plan.folder / VERIFIED_PAIRS_TABLE, VerifiedPair, found)
    return found, [name for name in plan.frames if name not in labels]


def _compare(plan: PairPlan, pair: VacancyPair, labels: dict[str, LabelledStructure]) -> VerifiedPair:
    host, one, other, both = (labels[name].energy for name in plan.parts(pair))
    assert pair.interaction_eV is not None
    return VerifiedPair(
        name=pair.name,
        host=pair.host,
        distance_A=pair.distance_A,
        interaction_eV=pair.interaction_eV,
        dft_interaction_eV=both + host - one - other,
        error_eV=pair.interaction_eV - (both + host - one - other),
        formation_error_eV=(pair.energy_eV - plan.hosts_eV[pair.host]) - (both - host),
        forces_rmse_eV_A=forces_rmse(plan.frames[pair.name], labels[pair.name]),
        dft_largest_force_eV_A=largest_force(labels[pair.name]),
        extrapolation=pair.extrapolation,
    )

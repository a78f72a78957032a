"""Two vacancies of one host together, and what that costs beyond each of them alone.

    E_f = E(both) - E(host) + 2 mu
    interaction = E(both) + E(host) - E(one) - E(other),  above zero where the two repel each other

mu has no part in the interaction. It needs the minima of the two single vacancies, which are computed in the
same campaign.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ase import Atoms

from mlh_driver.workflows.sites import neighbors_of_two
from mlh_driver.workflows.vacancy_tasks import Minima


@dataclass(frozen=True)
class VacancyPair:
    """Two sites that are empty together, and the lowest of their minima.

    name:     unique: ``glass_vv_O_site32_site40``
    sites:    as the host counts
    distance_A: of the two, in the host
    neighbors: the atoms next to them, as the host counts; three where they have one in common, else four
    start, key, energy_eV, difference_eV, relaxation_eV: as in
              :class:`~mlh_driver.workflows.vacancies.Vacancy`
    from_atoms_eV, formation_eV: likewise, with two atoms
    interaction_eV: see above; None where a single vacancy has no minimum
    pair_1_A, pair_2_A: distance of the two atoms next to each site, here
    level_eV, level_on_pair, level_ipr, levels_residual_eV, deep_residual_eV: the occupied
              level, see :class:`~mlh_driver.workflows.defect_levels.DefectLevel`; the share is that of all
              ``neighbors``
    band_gap_eV, extrapolation, charge_deviation, steps, largest_force_eV_A: of this minimum
    starts:   of each start the difference_eV, or why it failed or was impossible
    doubts:   reasons not to trust these numbers, by kind
    """

    name: str
    host: str
    sites: list[int]
    distance_A: float
    neighbors: list[int]
    start: str
    key: str
    energy_eV: float
    difference_eV: float
    from_atoms_eV: float
    formation_eV: float | None
    interaction_eV: float | None
    relaxation_eV: float
    pair_1_A: float
    pair_2_A: float
    level_eV: float
    level_on_pair: float
    level_ipr: float
    levels_residual_eV: float | None
    deep_residual_eV: float
    band_gap_eV: float
    extrapolation: float
    charge_deviation: float
    steps: int
    largest_force_eV_A: float
    starts: dict[str, dict[str, Any]]
    doubts: dict[str, str]

    @property
    def reported_eV(self) -> float:
        """The formation energy, or without mu the energy from two isolated atoms."""
        return self.from_atoms_eV if self.formation_eV is None else self.formation_eV


def pair_name(host: str, element: str, sites: tuple[int, int]) -> str:
    return f"{host}_vv_{element}_site{sites[0]}_site{sites[1]}"


def vacancy_pair(
    name: str,
    sites: tuple[int, int],
    host: Atoms,
    minima: Minima,
    alone: Mapping[str, tuple[float, bool]],
    mu_eV: float | None,
    atom_eV: float,
) -> VacancyPair:
    """From what its starts led to; ``host`` is relaxed.

    alone: of each single vacancy that has a minimum E(vacancy) - E(host) in eV, and whether that is in doubt
    """
    difference = minima.difference_eV
    doubtful = [each for each, (_, is_doubtful) in alone.items() if is_doubtful]
    doubts = minima.doubts()
    if doubtful:
        doubts["singles"] = f"the interaction counts from {' and '.join(doubtful)}, with energies in doubt"
    neighbors = neighbors_of_two(host, sites)
    if len(neighbors) < 4:
        doubts["neighbors"] = (
            f"sites {sites[0]} and {sites[1]} are beside the same atom, which single vacancies do not teach: "
            "compare with DFT (mlh-driver verify --pairs)"
        )
    return VacancyPair(
        name=name,
        sites=list(sites),
        distance_A=float(host.get_distance(*sites, mic=True)),
        neighbors=neighbors,
        from_atoms_eV=difference + 2.0 * atom_eV,
        formation_eV=None if mu_eV is None else difference + 2.0 * mu_eV,
        interaction_eV=difference - sum(each for each, _ in alone.values()) if len(alone) == 2 else None,
        pair_1_A=minima.best["pairs_A"][0],
        pair_2_A=minima.best["pairs_A"][1],
        doubts=doubts,
        **minima.columns(),
    )

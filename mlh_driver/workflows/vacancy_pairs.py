"""Two vacancies of one host together, and what that costs beyond each of them alone.

    E_f = E(both) - E(host) + 2 mu
    interaction = E(both) + E(host) - E(one) - E(other),  above zero where the two repel each other

mu has no part in the interaction. It needs the minima of the two single vacancies, which are computed in the
same campaign.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ase import Atoms

from mlh_driver.workflows.defect_minima import Defect, Minima
from mlh_driver.workflows.sites import neighbors_of_two


@dataclass(frozen=True, kw_only=True)
class VacancyPair(Defect):
    """Two sites that are empty together: ``glass_vv_O_site32_site40``.

    sites:    as the host counts
    distance_A: of the two, in the host
    neighbors: the atoms beside them, as the host counts; three where they have one in common, else four
    interaction_eV: see above; None where a single vacancy has no minimum
    pair_1_A, pair_2_A: distance of the two atoms beside each site, here
    """

    sites: list[int]
    distance_A: float
    neighbors: list[int]
    interaction_eV: float | None
    pair_1_A: float
    pair_2_A: float


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

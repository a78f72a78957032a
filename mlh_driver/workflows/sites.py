"""Where an atom can be removed or put in, what the place is like before, and where its neighbors may go then.

The **pair** of a site are the two atoms of other elements next to it: in silica, the two Si that an O
bridges. Starts of a relaxation are defined by it:

============  ===========================================================================================
``unmoved``   the host with the atom gone
``together``  the pair drawn together to the length of a bond, 1.08 times the sum of its covalent radii
              (two Si: 2.40 Å)
``apart``     the pair pushed apart to 1.2 times its distance in the host
``puckered``  one atom of the pair pushed away from the site, through the plane of its three other neighbors,
              to the length of a long bond (Si-O: 2.12 Å) from a fourth behind it; where the host has a
              place that breaks none of the three bonds
============  ===========================================================================================

An **interstitial** is a second atom beside the site, in the bridge between the pair: Si-O-O-Si. It has one
start, ``peroxy``, in which the two are 1.47 Å apart and as far from the pair as the site was in the host,
turned about the line of the pair to where there is most room. The new atom is the last one.

Two vacancies together start as each of them alone would, one after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import spglib
from ase import Atom, Atoms
from ase.data import covalent_radii
from numpy.typing import NDArray
from scipy.linalg import null_space

from mlh_driver.analysis import OXYGEN, SILICON, Network
from mlh_driver.analysis.rings import smallest_rings
from mlh_driver.errors import InputError
from mlh_driver.structures import bare

DEFECTS = {"vacancy": ("unmoved", "together", "apart", "puckered"), "interstitial": ("peroxy",)}
"""Kinds of defects, and their starts."""

USUAL_STARTS = {"vacancy": DEFECTS["vacancy"][:3], "interstitial": DEFECTS["interstitial"]}
"""Those of them that most sites have."""
#: Of the sum of covalent radii. Si-Si: 2.40 Å; in relaxed vacancies it is 2.3 to 2.6 Å.
BOND, FARTHEST_BOND = 1.08, 1.2
APART = 1.2
#: Of the sum of covalent radii. Si-O: 1.59 Å, so a moved Si may meet no more than a fourth O.
CLEARANCE = 0.9
#: In Å, of a peroxy bridge; and in how many steps its turn is tried.
PEROXY_A, TURNS = 1.47, 36
#: In Å: how far atoms of a crystal may be from their symmetric places.
SYMMETRY_A = 0.01


def orbits(atoms: Atoms, element: str) -> dict[int, int]:
    """First atom of each set of equivalent atoms of an element, and how many are in the set.

    Equivalent are those that a symmetry of the crystal (spglib) maps onto each other, translations within a
    supercell included; in a glass, every atom is alone. Raises InputError for an element that is not there.
    """
    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    dataset = spglib.get_symmetry_dataset(cell, symprec=SYMMETRY_A)
    equivalent = np.arange(len(atoms)) if dataset is None else dataset.equivalent_atoms
    return dict(sorted(Counter(equivalent[_of_element(atoms, element)].tolist()).items()))


def _of_element(atoms: Atoms, element: str) -> NDArray[np.int64]:
    """All atoms of an element; raises InputError where there is none."""
    found = np.flatnonzero(atoms.symbols == element)
    if not len(found):
        raise InputError(f"{atoms.get_chemical_formula()} has no {element} to remove; see --element")
    return found


def choose_sites(
    atoms: Atoms, element: str, sites: Sequence[int] = (), sample: int = 0, seed: Sequence[int] = (0,)
) -> dict[int, int]:
    """Atoms to remove, and how many sites each stands for: ``sites``, or of the orbits ``sample``, or all.

    Raises InputError for a site that is not of the element, and for more sites than there are.
    """
    if sites:
        first = _of_element(atoms, element)[0]
        for site in sites:
            if not 0 <= site < len(atoms) or atoms.symbols[site] != element:
                raise InputError(
                    f"site {site} is no {element} of {atoms.get_chemical_formula()}: give indices of its "
                    f"atoms, counted from 0; the first {element} is {first}"
                )
        return dict.fromkeys(sites, 1)
    found = orbits(atoms, element)
    if not sample:
        return found
    if sample > len(found):
        raise InputError(
            f"a sample of {sample} was asked for, but {atoms.get_chemical_formula()} has {len(found)} "
            f"distinct {element} sites; give a smaller --sample, or none for all"
        )
    chosen = np.random.default_rng(seed).choice(list(found), sample, replace=False)
    return {site: found[site] for site in sorted(chosen.tolist())}


def choose_two_sites(
    atoms: Atoms,
    element: str,
    sites: Sequence[int] = (),
    within_A: float = 0.0,
    sample: int = 0,
    seed: Sequence[int] = (0,),
) -> list[tuple[int, int]]:
    """Twos of sites to be empty together: each two of ``sites``; or of all (in crystals one of each orbit
    with any other) those at most ``within_A`` apart, or where that is 0 each with its nearest one. Of them
    ``sample`` at random, or all.

    Raises InputError for sites that are not two of the element, and for more than there are.
    """
    if sites:
        chosen = sorted(choose_sites(atoms, element, sites))
        if len(chosen) < 2:
            raise InputError(f"site {chosen[0]} alone makes no pair; name two sites or more")
        return list(combinations(chosen, 2))
    firsts, every = np.array(list(orbits(atoms, element))), np.flatnonzero(atoms.symbols == element)
    distances = atoms.get_all_distances(mic=True)[np.ix_(firsts, every)]
    distances[np.equal.outer(firsts, every)] = np.inf
    reach = distances.min(axis=1, keepdims=True) if within_A == 0.0 else within_A
    rows, columns = np.nonzero((distances <= reach) & np.isfinite(distances))
    ordered = np.sort([firsts[rows], every[columns]], axis=0)
    found = [(int(one), int(other)) for one, other in np.unique(ordered.T, axis=0)]
    if len(found) < max(sample, 1):
        which = f"at most {within_A:g} Å apart" if within_A else "each with its nearest"
        raise InputError(
            f"{max(sample, 1)} pairs were asked for, but {atoms.get_chemical_formula()} has {len(found)} of "
            f"{element}, {which}; give a larger --within or a smaller --sample"
        )
    if not sample:
        return found
    drawn = np.random.default_rng(seed).choice(len(found), sample, replace=False)
    return [found[k] for k in sorted(drawn.tolist())]


def pair_of(host: Atoms, site: int) -> tuple[int, int]:
    """The two atoms of other elements next to a site; raises InputError if there are not two."""
    others = np.flatnonzero(host.numbers != host.numbers[site])
    if len(others) < 2:
        raise InputError(f"{host.get_chemical_formula()} has no two atoms that are not {host.symbols[site]}")
    nearest = others[np.argsort(host.get_distances(site, others, mic=True), kind="stable")[:2]]
    return int(nearest[0]), int(nearest[1])


def start_geometry(host: Atoms, site: int, start: str) -> Atoms | None:
    """The host with the defect, its pair where ``start`` says; None where it has no place for that."""
    if start == "peroxy":
        return _peroxy(host, site)
    if start == "puckered":
        return _puckered(host, site)
    i, j = pair_of(host, site)
    vector = host.get_distance(i, j, mic=True, vector=True)
    distance = np.linalg.norm(vector)
    bond = BOND * covalent_radii[host.numbers[[i, j]]].sum()
    target = {"unmoved": distance, "together": bond, "apart": APART * distance}[start]
    atoms = host.copy()
    atoms.positions[j] += (target / distance - 1.0) * vector / 2.0
    atoms.positions[i] -= (target / distance - 1.0) * vector / 2.0
    return without(atoms, site)


def start_of_two(host: Atoms, sites: tuple[int, int], start: str) -> Atoms | None:
    """The host without two atoms, the lower one first; None where one has no place for that start."""
    one, other = sites
    first = start_geometry(host, other, start)
    return None if first is None else start_geometry(first, one, start)


def _puckered(host: Atoms, site: int) -> Atoms | None:
    """That atom of the pair moved, and to that fourth neighbor, which need the shortest move."""
    moves = [(atom, move) for atom in pair_of(host, site) for move in _moves_behind(host, site, atom)]
    if not moves:
        return None
    atom, move = min(moves, key=lambda each: np.linalg.norm(each[1]))
    moved = host.copy()
    moved.positions[atom] += move
    return without(moved, site)


def _moves_behind(host: Atoms, site: int, atom: int) -> Iterator[NDArray[np.float64]]:
    """Moves of an atom of the pair to a long bond from one more atom, that break none of those to its three
    neighbors, and end too near to none.
    """
    vectors = host.get_distances(atom, range(len(host)), mic=True, vector=True)
    sums = covalent_radii[host.numbers] + covalent_radii[host.numbers[atom]]
    others = ~np.isin(np.arange(len(host)), [atom, site])
    like_site = others & (host.numbers == host.numbers[site])
    bonded = like_site & (np.linalg.norm(vectors, axis=1) < FARTHEST_BOND * sums)
    if bonded.sum() != 3:
        return
    middle = vectors[bonded].mean(axis=0)
    for other in np.flatnonzero(like_site & ~bonded):
        way = vectors[other] - middle
        move = middle + way * (1.0 - FARTHEST_BOND * sums[other] / np.linalg.norm(way))
        distances = np.linalg.norm(vectors - move, axis=1) / sums
        is_beyond = (move - middle) @ vectors[site] < 0.0
        holds = (distances[bonded] < FARTHEST_BOND).all()
        if is_beyond and holds and (distances[others & ~bonded] > CLEARANCE).all():
            yield move


def _peroxy(host: Atoms, site: int) -> Atoms:
    pair = list(pair_of(host, site))
    to_pair = host.get_distances(site, pair, mic=True, vector=True)
    along = to_pair[1] - to_pair[0]
    distance = np.linalg.norm(along)
    bond = np.linalg.norm(to_pair, axis=1).mean()
    height = np.sqrt(max(bond**2 - ((distance - PEROXY_A) / 2.0) ** 2, 0.0))
    half = along / distance * PEROXY_A / 2.0
    middle = host.positions[site] + to_pair.mean(axis=0)
    others = [k for k in range(len(host)) if k not in (site, *pair)]
    across = null_space(half[None]).T
    atoms = bare(host)
    atoms.append(Atom(host.symbols[site]))
    rooms = []
    for angle in np.linspace(0.0, 2.0 * np.pi, TURNS, endpoint=False):
        place = middle + height * (np.cos(angle) * across[0] + np.sin(angle) * across[1])
        turned = atoms.copy()
        turned.positions[[site, -1]] = place - half, place + half
        room = min(turned.get_distances(k, others, mic=True).min() for k in (site, len(host)))
        rooms.append((room, turned))
    return max(rooms, key=lambda each: each[0])[1]


def kept_atoms(n_atoms: int, site: int, defect: str) -> NDArray[np.int64]:
    """Of a host of so many atoms, those that a cell with the defect begins with, in its order."""
    every = np.arange(n_atoms)
    return every if defect == "interstitial" else np.delete(every, site)


def index_in_defect(site: int, atoms: Sequence[int], defect: str) -> list[int]:
    """What atoms of the host are called in a cell with the defect."""
    return list(atoms) if defect == "interstitial" else index_without(site, atoms)


def without(atoms: Atoms, site: int) -> Atoms:
    copy = atoms.copy()
    del copy[site]
    return copy


def index_without(site: int, atoms: Sequence[int]) -> list[int]:
    """What atoms of the host are called when ``site`` is gone."""
    return [atom - (atom > site) for atom in atoms]


def neighbors_of_two(host: Atoms, sites: tuple[int, int]) -> list[int]:
    """The atoms of both pairs, as the host counts: three of them where the two have one in common."""
    return sorted({atom for site in sites for atom in pair_of(host, site)})


def index_without_two(sites: tuple[int, int], atoms: Sequence[int]) -> list[int]:
    """What atoms of the host are called when both sites are gone; the lower one comes first."""
    one, other = sites
    return index_without(one, index_without(other, atoms))


def describe_site(host: Atoms, site: int, rings: dict[int, int]) -> dict[str, Any]:
    """The place before the atom is removed, by name; ``rings`` are those of :func:`rings_of`.

    bonds: number of bonded neighbors;  bond_1_A, bond_2_A, angle_deg, pair_before_A: distances to the pair,
    the angle that it spans at the site, and its distance;  ring: size in Si of the smallest primitive ring
    """
    i, j = pair_of(host, site)
    reach = FARTHEST_BOND * (covalent_radii[host.numbers] + covalent_radii[host.numbers[site]])
    distances = host.get_distances(site, range(len(host)), mic=True)
    return {
        "pair": [i, j],
        "bonds": int((distances < reach).sum()) - 1,
        "bond_1_A": float(distances[i]),
        "bond_2_A": float(distances[j]),
        "angle_deg": float(host.get_angle(i, site, j, mic=True)),
        "pair_before_A": float(host.get_distance(i, j, mic=True)),
        "ring": rings.get(site),
    }


def rings_of(host: Atoms) -> dict[int, int]:
    """Size in Si of the smallest primitive ring through each atom; empty where the host is not SiO2."""
    if set(host.numbers.tolist()) != {SILICON, OXYGEN}:
        return {}
    return smallest_rings(Network.of(host))


def distances_from(host: Atoms, site: int, atoms: NDArray[np.int64]) -> NDArray[np.float64]:
    """(M,) distance in Å of atoms from a site."""
    return np.asarray(host.get_distances(site, atoms, mic=True))

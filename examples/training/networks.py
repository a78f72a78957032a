"""Perfect SiO2 networks: by mending a quenched one, or by bond switching from another.

A short quench leaves miscoordinated atoms in nearly every small cell, in most of them three-coordinated Si
and as many O with one Si. ``healed_network`` gives every such O a second Si. ``switched_network`` changes a
perfect network step by step into others (Wooten, Winer and Weaire, Phys. Rev. Lett. 54, 1392, 1985): two Si
that share an O exchange a neighbor each. In both, springs along the new bonds pull the atoms into place and
the classical potential relaxes them; a Monte Carlo step accepts or refuses a switch.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from ase import Atoms
from scipy.optimize import minimize
from structures import Vashishta, count_defects, silicon_neighbors

Bridges = dict[int, tuple[int, int]]
"""The two Si of every O."""

SI_O_A, O_O_A, SI_SI_A = 1.62, 2.645, 3.1
#: Atoms that are not bonded are pushed apart to this distance, by the sum of their atomic numbers.
APART_A = {16: 2.8, 22: 2.9, 28: 3.0}
LONGEST_NEW_BRIDGE_A = 6.0
HEALING_K = 2500.0
#: From the O that changes its Si to the new one, in mending.
LONGEST_HOP_A = 4.5


def switched_network(start: Atoms, seed: int, hot_steps: int = 8, trials: int = 500) -> Atoms:
    """Another perfect network of the same atoms: ``hot_steps`` switches at kT = 1.5 eV, then annealing.

    Raises ValueError if ``start`` has a miscoordinated atom.
    """
    if not is_perfect(start):
        raise ValueError("bond switching starts from a network without miscoordinated atoms")
    rng = np.random.default_rng(seed)
    atoms, energy = relaxed(start, seed)
    accepted = 0
    for trial in range(trials):
        kT = 1.5 if accepted < hot_steps else 0.4 if trial < 0.7 * trials else 0.15
        bridges = switched_bridges(atoms, rng)
        if bridges is None:
            continue
        candidate, new_energy = relaxed(pulled_into_place(atoms, bridges), seed)
        if not is_perfect(candidate) or bridges_of(candidate) != bridges:
            continue
        if rng.random() < np.exp(min(0.0, (energy - new_energy) / kT)):
            atoms, energy, accepted = candidate, new_energy, accepted + 1
    return atoms


def healed_network(quenched: Atoms, seed: int, attempts: int = 40) -> Atoms:
    """A network of ``quenched`` in which every non-bridging O is tied to a three-coordinated Si, relaxed.

    When the bonds do not survive the relaxation, the next attempt starts after 2 ps at 2500 K.

    Raises ValueError after the last of ``attempts``.
    """
    atoms = quenched
    for attempt in range(attempts):
        if attempt:
            with Vashishta(atoms, seed + attempt) as md:
                md.run(HEALING_K, HEALING_K, 2.0)
                md.minimize()
                atoms = md.atoms()
        bridges = mended_bridges(atoms)
        if bridges is not None:
            healed, _ = relaxed(pulled_into_place(atoms, bridges), seed)
            if is_perfect(healed):
                return healed
    raise ValueError(f"no perfect network after {attempts} attempts; use another seed")


def mended_bridges(atoms: Atoms) -> Bridges | None:
    """The bridges and one more for every non-bridging O, None if other atoms are miscoordinated.

    Where O and the Si that lacks a bond are far apart, the missing bond moves from Si to Si until they are
    near: an O close to the Si that lacks it leaves one of its own two for that.
    """
    bridges = bridges_of(atoms)
    of_oxygen = silicon_neighbors(atoms)
    loose = [o for o, silicon in of_oxygen.items() if len(silicon) == 1]
    counts = np.bincount([si for silicon in of_oxygen.values() for si in silicon], minlength=len(atoms))
    lacking = [si for si in np.flatnonzero(atoms.numbers == 14).tolist() if counts[si] == 3]
    if len(loose) != len(lacking) or count_defects(atoms) != len(loose) + len(lacking):
        return None
    distances = atoms.get_all_distances(mic=True)
    for o in loose:
        home = of_oxygen[o][0]
        lacking.sort(key=lambda si: distances[si, home])
        hole = lacking.pop(0)
        visited = {home}
        while hole == home or distances[hole, home] > LONGEST_NEW_BRIDGE_A or _linked(bridges, hole, home):
            visited.add(hole)
            hop = _next_hop(bridges, distances[home], distances[hole], hole, visited)
            if hop is None:
                return None
            oxygen, bridge, hole = hop
            bridges[oxygen] = bridge
        bridges[o] = (min(hole, home), max(hole, home))
    return bridges


def _linked(bridges: Bridges, first: int, second: int) -> bool:
    return (min(first, second), max(first, second)) in bridges.values()


def _next_hop(
    bridges: Bridges, from_home: np.ndarray, from_hole: np.ndarray, hole: int, visited: set[int]
) -> tuple[int, tuple[int, int], int] | None:
    """The O that ties ``hole``, its new bridge, and the Si that lacks a bond then, as near home as can be."""
    hops = [
        (from_home[left], oxygen, (min(hole, kept), max(hole, kept)), left)
        for oxygen, ends in bridges.items()
        for left, kept in (ends, ends[::-1])
        if hole not in ends
        and left not in visited
        and from_hole[oxygen] < LONGEST_HOP_A
        and not _linked(bridges, hole, kept)
    ]
    return min(hops)[1:] if hops else None


def bridges_of(atoms: Atoms) -> Bridges:
    """The Si of every O that has two."""
    return {o: (si[0], si[1]) for o, si in silicon_neighbors(atoms).items() if len(si) == 2}


def is_perfect(atoms: Atoms) -> bool:
    """Whether every Si has four O, every O two Si, and no two tetrahedra share an edge."""
    bridges = bridges_of(atoms)
    return count_defects(atoms) == 0 and len(set(bridges.values())) == len(bridges)


def relaxed(atoms: Atoms, seed: int) -> tuple[Atoms, float]:
    """The minimum of the classical energy, and that energy in eV."""
    with Vashishta(atoms, seed) as md:
        md.minimize()
        return md.atoms(), md.energy()


def switched_bridges(atoms: Atoms, rng: np.random.Generator) -> Bridges | None:
    """a-A-B-b to b-A-B-a around a random bridge A-B; None if that is no network or too far to reach."""
    bridges = bridges_of(atoms)
    middle = int(rng.choice(list(bridges)))
    A, B = bridges[middle]
    first = int(rng.choice([o for o, ends in bridges.items() if A in ends and o != middle]))
    second = int(rng.choice([o for o, ends in bridges.items() if B in ends and o != middle]))
    a = next(si for si in bridges[first] if si != A)
    b = next(si for si in bridges[second] if si != B)
    if len({A, B, a, b}) < 4:
        return None
    new = bridges | {first: (min(B, a), max(B, a)), second: (min(A, b), max(A, b))}
    lengths = [atoms.get_distance(B, a, mic=True), atoms.get_distance(A, b, mic=True)]
    return new if len(set(new.values())) == len(new) and max(lengths) < LONGEST_NEW_BRIDGE_A else None


def pulled_into_place(atoms: Atoms, bridges: Bridges) -> Atoms:
    """The atoms after springs along the bonds and edges of the tetrahedra have found their lengths."""
    tetrahedra: dict[int, list[int]] = {}
    springs = []  # two atoms, length, strength
    for o, ends in bridges.items():
        springs.append((*ends, SI_SI_A, 1.0))
        for si in ends:
            springs.append((o, si, SI_O_A, 10.0))
            tetrahedra.setdefault(si, []).append(o)
    for corners in tetrahedra.values():
        springs += [(*edge, O_O_A, 4.0) for edge in combinations(corners, 2)]
    i, j, lengths, strengths = (np.array(column) for column in zip(*springs, strict=True))
    free = np.triu(np.ones((len(atoms), len(atoms)), bool), 1)
    free[np.minimum(i, j), np.maximum(i, j)] = False
    p, q = np.nonzero(free)
    apart = np.array([APART_A[z] for z in atoms.numbers[p] + atoms.numbers[q]])
    cell, inverse = atoms.cell.array, np.linalg.inv(atoms.cell.array)

    def energy(x: np.ndarray) -> tuple[float, np.ndarray]:
        positions, gradient, total = x.reshape(-1, 3), np.zeros((len(atoms), 3)), 0.0
        for a, b, target, k, repulsive in ((i, j, lengths, strengths, False), (p, q, apart, 3.0, True)):
            d = positions[b] - positions[a]
            d -= np.round(d @ inverse) @ cell
            r = np.linalg.norm(d, axis=1) + 1e-9
            stretch = np.minimum(r - target, 0.0) if repulsive else r - target
            total += float((k * stretch**2).sum())
            pull = (2.0 * k * stretch / r)[:, None] * d
            np.add.at(gradient, b, pull)
            np.add.at(gradient, a, -pull)
        return total, gradient.ravel()

    start = atoms.positions.copy()
    for o, _ in set(bridges.items()) - set(bridges_of(atoms).items()):  # in the middle of its new bridge
        a, b = bridges[o]
        start[o] = start[a] + 0.5 * atoms.get_distance(a, b, mic=True, vector=True)
    result = minimize(energy, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    placed = atoms.copy()
    placed.positions[:] = result.x.reshape(-1, 3)
    return placed

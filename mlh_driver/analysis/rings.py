"""Primitive rings of the Si-O network.

A ring is primitive (a shortest-path ring; Franzblau, PRB 44, 4925 (1991)) if no two of its atoms are joined
by a path in the network that is shorter than both ways along the ring. Other criteria give other counts.

The search runs on the unwrapped network, in which every periodic image is an atom of its own. Within one cell
a path that leaves the cell and comes back to an image of its start would pass for a ring, which spoils the
counts from rings of some five Si on in cells of 11 Å.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from itertools import combinations

from mlh_driver.analysis.network import Network

#: An atom of the unwrapped network: its index and the cell in which it lies.
Site = tuple[int, tuple[int, int, int]]
Bonds = dict[int, list[Site]]


def primitive_rings(network: Network, largest: int = 10) -> dict[int, int]:
    """Number of primitive rings per cell of every size that occurs, in Si, up to ``largest``.

    A ring of n Si has 2n atoms, and the atom opposite to a Si is n bonds away, at the end of two shortest
    paths that meet nowhere in between. It is primitive if all its opposite atoms are n bonds apart. The
    search finds it once from each of its Si.
    """
    found = Counter(len(ring) // 2 for ring in _primitive(network, largest))
    return {size: count // size for size, count in sorted(found.items())}


def smallest_rings(network: Network, largest: int = 10) -> dict[int, int]:
    """Size in Si of the smallest primitive ring through each atom that is in any, by its index."""
    smallest: dict[int, int] = {}
    for ring in _primitive(network, largest):
        for atom, _ in ring:
            smallest[atom] = min(len(ring) // 2, smallest.get(atom, largest))
    return smallest


def _primitive(network: Network, largest: int) -> Iterator[tuple[Site, ...]]:
    """The primitive rings, each once from each of its Si."""
    bonds = _bonds(network)
    distances = {atom: _distances(bonds, atom, largest) for atom in bonds}
    for root in set(network.silicon.tolist()):
        for site, distance in distances[root].items():
            for ring in _rings_through(site, distance, bonds, distances[root]):
                if _is_primitive(ring, distances):
                    yield ring


def _bonds(network: Network) -> Bonds:
    """Bonded neighbors of every atom in the cell (0, 0, 0) that has any."""
    bonds: Bonds = {}
    rows = zip(network.silicon.tolist(), network.oxygen.tolist(), network.shifts.tolist(), strict=True)
    for silicon, oxygen, (x, y, z) in rows:
        bonds.setdefault(silicon, []).append((oxygen, (x, y, z)))
        bonds.setdefault(oxygen, []).append((silicon, (-x, -y, -z)))
    return bonds


def _neighbors(bonds: Bonds, site: Site) -> Iterator[Site]:
    atom, (x, y, z) = site
    for other, (dx, dy, dz) in bonds[atom]:
        yield other, (x + dx, y + dy, z + dz)


def _distances(bonds: Bonds, atom: int, reach: int) -> dict[Site, int]:
    """Number of bonds from an atom to every site up to ``reach`` bonds away, by breadth-first search."""
    start: Site = (atom, (0, 0, 0))
    distances, waiting = {start: 0}, deque([start])
    while waiting:
        site = waiting.popleft()
        if distances[site] == reach:
            break
        for neighbor in _neighbors(bonds, site):
            if neighbor not in distances:
                distances[neighbor] = distances[site] + 1
                waiting.append(neighbor)
    return distances


def _rings_through(
    site: Site, distance: int, bonds: Bonds, from_root: dict[Site, int]
) -> Iterator[tuple[Site, ...]]:
    """Rings of twice ``distance`` atoms through the root, made of two shortest paths from it to ``site``."""
    before = [n for n in _neighbors(bonds, site) if from_root.get(n) == distance - 1]
    if len(before) < 2:
        return
    for first, second in combinations(_paths(site, bonds, from_root), 2):
        if len({*first[1:-1], *second[1:-1]}) == 2 * (distance - 1):
            yield (*first, *second[-2:0:-1])


def _paths(site: Site, bonds: Bonds, from_root: dict[Site, int]) -> list[tuple[Site, ...]]:
    """All shortest paths from the root to ``site``, both included."""
    distance = from_root[site]
    if distance == 0:
        return [(site,)]
    before = (n for n in _neighbors(bonds, site) if from_root.get(n) == distance - 1)
    return [(*path, site) for n in before for path in _paths(n, bonds, from_root)]


def _is_primitive(ring: tuple[Site, ...], distances: dict[int, dict[Site, int]]) -> bool:
    """Whether all opposite atoms are as far apart in the network as they are along the ring."""
    half = len(ring) // 2
    return all(_apart(ring[k], ring[k + half], distances) == half for k in range(half))


def _apart(a: Site, b: Site, distances: dict[int, dict[Site, int]]) -> int | None:
    """Number of bonds between two sites, None beyond the reach of the search."""
    (atom, cell), (other, other_cell) = a, b
    x, y, z = (theirs - own for own, theirs in zip(cell, other_cell, strict=True))
    return distances[atom].get((other, (x, y, z)))

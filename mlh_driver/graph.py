"""Structure -> graph: unordered pairs of atoms within the cutoff, reused between steps.

Every unordered pair of an atom and a periodic image appears once, so that Hermiticity costs nothing
later. A cell may be smaller than the cutoff: then two atoms meet through several images, and an atom
meets its own images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vesin import NeighborList as VesinList

from mlh_driver.basis import OrbitalBasis
from mlh_driver.errors import StructureError
from mlh_driver.parts import WHOLE, Whole
from mlh_driver.system import Array, System, displacements

#: Within the cutoff, several times those of the densest solids: more is a cell in wrong units.
MOST_NEIGHBORS = 1000
#: Atoms that are closer are at the same place.
SHORTEST_A = 1e-3


@dataclass(frozen=True, eq=False)
class Graph:
    """Pairs of one structure, sorted by the kinds of their two atoms.

    species:      (L,) index of each atom's species in the basis; for L and N see :mod:`~mlh_driver.parts`
    pair_index:   (2, P) atoms i and j of each unordered pair, species[i] <= species[j]
    pair_vectors: (P, 3) r_j + S·cell - r_i in Å, S being the integers that lead to the image of j
    kind_sizes:   pairs of each kind; the kinds are (a, b) with a <= b in lexicographic order, and the
                  pairs of a kind are consecutive
    positions:    (L, 3) in Å, in double precision, as is
    cell:         (3, 3) its rows are the vectors of the cell; only what is long-ranged depends on these two
    part:         the atoms that this process works on
    """

    species: Tensor
    pair_index: Tensor
    pair_vectors: Tensor
    kind_sizes: tuple[int, ...]
    positions: Tensor
    cell: Tensor
    part: Whole = WHOLE

    @property
    def n_atoms(self) -> int:
        return len(self.species)

    @property
    def geometry(self) -> tuple[Tensor, Tensor, Tensor]:
        """What energies are functions of: pair vectors, positions and cell."""
        return self.pair_vectors, self.positions, self.cell

    def with_gradient(self) -> Graph:
        """The same graph, with a geometry of fresh leaves that record derivatives."""
        vectors, positions, cell = (x.detach().clone().requires_grad_() for x in self.geometry)
        return replace(self, pair_vectors=vectors, positions=positions, cell=cell)

    def to(self, device: torch.device) -> Graph:
        """The graph on a device."""
        names = ("species", "pair_index", "pair_vectors", "positions", "cell")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def forces_and_virial(gradients: Sequence[Tensor], graph: Graph) -> tuple[Tensor, Tensor]:
    """Forces (L, 3) and virial (3, 3) from the derivatives of an energy by the ``geometry`` of a graph.

    A pair vector is r_j - r_i, so F_i gains g = dE/dr_ij and F_j loses it. The virial is -sum x (outer) dE/dx
    over pair vectors, positions and cell vectors x, symmetrized (it is -V times the stress). Sums are in
    double precision.
    """
    by_pairs, by_positions, by_cell = (g.double() for g in gradients)
    vectors, positions, cell = (x.detach().double() for x in graph.geometry)
    i, j = graph.pair_index
    forces = (-by_positions).index_add(0, i, by_pairs).index_add(0, j, -by_pairs)
    virial = -(vectors.T @ by_pairs + positions.T @ by_positions + cell.T @ by_cell)
    return forces, 0.5 * (virial + virial.T)


def pair_kinds(n_species: int) -> list[tuple[int, int]]:
    """The unordered pairs of species, in the order in which a graph sorts its pairs."""
    return [(a, b) for a in range(n_species) for b in range(a, n_species)]


def kind_of_pair(n_species: int) -> NDArray[np.int64]:
    """(n_species, n_species) symmetric: which of them two species are."""
    table = np.zeros((n_species, n_species), dtype=np.int64)
    for kind, (a, b) in enumerate(pair_kinds(n_species)):
        table[a, b] = table[b, a] = kind
    return table


@dataclass(frozen=True, eq=False)
class PairList:
    """The pairs within cutoff + skin of a reference structure, and the kind of each."""

    reference: System
    i: NDArray[np.int64]
    j: NDArray[np.int64]
    shifts: NDArray[np.int64]
    kinds: NDArray[np.int64]


def check_crowding(system: System, reach_A: float) -> None:
    """Raise StructureError where atoms have far too many neighbors within ``reach_A``."""
    neighbors = 4.0 / 3.0 * np.pi * reach_A**3 * len(system) / system.volume
    if neighbors > MOST_NEIGHBORS:
        raise StructureError(
            f"{len(system)} atoms in {system.volume:.4g} Å^3 have some {neighbors:.0f} neighbors each "
            f"within {reach_A:g} Å; is the cell in Å?"
        )


def _check_closest(squares: Array, pairs: PairList, part: Whole) -> None:
    """Raise StructureError for a pair of atoms without a direction from one to the other."""
    if len(squares) and squares.min() < SHORTEST_A**2:
        k = int(squares.argmin())
        i, j = part.named(torch.tensor([pairs.i[k], pairs.j[k]])).tolist()
        raise StructureError(
            f"atoms {i} and {j} (counted from 0) are {squares[k] ** 0.5:.1e} Å apart; is "
            "one of them there twice?"
        )


class GraphBuilder:
    """Makes graphs, and keeps the pair list of the last structure while it is provably complete.

    A list built for cutoff + skin is complete as long as no pair outside it can have come within the
    cutoff. With F the linear map from the old cell to the new one and d the largest displacement of an
    atom relative to that map, a distance above cutoff + skin is now above
    sigma_min(F) (cutoff + skin) - 2 d. Displacements are taken to the nearest image, so atoms that are
    wrapped back into the cell (or that are given unwrapped) do not invalidate the list; another bead of a
    ring polymer usually does not either.
    """

    def __init__(self, basis: OrbitalBasis, cutoff: float, skin: float = 0.6) -> None:
        self.basis = basis
        self.cutoff = cutoff
        self.skin = skin
        self.part: Whole = WHOLE
        self.rebuilds = 0
        self._list: PairList | None = None

    def build(self, system: System, dtype: torch.dtype = torch.float64) -> Graph:
        """The graph of a structure.

        Raises StructureError for unknown species, two atoms at one place, and far too many neighbors.
        """
        species = self.basis.species_index(system.numbers)
        images = self._reusable_images(system)
        if images is None:
            self._list = self._search(system, species)
            images = np.zeros((len(system), 3))
        pairs = self._list
        assert pairs is not None
        shifts = pairs.shifts + images[pairs.i] - images[pairs.j]
        vectors = system.positions[pairs.j] - system.positions[pairs.i] + shifts @ system.cell
        squares = np.einsum("px,px->p", vectors, vectors)
        _check_closest(squares, pairs, self.part)
        inside = squares < self.cutoff**2
        n_kinds = len(pair_kinds(len(self.basis.species)))
        return Graph(
            species=torch.from_numpy(species),
            pair_index=torch.from_numpy(np.stack([pairs.i[inside], pairs.j[inside]])),
            pair_vectors=torch.from_numpy(vectors[inside]).to(dtype),
            kind_sizes=tuple(np.bincount(pairs.kinds[inside], minlength=n_kinds).tolist()),
            positions=torch.tensor(system.positions),
            cell=torch.tensor(system.cell),
            part=self.part,
        )

    def _reusable_images(self, system: System) -> Array | None:
        """Lattice translations since the reference, (N, 3); None when the list must be made anew."""
        if self._list is None or not np.array_equal(self._list.reference.numbers, system.numbers):
            return None
        deformation, images, rest = displacements(self._list.reference, system)
        moved = np.linalg.norm(rest, axis=1).max()
        shrink = np.linalg.svd(deformation, compute_uv=False).min()
        complete = all(shrink * (r + self.skin) - 2 * moved >= r for r in self._ranges())
        return images if complete else None

    def _ranges(self) -> tuple[float, ...]:
        """In Å: what is within one of them, with the skin in the reference, is in the list."""
        return (self.cutoff,)

    def _search(self, system: System, species: NDArray[np.int64]) -> PairList:
        self.rebuilds += 1
        reach = self.cutoff + self.skin
        check_crowding(system, reach)
        i, j, shifts = VesinList(cutoff=reach, full_list=False).compute(
            points=system.positions, box=system.cell, periodic=True, quantities="ijS"
        )
        i, j, shifts = i.astype(np.int64), j.astype(np.int64), shifts.astype(np.int64)
        swap = species[i] > species[j]
        i, j = np.where(swap, j, i), np.where(swap, i, j)
        shifts = np.where(swap[:, None], -shifts, shifts)
        kinds = kind_of_pair(len(self.basis.species))[species[i], species[j]]
        order = np.lexsort((j, i, kinds))
        return PairList(system, i[order], j[order], shifts[order], kinds[order])

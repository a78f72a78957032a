"""What happens where the training data end: a wall at short distances, and bounds of all that is predicted.

A network knows nothing beyond its data, and an atom that gets there may find a hole without bottom. Two
things keep it out, and both act on no structure of the training.

*Distances.* Below an inner radius r0 of each kind of pair the distance that the network sees stops changing,
over a width w, and a wall W is added to the energy, whose force grows to F:

    s(r) = r0 - (t - 2 t^3 / (3 w^2) + t^5 / (5 w^4)),   t = min(r0 - r, w)
    W(r) = F [t - b arctan(t / b)],   W' = F t^2 / (t^2 + b^2),   t = max(r0 - r, 0)

Both join the outside with two continuous derivatives.

*Features.* Atoms may come close in ways that no single distance shows, such as two tetrahedra that share an
edge, and features are products that grow without bound. So where the extrapolation indicator of an atom (see
:mod:`mlh_driver.extrapolation`) exceeds 1, the edge of the training data, its features are drawn back
towards the mean of the training by the formula below, |x| being the indicator d. What is predicted from them
says nothing about the structure, so an energy brings it back:

    V(d) = K ln[1 + (d - 1)^2],   d > 1

*Outputs.* Whatever the network predicts for an atom or a pair is scaled where its norm exceeds the largest of
the training data, a bound B:

    |x| -> B [1 + c tanh((|x| / B - 1) / c)],

at most (1 + c) B. The bounds of blocks of pairs depend on the distance, like the repulsion that goes with
them; those of all blocks of an atom together bound its second moment, and so what electrons gain at the
atom. In a crushed structure the wall and the pair repulsion go on rising, in a torn one there is nothing
left to gain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mlh_driver.extrapolation import ExtrapolationIndicator
from mlh_driver.network.coupling import n_orbitals, shell_slices
from mlh_driver.parts import WHOLE, Whole

WIDTH_A = 0.25
#: W is F t^3 / (3 b^2) at first. An oxygen atom bounces off it in some ten femtoseconds.
WALL_FORCE_eV_A = 200.0
WALL_ONSET_A = 0.25
#: c of the bounds, and how far beyond the largest value of the training data they lie.
SOFTNESS = 0.2
MARGIN = 1.1
BIN_A = 0.1
OF_PAIRS = ("bonds", "legs")
OF_ATOMS = ("tensors", "bonds_of_atom", "legs_of_atom", "onsite", "electrons", "dipoles", "energies")
#: Features come back to this value of the extrapolation indicator, if there are so many training atoms of the
#: species for each feature: few draw no edge. With 2 a melt stayed between 1 and 2, bound too strongly.
FEATURES_EDGE = 1.0
ATOMS_PER_FEATURE = 10
EDGE_STRENGTH_eV = 2.0


def saturated(distances: Tensor, inner: Tensor) -> Tensor:
    """(P,) distances that the network sees, given true ones and the inner radius of each pair, in Å."""
    t = (inner - distances).clamp(0.0, WIDTH_A)
    u = (t / WIDTH_A) ** 2
    return torch.maximum(distances, inner) - t * (1.0 - u * (2.0 / 3.0 - u / 5.0))


def wall(distances: Tensor, inner: Tensor) -> Tensor:
    """(P,) repulsive energies in eV, zero outside the inner radii."""
    t = (inner - distances).clamp(min=0.0)
    return WALL_FORCE_eV_A * (t - WALL_ONSET_A * torch.atan(t / WALL_ONSET_A))


class OutputBounds(nn.Module):
    """Largest norms of what a network predicts; infinite where they are unknown.

    Per kind of pair and distance, (n_kinds, bins):

    bonds: of the blocks of pairs in eV
    legs:  of the short blocks whose products join two atoms through a third one

    Per species, (n_species,):

    tensors:   of the features that turn with the structure
    bonds_of_atom, legs_of_atom: of all these blocks of an atom
    onsite:    of the on-site block beyond the mean levels of the species, in eV
    electrons: excess electrons
    dipoles:   in electrons times Å
    energies:  of the many-body double-counting energy, in eV
    edge:      of the extrapolation indicator

    ``levels`` (n_species, n) are the mean on-site levels of the shells of each species, in eV. ``features``,
    which belongs to the model and is not stored here, knows how far features are from the training.
    """

    levels: Tensor
    edge: Tensor
    features: ExtrapolationIndicator | None = None

    def __init__(self, shells: Sequence[tuple[int, ...]], n_kinds: int, cutoff_A: float) -> None:
        super().__init__()
        self._shells = shells
        n_species, bins = len(shells), round(cutoff_A / BIN_A)
        self.register_buffer("levels", torch.zeros(n_species, max(n_orbitals(s) for s in shells)))
        for name in OF_PAIRS:
            self.register_buffer(name, torch.full((n_kinds, bins), torch.inf))
        for name in (*OF_ATOMS, "edge"):
            self.register_buffer(name, torch.full((n_species,), torch.inf))
        self._largest: dict[str, Tensor] | None = None
        self._onsite: list[tuple[Tensor, Tensor]] = []
        self._channels = 0

    def bounded_features(self, features: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
        """(N, K, C) features, bounded, and the energies (N,) in eV that keep atoms near the training data.

        What is made of these features is made of scalars such as the training has, in all directions.
        """
        self._channels = features.shape[2]
        scalars, energies = self._near_edge(features[:, 0], species)
        tensors = self.atoms("tensors", features[:, 1:], species)
        return torch.cat([scalars[:, None], tensors], dim=1), energies

    def _near_edge(self, scalars: Tensor, species: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars (N, C), those beyond the edge drawn back to it, and what it costs to be there (N,)."""
        energies = torch.zeros_like(scalars[:, 0])
        if self.features is None or self._largest is not None:
            return scalars, energies
        beyond = torch.nonzero(self.features(scalars.detach(), species) > self.edge[species])[:, 0]
        if not len(beyond):
            return scalars, energies
        some, kinds = scalars[beyond], species[beyond]
        distances, edge = self.features(some, kinds), self.edge[kinds]
        means = self.features.means[kinds].to(scalars.dtype)
        drawn_back = means + (some - means) * _factors(distances[:, None], edge)[:, None]
        costs = EDGE_STRENGTH_eV * torch.log1p((distances - edge) ** 2)
        return scalars.index_copy(0, beyond, drawn_back), energies.index_copy(0, beyond, costs)

    def pairs(self, name: str, blocks: Tensor, distances: Tensor, kinds: Tensor) -> Tensor:
        """(P, n, n) bounded blocks of pairs, given distances (P,) in Å and kinds (P,)."""
        norms = torch.linalg.vector_norm(blocks.detach().flatten(1), dim=1)
        if self._largest is not None:
            largest = self._largest[name]
            bins = (distances.detach() / BIN_A).long().clamp(max=largest.shape[1] - 1)
            largest.view(-1).scatter_reduce_(0, kinds * largest.shape[1] + bins, norms, "amax")
            return blocks
        table = getattr(self, name)
        beyond = torch.nonzero(norms > self._at(table, distances.detach(), kinds))[:, 0]
        if not len(beyond):
            return blocks
        some = blocks[beyond]
        factors = _factors(some, self._at(table, distances[beyond], kinds[beyond]))
        return blocks.index_copy(0, beyond, _times(some, factors))

    def _at(self, table: Tensor, distances: Tensor, kinds: Tensor) -> Tensor:
        """(P,) bounds at any distance, with two continuous derivatives, from those of the nearest bins."""
        x = (distances / BIN_A - 0.5).clamp(0.0, table.shape[1] - 1.001)
        first = x.detach().long()
        t = x - first
        step = t**3 * (10.0 - 15.0 * t + 6.0 * t * t)
        low, high = table[kinds, first], table[kinds, first + 1]
        return torch.where(low == high, low, low.lerp(high, step))  # also where both are infinite

    def atoms(self, name: str, values: Tensor, species: Tensor) -> Tensor:
        """(N, ...) bounded values of atoms."""
        factors = self.factors(name, values, species)
        return values if factors is None else _times(values, factors)

    def onsite_blocks(self, blocks: Tensor, species: Tensor) -> Tensor:
        """(N, n, n) bounded on-site blocks."""
        if self._largest is not None:
            self._onsite.append((blocks.detach(), species))
            return blocks
        means = torch.diag_embed(self.levels[species]).to(blocks)[:, : blocks.shape[1], : blocks.shape[1]]
        factors = self.factors("onsite", blocks - means, species)
        return blocks if factors is None else means + _times(blocks - means, factors)

    def factors(self, name: str, values: Tensor, species: Tensor, part: Whole = WHOLE) -> Tensor | None:
        """(M,) what scales the values (M, ...) of atoms to their bounds, None where all are within."""
        norms = torch.linalg.vector_norm(values.detach().flatten(1), dim=1)
        if self._largest is not None:
            self._largest[name].scatter_reduce_(0, species, norms, "amax")
            return None
        bounds = getattr(self, name)[species]
        beyond = torch.nonzero(norms > bounds)[:, 0]
        if not part.anywhere(len(beyond) > 0):
            return None
        return torch.ones_like(norms).index_copy(0, beyond, _factors(values[beyond], bounds[beyond]))

    def lift(self) -> None:
        """No bounds, so that a network can learn what lies beyond them."""
        for name in (*OF_PAIRS, *OF_ATOMS, "edge"):
            getattr(self, name).fill_(torch.inf)

    def widen(self, other: OutputBounds) -> None:
        """Take the larger of the bounds of two; where one has none, those of the other."""
        for name in (*OF_PAIRS, *OF_ATOMS):
            own, others = getattr(self, name), getattr(other, name)
            larger = torch.maximum(own, others)
            own.copy_(torch.where(larger.isinf(), torch.minimum(own, others), larger))

    @contextmanager
    def measured(self) -> Iterator[None]:
        """What is evaluated in this block is within bounds, which its largest values set afterwards."""
        self._largest = {name: torch.zeros_like(getattr(self, name)) for name in (*OF_PAIRS, *OF_ATOMS)}
        try:
            yield
            self._measure_onsite()
            for name in OF_PAIRS:
                self._largest[name] = _filled(self._largest[name])
            for name, largest in self._largest.items():
                unseen = largest == 0.0  # such as a kind of pair that the training data do not have
                getattr(self, name).copy_(torch.where(unseen, torch.inf, MARGIN * largest))
        finally:
            self._largest, self._onsite = None, []

    def _measure_onsite(self) -> None:
        """Mean levels, the same for all orbitals of a shell, and the largest distance from them."""
        assert self._largest is not None
        for k, shells in enumerate(self._shells):
            of_species = [found[species == k] for found, species in self._onsite if (species == k).any()]
            if not of_species:
                continue
            blocks = torch.cat(of_species)
            levels = torch.diagonal(blocks, dim1=1, dim2=2).mean(dim=0)
            for shell in shell_slices(shells):
                levels[shell] = levels[shell].mean()
            self.levels[k, : len(levels)] = levels
            self.edge[k] = FEATURES_EDGE if len(blocks) >= ATOMS_PER_FEATURE * self._channels else torch.inf
            rest = (blocks - torch.diag(levels)).flatten(1)
            self._largest["onsite"][k] = torch.linalg.vector_norm(rest, dim=1).max()


def _factors(values: Tensor, bounds: Tensor) -> Tensor:
    """(M,) what scales values (M, ...) that are beyond their bounds (M,)."""
    x = torch.linalg.vector_norm(values.flatten(1), dim=1) / bounds
    return (1.0 + SOFTNESS * torch.tanh((x - 1.0) / SOFTNESS)) / x


def _times(values: Tensor, factors: Tensor) -> Tensor:
    """Values (M, ...) times a factor each, (M,)."""
    return values * factors.reshape(-1, *[1] * (values.dim() - 1))


def _filled(largest: Tensor) -> Tensor:
    """Largest norms per distance, (n_kinds, bins), of each bin and those beside it.

    At distances without any pair of the kind those of the next longer distance with some, or the longest.
    """
    near = nn.functional.max_pool1d(largest[None], 3, stride=1, padding=1)[0]
    for row in near:
        seen = torch.nonzero(row)[:, 0]
        if len(seen):
            places = torch.arange(len(row), device=row.device).clamp(max=int(seen[-1]))
            row.copy_(row[seen[torch.searchsorted(seen, places)]])
    return near

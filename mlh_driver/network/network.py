"""The network: from a graph to Hamiltonian blocks and per-atom energies.

Density of neighbors -> many-body products -> messages along bonds -> many-body products give each atom
a set of features h_i. From these, the on-site block comes from h_i, the block of a pair from h_i and h_j
turned into the frame of their bond. Charges and dipoles from h_i add the potential of distant atoms to
the on-site blocks. The double-counting energy comes from the density alone. Couplings
through intermediate atoms, which orthogonalization makes long-ranged, are added as products of
short-ranged blocks along two bonds, H_ij += sum_k a_ik b_jk^T + b_ik a_jk^T.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from mlh_driver.basis import OrbitalBasis
from mlh_driver.errors import InputError
from mlh_driver.graph import Graph, kind_of_pair, pair_kinds
from mlh_driver.network.chunks import bond_chunks, in_chunks
from mlh_driver.network.coupling import bond_coupling
from mlh_driver.network.electrostatics import LongRange
from mlh_driver.network.energy import ManyBodyEnergy
from mlh_driver.network.frames import FrameRotation, bond_rotations
from mlh_driver.network.fused import FusedBondBlocks
from mlh_driver.network.heads import OnsiteBlocks
from mlh_driver.network.limits import OutputBounds, saturated, wall
from mlh_driver.network.nodes import AtomDensity, AtomFeatures, Bonds, NodeLinear
from mlh_driver.network.radial import RadialBasis, envelope
from mlh_driver.network.rotation import Ends
from mlh_driver.runtime import use_torch_threads

#: Keeps the root of a second moment differentiable where an atom has no neighbors.
TINY_eV2 = 1e-12
#: Of features, and of layers: several times what is useful. A file of a stranger must not fill the memory.
LARGEST_L, LARGEST_SIZE = 6, 1024


@dataclass(frozen=True)
class NetworkSettings:
    """Sizes and ranges of the network.

    pair_cutoff_A:    range of the Hamiltonian
    message_cutoff_A: range of one layer of atom features
    hop_cutoff_A:     range of the blocks whose products give through-bond couplings
    decay_per_A:      blocks are learned relative to exp(-decay r)
    smearing_A:       width of the Gaussian charges of the long-ranged potential
    """

    lmax: int = 3
    channels: int = 48
    pair_channels: int = 32
    pair_hidden: tuple[int, ...] = (96, 64, 32)
    n_radial: int = 10
    pair_cutoff_A: float = 7.0
    message_cutoff_A: float = 5.0
    hop_cutoff_A: float = 3.8
    hop_copies: int = 4
    hop_hidden: tuple[int, ...] = (64, 32, 16)
    decay_per_A: float = 0.9
    energy_channels: int = 32
    smearing_A: float = 2.0

    def __post_init__(self) -> None:
        sizes = (self.channels, self.pair_channels, self.n_radial, self.hop_copies, self.energy_channels)
        if not 1 <= self.lmax <= LARGEST_L or max(*sizes, *self.pair_hidden, *self.hop_hidden) > LARGEST_SIZE:
            raise InputError(
                f"lmax must be 1 to {LARGEST_L}, and sizes of the network {LARGEST_SIZE} at most; these are "
                f"{asdict(self)}"
            )
        least = {"n_radial": 2, "channels": 1, "pair_channels": 1, "energy_channels": 1, "hop_copies": 1}
        least |= {"pair_hidden": 1, "hop_hidden": 1}
        for name, bound in least.items():
            if np.min(getattr(self, name)) < bound:
                raise InputError(f"{name} is {getattr(self, name)}; it must be {bound} at least")
        if not self.smearing_A > 0:
            raise InputError(f"smearing_A is {self.smearing_A}; it must be positive")
        if not 0 < self.hop_cutoff_A <= self.message_cutoff_A <= self.pair_cutoff_A:
            raise InputError(
                f"cutoffs must be ordered hop <= message <= pair, not {self.hop_cutoff_A}, "
                f"{self.message_cutoff_A}, {self.pair_cutoff_A}"
            )


@dataclass(frozen=True)
class Blocks:
    """What the network predicts for one graph; n is the largest number of orbitals of an atom.

    onsite:      (M, n, n) symmetric blocks in eV, zero-padded for species with fewer orbitals
    pairs:       (Q, n, n) blocks in eV; entry q adds to the block (i, j) of H, its transpose to (j, i)
    pair_index:  (2, Q) the atoms i and j, one of them at least of the part's own; a pair of atoms may occur
                 several times
    local_energies:   (M,) short-ranged double-counting energies in eV, relative to the isolated atoms
    coulomb_energies: (M,) those of the potential of distant charges
    multipoles:  (M, 4) excess electrons of each atom and their dipole, see electrostatics.py
    potentials:  (M,) eV, their potential, which is a part of the on-site blocks
    descriptors: (M, channels) scalar features, for the extrapolation indicator

    M counts the own atoms of a part, see :mod:`mlh_driver.parts`: all atoms, as a rule.
    """

    onsite: Tensor
    pairs: Tensor
    pair_index: Tensor
    local_energies: Tensor
    coulomb_energies: Tensor
    multipoles: Tensor
    potentials: Tensor
    descriptors: Tensor

    @property
    def energies(self) -> Tensor:
        """(M,) double-counting energies in eV, relative to the isolated atoms."""
        return self.local_energies + self.coulomb_energies


class HamiltonianNetwork(nn.Module):
    """Maps a graph to :class:`Blocks`; equivariant, Hermitian and smooth by construction."""

    kind_of: Tensor
    inner_radii: Tensor

    def __init__(self, basis: OrbitalBasis, settings: NetworkSettings) -> None:
        super().__init__()
        self.basis, self.settings = basis, settings
        lmax, channels, n_species = settings.lmax, settings.channels, len(basis.species)
        m_max = max(1, 2 * max(max(shells) for shells in basis.shells))
        if lmax < m_max:
            raise InputError(f"lmax = {lmax}, but the basis needs features up to l = {m_max}")
        for name, widths in (("pair_hidden", settings.pair_hidden), ("hop_hidden", settings.hop_hidden)):
            if len(widths) < m_max + 1:
                raise InputError(
                    f"{name} is {widths}; the basis needs at least {m_max + 1} widths, for m = 0 to {m_max}"
                )
        self.n = int(basis.sizes.max())
        self.kinds = pair_kinds(n_species)
        self.frames = FrameRotation(lmax, m_max)
        self.message_radial = RadialBasis(settings.n_radial, settings.message_cutoff_A)
        # Pairs reach farther than messages: four functions more keep the same resolution in Å.
        self.pair_radial = RadialBasis(settings.n_radial + 4, settings.pair_cutoff_A)
        self.density = AtomDensity(self.frames, n_species)
        self.features = AtomFeatures(self.frames, channels, n_species, settings.n_radial)
        self.pair_features = NodeLinear(lmax, channels, settings.pair_channels, n_species)
        self.onsite = nn.ModuleList(OnsiteBlocks(lmax, shells, channels) for shells in basis.shells)
        self.bonds = self._pair_heads(settings.pair_hidden, 1)
        self.hops = self._pair_heads(settings.hop_hidden, 2 * settings.hop_copies)
        self.many_body = ManyBodyEnergy(
            lmax, n_species * settings.n_radial, settings.energy_channels, n_species
        )
        self.repulsion = nn.Parameter(torch.zeros(len(self.kinds), settings.n_radial))
        self.long_range = LongRange(
            channels, n_species, settings.n_radial, len(self.kinds), settings.smearing_A
        )
        self.register_buffer("kind_of", torch.from_numpy(kind_of_pair(n_species)), persistent=False)
        self.register_buffer("inner_radii", torch.zeros(len(self.kinds)))
        self.bounds = OutputBounds(basis.shells, len(self.kinds), settings.pair_cutoff_A)

    def _pair_heads(self, hidden: tuple[int, ...], copies: int) -> nn.ModuleList:
        shells = self.basis.shells
        return nn.ModuleList(
            FusedBondBlocks(
                self.frames,
                bond_coupling(shells[a], shells[b]),
                (shells[a], shells[b]),
                a == b,
                channels=self.settings.pair_channels,
                hidden=hidden,
                n_radial=self.pair_radial.centers.numel(),
                copies=copies,
            )
            for a, b in self.kinds
        )

    def forward(self, graph: Graph) -> Blocks:
        """Blocks of the graph, differentiable in its geometry."""
        graph, wall_energies = self._guarded(graph)
        part, species, own_species = graph.part, graph.species, graph.part.own(graph.species)
        distances, entries = self._frames(graph)
        near = self._near_bonds(graph, distances, entries)
        density = part.own(self.density(species, near))
        descriptors = self.features(species, near, density, part)
        features, edge_energies = self.bounds.bounded_features(descriptors, own_species)
        pair_features = part.spread(self.pair_features(features, own_species))
        pairs = Bonds(_ends(graph.pair_index, graph.n_atoms), entries, self.pair_radial(distances))
        bonds = self._bond_blocks(graph, distances, pairs, pair_features)
        hops, hop_index = self._hop_blocks(graph, distances, pairs, pair_features)
        kinds = self._kinds(species, near)
        field = self.long_range(graph, features, near, kinds, self.bounds)
        pair_index, blocks = part.with_own_end(
            torch.cat([graph.pair_index, hop_index], dim=1), torch.cat([bonds, hops])
        )
        return Blocks(
            onsite=self._onsite_blocks(features, field.potentials, own_species),
            pairs=blocks,
            pair_index=pair_index,
            local_energies=self._energies(graph, near, kinds, density) + wall_energies + edge_energies,
            coulomb_energies=field.energies,
            multipoles=field.multipoles,
            potentials=field.potentials,
            descriptors=descriptors[:, 0],
        )

    def local_energies(self, graph: Graph) -> Tensor:
        """(M,) short-ranged double-counting energies alone, without the Hamiltonian.

        They lack what draws an atom beyond the edge of the training data back, which needs the descriptors.
        """
        graph, wall_energies = self._guarded(graph)
        near = self._near_bonds(graph, *self._frames(graph))
        density = graph.part.own(self.density(graph.species, near))
        return self._energies(graph, near, self._kinds(graph.species, near), density) + wall_energies

    def set_inner_radii(self, radii: Tensor) -> None:
        """Set, per kind of pair, the distance in Å below which the wall of mlh_driver.network.limits acts."""
        self.inner_radii.copy_(radii)

    def closeness(self, graph: Graph) -> Tensor:
        """(M,) by how much an atom has a neighbor within the inner radius, in parts of that radius."""
        i, j = graph.pair_index
        distances = torch.linalg.vector_norm(graph.pair_vectors.detach(), dim=1)
        inner = self.inner_radii[self.kind_of[graph.species[i], graph.species[j]]]
        within = torch.where(distances < inner, 1.0 - distances / inner, 0.0)  # there may be no inner radius
        ends, twice = torch.cat([i, j]), torch.cat([within, within])
        return graph.part.own(within.new_zeros(graph.n_atoms).scatter_reduce(0, ends, twice, "amax"))

    def _guarded(self, graph: Graph) -> tuple[Graph, Tensor]:
        """The graph as the network sees it at short distances, and the wall's energy of each atom, (M,).

        Comes first, before anything that uses several threads.
        """
        use_torch_threads()
        i, j = graph.pair_index
        distances = torch.linalg.vector_norm(graph.pair_vectors, dim=1)
        inner = self.inner_radii[self.kind_of[graph.species[i], graph.species[j]]]
        half = 0.5 * wall(distances, inner)
        energies = half.new_zeros(graph.n_atoms).index_add(0, i, half).index_add(0, j, half)
        vectors = graph.pair_vectors * (saturated(distances, inner) / distances)[:, None]
        return replace(graph, pair_vectors=vectors), graph.part.own(energies)

    def _frames(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Distances (P,) and Wigner matrices (P, entries) of all pairs."""
        distances = torch.linalg.vector_norm(graph.pair_vectors, dim=1)
        return distances, self.frames.entries(bond_rotations(graph.pair_vectors, distances))

    def _near_bonds(self, graph: Graph, distances: Tensor, entries: Tensor) -> Bonds:
        """Bonds within the message cutoff, both ways."""
        near = torch.nonzero(distances.detach() < self.settings.message_cutoff_A)[:, 0]
        bonds = Bonds(
            ends=_ends(graph.pair_index[:, near], graph.n_atoms),
            entries=entries.index_select(0, near),
            radial=self.message_radial(distances.index_select(0, near)),
        )
        return bonds.both_ways(self.frames.parity)

    def _pair_blocks(
        self, heads: nn.ModuleList, copies: int, x: Tensor, pairs: Bonds, sizes: tuple[int, ...]
    ) -> Tensor:
        """(P, copies, n, n) zero-padded blocks of pairs sorted by kind, each kind by its own head."""
        blocks = []
        for head, part, size in zip(heads, pairs.split(sizes), sizes, strict=True):
            if size:
                chunks = part.split(bond_chunks(size))
                blocks += [_pad(found, self.n) for found in in_chunks(head, [(x, chunk) for chunk in chunks])]
        # without pairs still a function of x, whose derivative other processes may wait for
        return torch.cat(blocks) if blocks else x.flatten()[:0].reshape(0, copies, self.n, self.n)

    def _bond_blocks(self, graph: Graph, distances: Tensor, pairs: Bonds, x: Tensor) -> Tensor:
        """(P, n, n) blocks of all pairs in eV."""
        settings, (i, j) = self.settings, graph.pair_index
        decay = torch.exp(-settings.decay_per_A * (distances - 2.0))
        strength = decay * envelope(distances, settings.pair_cutoff_A)
        blocks = self._pair_blocks(self.bonds, 1, x, pairs, graph.kind_sizes)[:, 0] * strength[:, None, None]
        kinds = self.kind_of[graph.species[i], graph.species[j]]
        blocks = self.bounds.pairs("bonds", blocks, distances, kinds)
        squares = blocks.square().sum(dim=(1, 2))
        moments = squares.new_zeros(graph.n_atoms).index_add(0, i, squares).index_add(0, j, squares)
        norms = graph.part.own((moments + TINY_eV2).sqrt()[:, None])
        share = self.bounds.factors("bonds_of_atom", norms, graph.part.own(graph.species), graph.part)
        if share is None:
            return blocks
        share = graph.part.spread(share)
        return blocks * (share[i] * share[j])[:, None, None]

    def _hop_blocks(self, graph: Graph, distances: Tensor, pairs: Bonds, x: Tensor) -> tuple[Tensor, Tensor]:
        """Couplings through an intermediate atom: (T, n, n) blocks and the (2, T) atoms they join."""
        cutoff, copies = self.settings.hop_cutoff_A, self.settings.hop_copies
        short = torch.nonzero(distances.detach() < cutoff)[:, 0]
        index = graph.pair_index[:, short]
        first, second = graph.species[index]
        sizes = tuple(torch.bincount(self.kind_of[first, second], minlength=len(self.kinds)).tolist())
        blocks = self._pair_blocks(self.hops, 2 * copies, x, pairs.select(short), sizes)
        blocks = blocks * envelope(distances.index_select(0, short), cutoff)[:, None, None, None]
        kinds = self.kind_of[first, second]
        blocks = self.bounds.pairs("legs", blocks, distances.index_select(0, short), kinds)
        i, j = index
        legs = torch.cat([blocks, blocks.transpose(2, 3)]).transpose(1, 2)
        star = stars(torch.cat([j, i]), torch.cat([i, j]), graph.n_atoms)
        shape = (graph.n_atoms, star.width * self.n, copies * self.n)
        filled = legs.new_zeros(graph.n_atoms * star.width, *legs.shape[1:]).index_copy(0, star.slots, legs)
        of_atoms = filled.unflatten(0, (graph.n_atoms, star.width))
        filled = self.bounds.atoms("legs_of_atom", of_atoms, graph.species).flatten(0, 1)
        a, b = (leg.reshape(shape) for leg in filled.split(copies, dim=2))
        product = a @ b.transpose(1, 2)
        product = product + product.transpose(1, 2)
        grid = product.reshape(graph.n_atoms, star.width, self.n, star.width, self.n).transpose(2, 3)
        hops = grid.reshape(-1, self.n, self.n).index_select(0, star.paths)
        return hops * star.weights[:, None, None].to(hops.dtype), star.path_ends

    def _onsite_blocks(self, features: Tensor, potentials: Tensor, species: Tensor) -> Tensor:
        """(M, n, n) from features and the potential of distant charges, (M,)."""
        blocks = features.new_zeros(len(species), self.n, self.n)
        for k, head in enumerate(self.onsite):
            atoms = torch.nonzero(species == k)[:, 0]
            found = self.bounds.onsite_blocks(head(features[atoms]), species[atoms])
            shift = torch.diag_embed(potentials[atoms, None].expand(-1, found.shape[-1]))
            blocks = blocks.index_copy(0, atoms, _pad(found + shift, self.n))
        return blocks

    def _kinds(self, species: Tensor, bonds: Bonds) -> Tensor:
        """(P,) the kind of each bond."""
        i, j = (end.atoms for end in bonds.ends)
        return self.kind_of[species[i], species[j]]

    def _energies(self, graph: Graph, near: Bonds, kinds: Tensor, density: Tensor) -> Tensor:
        """(M,) many-body term of each atom, from the density (M, ...), plus half of its pair repulsions."""
        species = graph.part.own(graph.species)
        energies = self.bounds.atoms("energies", self.many_body(density, species)[:, None], species)[:, 0]
        half = 0.5 * (near.radial * self.repulsion[kinds]).sum(dim=1)
        pairs = half.new_zeros(graph.n_atoms).index_add(0, near.ends[0].atoms, half)
        return energies + graph.part.own(pairs)


@dataclass(frozen=True)
class Stars:
    """The short bonds of each atom, in a table of ``width`` slots per atom, and all paths of two of them.

    slots:     (M,) slot of every bond, atom * width + k
    paths:     (T,) index of each unordered pair of slots (p <= q) in a table (atoms, width, width)
    path_ends: (2, T) the atoms that a path joins
    weights:   (T,) one half where p = q, which stands for its own transpose
    """

    width: int
    slots: Tensor
    paths: Tensor
    path_ends: Tensor
    weights: Tensor


def stars(centers: Tensor, ends: Tensor, n_atoms: int) -> Stars:
    """Sort bonds (M,) from ``centers`` to ``ends`` by their center."""
    order = torch.argsort(centers, stable=True)
    counts = torch.bincount(centers, minlength=n_atoms)
    width = max(1, int(counts.max()))
    starts = torch.cumsum(counts, 0) - counts
    slots = torch.empty_like(centers)
    ordered = centers[order]
    slots[order] = ordered * width + torch.arange(len(order), device=order.device) - starts[ordered]
    table = torch.zeros(n_atoms * width, dtype=torch.long, device=ends.device).index_copy(0, slots, ends)
    k = torch.arange(width, device=ends.device)
    center, p, q = torch.nonzero((k[:, None] <= k) & (k < counts[:, None, None]), as_tuple=True)
    path_ends = torch.stack([table[center * width + p], table[center * width + q]])
    weights = torch.where(p == q, 0.5, 1.0)
    return Stars(width, slots, (center * width + p) * width + q, path_ends, weights)


def _ends(index: Tensor, n_atoms: int) -> tuple[Ends, Ends]:
    return Ends(index[0], n_atoms), Ends(index[1], n_atoms)


def _pad(blocks: Tensor, n: int) -> Tensor:
    """Zero-pad the last two dimensions to n."""
    return nn.functional.pad(blocks, (0, n - blocks.shape[-1], 0, n - blocks.shape[-2]))

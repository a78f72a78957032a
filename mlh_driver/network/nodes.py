"""Atom features: (N, (lmax + 1)^2, channels) tensors of natural parity, (-1)^l."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from mlh_driver.network.chunks import ATOMS, bond_chunks, chunk_sizes, in_chunks
from mlh_driver.network.frames import FrameRotation
from mlh_driver.network.rotation import Ends, gather, scatter
from mlh_driver.network.so3 import spherical_harmonics
from mlh_driver.parts import Whole


@dataclass(frozen=True)
class Bonds:
    """Pairs of atoms and what the network needs to know of their geometry.

    ends:    atoms i and j of each
    entries: (P, entries) of the Wigner matrices of their frames
    radial:  (P, n_radial) functions of distance
    """

    ends: tuple[Ends, Ends]
    entries: Tensor
    radial: Tensor

    def both_ways(self, parity: Tensor) -> Bonds:
        """The bonds, then their reverses: (2 P). Reversal is an inversion, (-1)^l in the frame."""
        i, j = self.ends
        return Bonds(
            ends=(i.join(j), j.join(i)),
            entries=torch.cat([self.entries, self.entries * parity]),
            radial=torch.cat([self.radial, self.radial]),
        )

    def select(self, index: Tensor) -> Bonds:
        """Some of the bonds."""
        i, j = (Ends(end.atoms[index], end.n_atoms) for end in self.ends)
        return Bonds((i, j), self.entries.index_select(0, index), self.radial.index_select(0, index))

    def split(self, sizes: Sequence[int]) -> Iterator[Bonds]:
        """Consecutive parts."""
        i, j = (end.split(sizes) for end in self.ends)
        parts = zip(i, j, self.entries.split(list(sizes)), self.radial.split(list(sizes)), strict=True)
        for first, second, entries, radial in parts:
            yield Bonds((first, second), entries, radial)


def random_weights(*shape: int) -> nn.Parameter:
    """Normal weights with variance 1 / fan-in, the fan-in being the last but one dimension."""
    return nn.Parameter(torch.randn(*shape) / shape[-2] ** 0.5)


def degrees(lmax: int) -> Tensor:
    """((lmax + 1)^2,) the l of each component."""
    return torch.tensor([l for l in range(lmax + 1) for _ in range(2 * l + 1)])


def mixed_by_kind(radial: Tensor, kinds: Tensor, weights: Tensor) -> Tensor:
    """(P, width) from radial functions (P, n_radial) and a matrix for each kind, (kinds, n_radial, width)."""
    one_hot = torch.nn.functional.one_hot(kinds, len(weights)).to(radial.dtype)
    expanded = (one_hot[:, :, None] * radial[:, None, :]).flatten(1)
    return expanded @ weights.flatten(0, 1)


class NodeLinear(nn.Module):
    """Mixes channels with a matrix for every l (and every species of the atom, if given)."""

    degrees: Tensor

    def __init__(self, lmax: int, n_in: int, n_out: int, n_species: int = 0) -> None:
        super().__init__()
        self.n_species = n_species
        self.weight = random_weights(max(n_species, 1), lmax + 1, n_in, n_out)
        self.register_buffer("degrees", degrees(lmax), persistent=False)

    def forward(self, x: Tensor, species: Tensor) -> Tensor:
        """(N, K, n_in) -> (N, K, n_out)."""
        weight = self.weight[:, self.degrees]
        if not self.n_species:
            return torch.einsum("nki,kio->nko", x, weight[0])
        mixed = torch.einsum("nki,skio->snko", x, weight).flatten(0, 1)
        return mixed.index_select(0, species * len(x) + torch.arange(len(x), device=x.device))


def sphere_quadrature(lmax: int) -> tuple[Tensor, Tensor]:
    """Harmonics (points, (lmax + 1)^2) and weights (points,) that integrate degree 4 lmax exactly.

    Gauss-Legendre in the polar angle, uniform in the azimuth; the weights sum to one. A feature of natural
    parity is a function on the sphere, the sum of its components times these harmonics.
    """
    degree = 4 * lmax
    cosines, weights = np.polynomial.legendre.leggauss(degree // 2 + 1)
    azimuths = 2 * np.pi * np.arange(degree + 1) / (degree + 1)
    cos, phi = (a.flatten() for a in np.meshgrid(cosines, azimuths, indexing="ij"))
    sin = np.sqrt(1 - cos**2)
    points = torch.tensor(np.stack([sin * np.sin(phi), cos, sin * np.cos(phi)], axis=1))
    harmonics = spherical_harmonics(range(lmax + 1), points, normalize=True, normalization="component")
    return harmonics, torch.tensor(np.repeat(weights, degree + 1)) / (2 * (degree + 1))


class SphereProduct(nn.Module):
    """Products of features of up to third order, taken pointwise on the sphere.

    The product of two or three functions on the sphere, projected back, is a sum of Gaunt-coupled tensor
    products. The quadrature is exact for it, so the operation is exactly equivariant.
    """

    to_sphere: Tensor
    from_sphere: Tensor

    def __init__(self, lmax: int, channels: int) -> None:
        super().__init__()
        harmonics, weights = sphere_quadrature(lmax)
        self.register_buffer("to_sphere", harmonics, persistent=False)
        self.register_buffer("from_sphere", (harmonics * weights[:, None]).T.contiguous(), persistent=False)
        self.factors = NodeLinear(lmax, channels, 3 * channels)

    def forward(self, x: Tensor, species: Tensor) -> Tensor:
        """(N, K, C) -> (N, K, 2 C): products of second and of third order."""
        u, v, w = torch.matmul(self.to_sphere, self.factors(x, species)).chunk(3, dim=-1)
        second = u * v
        parts = [torch.matmul(self.from_sphere, product) for product in (second, second * w)]
        return torch.cat(parts, dim=-1)


class NodeUpdate(nn.Module):
    """Many-body products, then a gated scalar network: (N, K, n_in) -> (N, K, channels).

    Every term vanishes with its input, so an atom without neighbors has no features at all.
    """

    degrees: Tensor

    def __init__(self, lmax: int, n_in: int, channels: int, n_species: int) -> None:
        super().__init__()
        self.lmax = lmax
        self.mix = NodeLinear(lmax, n_in, channels, n_species)
        self.product = SphereProduct(lmax, channels)
        self.combine = NodeLinear(lmax, 3 * channels, channels, n_species)
        self.scalars_in = nn.Linear(channels, 2 * channels, bias=False)
        self.scalars_out = nn.Linear(2 * channels, (lmax + 1) * channels, bias=False)
        self.register_buffer("degrees", degrees(lmax), persistent=False)

    def forward(self, x: Tensor, species: Tensor) -> Tensor:
        sizes = chunk_sizes(len(x), ATOMS)
        parts = list(zip(x.split(sizes), species.split(sizes), strict=True))
        return torch.cat(list(in_chunks(self._update, parts)))

    def _update(self, x: Tensor, species: Tensor) -> Tensor:
        x = self.mix(x, species)
        x = self.combine(torch.cat([x, self.product(x, species)], dim=-1), species)
        gates = self.scalars_out(silu(self.scalars_in(x[:, 0])))
        gates = gates.reshape(len(x), self.lmax + 1, -1)
        scalar, higher = x.split([1, x.shape[1] - 1], dim=1)
        gate = gates.index_select(1, self.degrees[1:])
        return torch.cat([scalar + gates[:, :1], higher * (1 + gate)], dim=1)


class AtomDensity(nn.Module):
    """Neighbor density of each atom, by species of the neighbor, radial function and (l, m)."""

    def __init__(self, frames: FrameRotation, n_species: int) -> None:
        super().__init__()
        self.frames = frames
        self.n_species = n_species
        self.scale = 0.25

    def forward(self, species: Tensor, bonds: Bonds) -> Tensor:
        """(L, K, n_species * n_radial) from bonds given both ways."""
        center, neighbor = bonds.ends
        terms = self.frames.harmonics(bonds.entries)[:, :, None] * bonds.radial[:, None, :]
        shape = (len(species) * self.n_species, *terms.shape[1:])
        place = center.atoms * self.n_species + species[neighbor.atoms]
        density = terms.new_zeros(shape).index_add(0, place, terms) * self.scale
        density = density.reshape(len(species), self.n_species, *terms.shape[1:])
        return density.transpose(1, 2).flatten(2)


class Messages(nn.Module):
    """Messages along bonds: an O(2)-equivariant linear map in the bond frame, weighted by distance."""

    def __init__(self, frames: FrameRotation, channels: int, n_species: int, n_radial: int) -> None:
        super().__init__()
        self.n_species = n_species
        self.rows = frames.rows
        self.copies = [frames.copies(m) for m in range(frames.m_max + 1)]
        self.widths = [frames.n_l(m) * channels for m in range(frames.m_max + 1)]
        self.mixers = nn.ParameterList([random_weights(width, width) for width in self.widths])
        self.radial = random_weights(n_species * n_species, n_radial, sum(self.widths))
        self.prepare = NodeLinear(frames.lmax, channels, channels, n_species)
        self.scale = 0.25

    def forward(self, x: Tensor, species: Tensor, bonds: Bonds, part: Whole) -> Tensor:
        """(M, K, C) -> (M, K, C), species (L,); bonds are given both ways."""
        source = part.spread(self.prepare(x, part.own(species)))
        parts = bonds.split(bond_chunks(len(bonds.radial)))
        total = torch.zeros_like(source)
        for message in in_chunks(self._sum, [(source, species, part) for part in parts]):
            total = total + message
        return part.own(total) * self.scale

    def _sum(self, source: Tensor, species: Tensor, bonds: Bonds) -> Tensor:
        """(L, K, C) sums of the messages along some bonds."""
        target, neighbor = bonds.ends
        kinds = species[target.atoms] * self.n_species + species[neighbor.atoms]
        weights = mixed_by_kind(bonds.radial, kinds, self.radial).split(self.widths, dim=1)
        total = torch.zeros_like(source)
        for rows, copies, width, mixer, weight in zip(
            self.rows, self.copies, self.widths, self.mixers, weights, strict=True
        ):
            turned = gather(bonds.entries, source, neighbor, rows)
            mixed = (turned.reshape(-1, width) @ mixer).reshape(-1, copies, width) * weight[:, None]
            total = total + scatter(bonds.entries, mixed.reshape(turned.shape), target, rows, source.shape[1])
        return total


class AtomFeatures(nn.Module):
    """Density -> products -> one layer of messages -> products: (M, K, channels) features of the atoms."""

    def __init__(self, frames: FrameRotation, channels: int, n_species: int, n_radial: int) -> None:
        super().__init__()
        lmax = frames.lmax
        self.first = NodeUpdate(lmax, n_species * n_radial, channels, n_species)
        self.messages = Messages(frames, channels, n_species, n_radial)
        self.second = NodeUpdate(lmax, 2 * channels, channels, n_species)

    def forward(self, species: Tensor, bonds: Bonds, density: Tensor, part: Whole) -> Tensor:
        """From species (L,) and the :class:`AtomDensity` of the same bonds, (M, K, n_species * n_radial)."""
        own = part.own(species)
        x = self.first(density, own)
        message = self.messages(x, species, bonds, part)
        return self.second(torch.cat([x, message], dim=-1), own)

"""Atom features: (N, (lmax + 1)^2, channels) tensors of natural parity, (-1)^l."""

from __future__ import annotations

import numpy as np
import torch
from e3nn import o3
from torch import Tensor, nn
from torch.nn.functional import silu

from mlh_driver.network.frames import FrameRotation


def random_weights(*shape: int) -> nn.Parameter:
    """Normal weights with variance 1 / fan-in, the fan-in being the last but one dimension."""
    return nn.Parameter(torch.randn(*shape) / shape[-2] ** 0.5)


def degrees(lmax: int) -> Tensor:
    """((lmax + 1)^2,) the l of each component."""
    return torch.tensor([l for l in range(lmax + 1) for _ in range(2 * l + 1)])


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
        mixed = torch.einsum("nki,skio->snko", x, weight)
        return mixed[species, torch.arange(len(x), device=x.device)]


class SphereProduct(nn.Module):
    """Products of features of up to third order, taken pointwise on the sphere.

    Features of natural parity are functions on the sphere; the product of two or three of them, projected
    back, is a sum of Gaunt-coupled tensor products. The quadrature (Gauss-Legendre in the polar angle,
    uniform in the azimuth) integrates polynomials of degree 4 lmax exactly, so the operation is exactly
    equivariant.
    """

    to_sphere: Tensor
    from_sphere: Tensor

    def __init__(self, lmax: int, channels: int) -> None:
        super().__init__()
        degree = 4 * lmax
        cosines, weights = np.polynomial.legendre.leggauss(degree // 2 + 1)
        azimuths = 2 * np.pi * np.arange(degree + 1) / (degree + 1)
        cos, phi = (a.flatten() for a in np.meshgrid(cosines, azimuths, indexing="ij"))
        sin = np.sqrt(1 - cos**2)
        points = torch.tensor(np.stack([sin * np.sin(phi), cos, sin * np.cos(phi)], axis=1))
        harmonics = o3.spherical_harmonics(range(lmax + 1), points, normalize=True, normalization="norm")
        norms = 2.0 * degrees(lmax) + 1.0
        quadrature = torch.tensor(np.repeat(weights, degree + 1)) / (2 * (degree + 1))
        self.register_buffer("to_sphere", harmonics * norms.sqrt(), persistent=False)
        project = (harmonics * norms.sqrt() * quadrature[:, None]).T.contiguous()
        self.register_buffer("from_sphere", project, persistent=False)
        self.factors = NodeLinear(lmax, channels, 3 * channels)

    def forward(self, x: Tensor, species: Tensor) -> Tensor:
        """(N, K, C) -> (N, K, 2 C): products of second and of third order."""
        u, v, w = torch.matmul(self.to_sphere, self.factors(x, species)).chunk(3, dim=-1)
        second = u * v
        return torch.matmul(self.from_sphere, torch.cat([second, second * w], dim=-1))


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
        x = self.mix(x, species)
        x = self.combine(torch.cat([x, self.product(x, species)], dim=-1), species)
        gates = self.scalars_out(silu(self.scalars_in(x[:, 0])))
        gates = gates.reshape(len(x), self.lmax + 1, -1)
        scalar, higher = x.split([1, x.shape[1] - 1], dim=1)
        gate = gates.index_select(1, self.degrees[1:])
        return torch.cat([scalar + gates[:, :1], higher * (1 + gate)], dim=1)


class AtomDensity(nn.Module):
    """Neighbor density of each atom, by species of the neighbor, radial function and (l, m)."""

    parity: Tensor

    def __init__(self, lmax: int, n_species: int, n_radial: int) -> None:
        super().__init__()
        self.lmax = lmax
        self.n_species = n_species
        parity = (-1.0) ** degrees(lmax).to(torch.float64)
        self.register_buffer("parity", parity, persistent=False)
        self.n_out = n_species * n_radial
        self.scale = 0.25

    def forward(self, species: Tensor, pairs: Tensor, vectors: Tensor, radial: Tensor) -> Tensor:
        """(N, K, n_species * n_radial) from (2, P) pairs, (P, 3) vectors and (P, n_radial) functions."""
        harmonics = o3.spherical_harmonics(
            range(self.lmax + 1), vectors, normalize=True, normalization="component"
        )
        i, j = pairs
        centers = torch.cat([i * self.n_species + species[j], j * self.n_species + species[i]])
        angular = torch.cat([harmonics, harmonics * self.parity])
        terms = angular[:, :, None] * torch.cat([radial, radial])[:, None, :]
        shape = (len(species) * self.n_species, *terms.shape[1:])
        density = terms.new_zeros(shape).index_add(0, centers, terms) * self.scale
        density = density.reshape(len(species), self.n_species, *terms.shape[1:])
        return density.transpose(1, 2).flatten(2)


class Messages(nn.Module):
    """Messages along bonds: an O(2)-equivariant linear map in the bond frame, weighted by distance.

    Both directions of a pair share one frame: turning the bond round is an inversion, under which
    features of natural parity change by (-1)^l. These signs are put on the weights.
    """

    def __init__(self, frames: FrameRotation, channels: int, n_species: int, n_radial: int) -> None:
        super().__init__()
        self.n_species = n_species
        self.copies = [frames.copies(m) for m in range(frames.m_max + 1)]
        self.widths = [frames.n_l(m) * channels for m in range(frames.m_max + 1)]
        self.mixers = nn.ParameterList([random_weights(width, width) for width in self.widths])
        self.radial = random_weights(n_species * n_species, n_radial, sum(self.widths))
        self.prepare = NodeLinear(frames.lmax, channels, channels, n_species)
        self.scale = 0.25
        for m in range(frames.m_max + 1):
            signs = frames.parity(m).repeat_interleave(channels)
            self.register_buffer(f"signs{m}", signs[:, None] * signs, persistent=False)

    def forward(
        self, x: Tensor, species: Tensor, pairs: Tensor, rotations: list[Tensor], radial: Tensor
    ) -> Tensor:
        """(N, K, C) -> (N, K, C); ``rotations`` per m (P, rows, K), ``radial`` (P, n_radial)."""
        i, j = pairs
        source = self.prepare(x, species)
        source_i, source_j = source.index_select(0, i), source.index_select(0, j)
        weights_i = self._radial_weights(radial, species[i] * self.n_species + species[j])
        weights_j = self._radial_weights(radial, species[j] * self.n_species + species[i])
        to_i = torch.zeros_like(source_i)
        to_j = torch.zeros_like(source_j)
        for m, (D, mixer) in enumerate(zip(rotations, self.mixers, strict=True)):
            back = D.transpose(1, 2)
            to_i = torch.baddbmm(to_i, back, self._mix(m, torch.bmm(D, source_j), mixer, weights_i[m]))
            turned = mixer * getattr(self, f"signs{m}")
            to_j = torch.baddbmm(to_j, back, self._mix(m, torch.bmm(D, source_i), turned, weights_j[m]))
        return torch.zeros_like(x).index_add(0, i, to_i).index_add(0, j, to_j) * self.scale

    def _radial_weights(self, radial: Tensor, kinds: Tensor) -> tuple[Tensor, ...]:
        """Per m, (P, width): the radial functions of every ordered pair of species."""
        one_hot = torch.nn.functional.one_hot(kinds, self.n_species**2).to(radial.dtype)
        expanded = (one_hot[:, :, None] * radial[:, None, :]).flatten(1)
        return (expanded @ self.radial.flatten(0, 1)).split(self.widths, dim=1)

    def _mix(self, m: int, x: Tensor, mixer: Tensor, weights: Tensor) -> Tensor:
        """Mix l and channels: (P, copies * n_l, C) -> the same shape."""
        flat = x.reshape(len(x) * self.copies[m], self.widths[m]) @ mixer
        weighted = flat.reshape(len(x), self.copies[m], self.widths[m]) * weights[:, None]
        return weighted.reshape(x.shape)


class AtomFeatures(nn.Module):
    """Density -> products -> one layer of messages -> products: (N, K, channels) features of the atoms."""

    def __init__(self, frames: FrameRotation, channels: int, n_species: int, n_radial: int) -> None:
        super().__init__()
        lmax = frames.lmax
        self.density = AtomDensity(lmax, n_species, n_radial)
        self.first = NodeUpdate(lmax, self.density.n_out, channels, n_species)
        self.messages = Messages(frames, channels, n_species, n_radial)
        self.second = NodeUpdate(lmax, 2 * channels, channels, n_species)

    def forward(
        self, species: Tensor, pairs: Tensor, vectors: Tensor, rotations: list[Tensor], radial: Tensor
    ) -> Tensor:
        """From (2, P) pairs within the message cutoff: vectors, rotations per m, radial functions."""
        x = self.first(self.density(species, pairs, vectors, radial), species)
        message = self.messages(x, species, pairs, rotations, radial)
        return self.second(torch.cat([x, message], dim=-1), species)

"""The potential of distant charges, which a sum over neighbors cannot see.

The network predicts the excess electrons n_i of every atom and their dipole m_i, as the density matrix has
them (2 Tr[P - P0] of the atom, and 4 P_sp). Times a factor each, they are the charges q_i = f n_i and
dipoles d_i = g m_i of Gaussians of width s. The energy of an electron in their periodic potential,

    phi(r) = (4 pi k / V) sum_{G != 0} exp(-s^2 G^2 / 2) / G^2 sum_j (q_j + d_j . d/dr_j) cos G.(r - r_j),

is added to the on-site elements of H; at short range the rest of the network makes up the difference to
point charges. In place of what Tr[(P - P0) H] thereby counts, the double-counting energy brings in the
electrostatic energy, -n_i phi_i + (q_i phi_i + d_i . grad phi_i) / 2 (with f = 1 the term of self-consistent
charge tight binding, Elstner et al., Phys. Rev. B 58, 7260, 1998). Charge flows along bonds,
n_i = sum_j w(r_ij) . (c_i - c_j), so the total is exactly zero and an isolated atom is neutral.

The sum over G is taken on a mesh (smooth particle-mesh Ewald, Essmann et al., J. Chem. Phys. 103, 8577,
1995), in double precision, in a time proportional to the number of atoms (times a logarithm). The same
B-splines spread the charges and collect the potential, which is thereby the exact derivative of the energy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from mlh_driver.constants import COULOMB_eV_A
from mlh_driver.graph import Graph
from mlh_driver.network.limits import OutputBounds
from mlh_driver.network.nodes import Bonds, mixed_by_kind, random_weights
from mlh_driver.parts import WHOLE, Whole

#: Of the B-splines, and mesh points per smearing width: together they leave the potential right to about 1e-6
#: of its size.
SPLINE_ORDER = 8
POINTS_PER_WIDTH = 2.5


@dataclass(frozen=True)
class Field:
    """What distant charges do.

    multipoles: (M, 4) excess electrons of each atom and their dipole
    potentials: (M,) eV at the atoms
    energies:   (M,) double-counting energies in eV
    """

    multipoles: Tensor
    potentials: Tensor
    energies: Tensor


class LongRange(nn.Module):
    """Excess electrons and dipoles of the atoms, and their field.

    ``charge_factor`` (1,) and ``dipole_factors`` (n_species,) are f and g, see
    :mod:`mlh_driver.training.screening`; while they are zero there is no field.
    """

    charge_factor: Tensor
    dipole_factors: Tensor

    def __init__(self, channels: int, n_species: int, n_radial: int, n_kinds: int, smearing_A: float) -> None:
        super().__init__()
        self.smearing_A = smearing_A
        self.levels_of_species = random_weights(n_species, n_radial)
        self.hidden = nn.Linear(channels, 2 * channels)
        self.levels = nn.Linear(2 * channels, n_radial, bias=False)
        self.transfer = nn.Parameter(torch.full((n_kinds, n_radial, n_radial), 0.01))
        self.gates = nn.Linear(2 * channels, channels)
        self.dipole = nn.Parameter(torch.zeros(n_species, channels))
        self.register_buffer("charge_factor", torch.zeros(1))
        self.register_buffer("dipole_factors", torch.zeros(n_species))

    def forward(
        self, graph: Graph, features: Tensor, near: Bonds, kinds: Tensor, bounds: OutputBounds
    ) -> Field:
        """From the features (M, K, C); near, kinds: bonds in both directions, and the kind of each."""
        return self.field(graph, self.multipoles(graph.species, features, near, kinds, bounds, graph.part))

    def field(self, graph: Graph, multipoles: Tensor) -> Field:
        """Of any excess electrons and dipoles (M, 4)."""
        part = graph.part
        electrons, dipoles = multipoles.double().split([1, 3], dim=1)
        charges = (self.charge_factor * electrons)[:, 0]
        dipoles = self.dipole_factors[part.own(graph.species), None] * dipoles
        potentials, gradients = mesh_potential(
            part.own(graph.positions), graph.cell, charges, dipoles, self.smearing_A, part
        )
        electrostatic = 0.5 * (charges * potentials + (dipoles * gradients).sum(dim=1))
        energies = electrostatic - electrons[:, 0] * potentials
        dtype = multipoles.dtype
        return Field(multipoles, potentials.to(dtype), energies.to(dtype))

    def multipoles(
        self,
        species: Tensor,
        features: Tensor,
        near: Bonds,
        kinds: Tensor,
        bounds: OutputBounds,
        part: Whole = WHOLE,
    ) -> Tensor:
        """(M, 4) excess electrons and dipoles, from species (L,) and features (M, K, C)."""
        hidden, own = silu(self.hidden(features[:, 0])), part.own(species)
        electronegativities = part.spread(self.levels_of_species[own] + self.levels(hidden))
        i, j = (end.atoms for end in near.ends)
        radial = mixed_by_kind(near.radial, kinds, self.transfer)
        flow = (radial * (electronegativities[i] - electronegativities[j])).sum(dim=1)
        unbounded = part.own(flow.new_zeros(len(species)).index_add(0, i, flow))
        share = bounds.factors("electrons", unbounded[:, None], own, part)
        if share is not None:
            share = part.spread(share)
            flow = flow * share[i] * share[j]  # what one atom gives is what the other gets
        electrons = part.own(flow.new_zeros(len(species)).index_add(0, i, flow))
        weights = (1.0 + self.gates(hidden)) * self.dipole[own]
        dipoles = bounds.atoms("dipoles", (features[:, 1:4] * weights[:, None]).sum(dim=2), own)
        return torch.cat([electrons[:, None], dipoles], dim=1)


def mesh_potential(
    positions: Tensor, cell: Tensor, charges: Tensor, dipoles: Tensor, smearing_A: float, part: Whole = WHOLE
) -> tuple[Tensor, Tensor]:
    """Potential phi (M,) in eV and its gradient (M, 3) in eV/Å at the atoms; differentiable in everything.

    positions, cell: (M, 3) and (3, 3) in Å; rows of the cell are its vectors
    charges, dipoles: (M,) and (M, 3) in units of the electron's charge and Å
    part: whose charges these are; the mesh has those of all processes
    """
    inverse = torch.linalg.inv(cell)
    sizes = _mesh_sizes(cell, smearing_A)
    to_mesh = inverse * torch.tensor(sizes, dtype=cell.dtype, device=cell.device)
    u = positions @ to_mesh
    base = torch.floor(u.detach())
    splines, slopes = _splines(u - base)
    points = _touched(base.long(), sizes)
    (x, y, z), (dx, dy, dz) = splines.unbind(1), slopes.unbind(1)
    mx, my, mz = (dipoles @ to_mesh)[:, :, None].unbind(1)
    xy = _outer(charges[:, None] * x + mx * dx, y) + _outer(x, my * dy)
    spread = _outer(xy, z) + _outer(_outer(x, y), mz * dz)
    density = spread.new_zeros(math.prod(sizes)).index_add(0, points.flatten(), spread.flatten())
    transformed = torch.fft.rfftn(part.reduced(density).reshape(sizes)) * _kernel(inverse, sizes, smearing_A)
    potential = torch.fft.irfftn(transformed, s=sizes, norm="forward").flatten()[points]
    along_z = (potential * z[:, None, None]).sum(3)
    along_yz = (along_z * y[:, None]).sum(2)
    slope = [
        (along_yz * dx).sum(1),
        ((along_z * dy[:, None]).sum(2) * x).sum(1),
        (((potential * dz[:, None, None]).sum(3) * y[:, None]).sum(2) * x).sum(1),
    ]
    return (along_yz * x).sum(1), torch.stack(slope, dim=1) @ to_mesh.T


def fast_length(least: int) -> int:
    """The first length from ``least`` on whose only prime factors are 2, 3 and 5: fast to transform.

    ``scipy.fft.next_fast_len`` gives the same, but is slow to load.
    """
    return next(length for length in count(least) if 60**10 % length == 0)


def _mesh_sizes(cell: Tensor, smearing_A: float) -> tuple[int, ...]:
    """Mesh points along each vector a of the cell, of small prime factors.

    The integers of a wave G are G . a / (2 pi), so they grow with the length of a, also in a skewed cell.
    """
    lengths = torch.linalg.vector_norm(cell.detach(), dim=1)
    return tuple(
        fast_length(max(SPLINE_ORDER, math.ceil(POINTS_PER_WIDTH * a / smearing_A))) for a in lengths.tolist()
    )


def _splines(t: Tensor) -> tuple[Tensor, Tensor]:
    """B-splines M_p(t + k) of order p and slopes, (N, 3, p) for k = 0 ... p - 1, t in [0, 1), (N, 3)."""
    t = t[:, :, None]
    splines = torch.cat([t, 1.0 - t], dim=2)
    for order in range(3, SPLINE_ORDER + 1):
        left, right = nn.functional.pad(splines, (0, 1)), nn.functional.pad(splines, (1, 0))
        v = t + torch.arange(order, device=t.device)
        splines = (v * left + (order - v) * right) / (order - 1)
    return splines, left - right


def _touched(base: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """(N, p, p, p) mesh points that an atom touches: base - k along each axis, base being (N, 3) integers."""
    axes = base[:, :, None] - torch.arange(SPLINE_ORDER, device=base.device)
    ix, iy, iz = torch.remainder(axes, torch.tensor(sizes, device=base.device)[:, None]).unbind(1)
    rows = ix[:, :, None] * sizes[1] + iy[:, None]
    return rows[:, :, :, None] * sizes[2] + iz[:, None, None]


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """(N, ..., p) and (N, p) -> (N, ..., p, p)"""
    return a[..., None] * b.reshape(len(b), *[1] * (a.dim() - 1), -1)


def _kernel(inverse: Tensor, sizes: tuple[int, ...], smearing_A: float) -> Tensor:
    """What turns the transformed density into the transformed potential in eV: (sizes[0], sizes[1], half)."""
    integers, damping = (x.to(inverse.device) for x in _waves(sizes))
    squares = (integers @ (2.0 * math.pi * inverse.T)).square().sum(dim=-1)
    squares[0, 0, 0] = torch.inf  # the mean of the potential is zero
    prefactor = 4.0 * math.pi * COULOMB_eV_A * torch.linalg.det(inverse).abs()
    return prefactor * torch.exp(-0.5 * smearing_A**2 * squares) / (squares * damping)


@lru_cache(maxsize=2)
def _waves(sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Integers of the waves of a mesh, (*sizes, 3) with half of the last, and what the splines damp."""
    values = _splines(torch.zeros(1, 1, dtype=torch.float64))[0].flatten()
    damping, axes = [], []
    for axis, size in enumerate(sizes):
        m = torch.fft.fftfreq(size, 1.0 / size, dtype=torch.float64)
        m = m[: size // 2 + 1].abs() if axis == 2 else m
        phases = torch.exp(2j * math.pi / size * m[:, None] * torch.arange(len(values)))
        damping.append((phases @ values.to(phases.dtype)).abs().square())
        axes.append(m)
    a, b, c = damping
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1), a[:, None, None] * b[:, None] * c

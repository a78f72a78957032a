"""Heads: from atom features to Hamiltonian blocks and double-counting energies."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from mlh_driver.errors import InputError
from mlh_driver.network.coupling import BondCoupling, onsite_couplings, parity_signs
from mlh_driver.network.frames import FrameRotation
from mlh_driver.network.nodes import random_weights


class ComplexProducts(nn.Module):
    """Products of the numbers that turn with exp(i m phi) around the bond.

    For each m >= 1 the channels are split in halves a and b: a conj(b) gives scalars (0+) and
    pseudoscalars (0-), a b gives 2 m; z_m conj(z_1) gives m - 1. Real and imaginary parts are the
    second index of (P, 2, channels) tensors.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        m_max = len(widths) - 1
        if any(width % 2 for width in widths[1:]) or list(widths[1:]) != sorted(widths[1:], reverse=True):
            raise InputError(f"hidden widths {widths} must be even and must not grow with m")
        halves = [0] + [width // 2 for width in widths[1:]]
        self.n_scalars = sum(halves)
        self.n_new = [0] * (m_max + 1)
        for m in range(1, m_max + 1):
            if 2 * m <= m_max:
                self.n_new[2 * m] += halves[m]
            if m >= 2:
                self.n_new[m - 1] += widths[m]

    def forward(self, z: list[Tensor]) -> tuple[Tensor, Tensor, list[list[Tensor]]]:
        """Scalars, pseudoscalars, and per m the new (P, 2, n) numbers, from z[1], z[2], ..."""
        even, odd = [], []
        new: list[list[Tensor]] = [[] for _ in z]
        real_1, imag_1 = z[1].unbind(1)
        for m in range(1, len(z)):
            real, imag = z[m].unbind(1)
            a_re, b_re = real.chunk(2, dim=1)
            a_im, b_im = imag.chunk(2, dim=1)
            even.append(a_re * b_re + a_im * b_im)
            odd.append(a_im * b_re - a_re * b_im)
            if 2 * m < len(z):
                new[2 * m].append(torch.stack([a_re * b_re - a_im * b_im, a_im * b_re + a_re * b_im], dim=1))
            if m >= 2:
                re_1, im_1 = real_1[:, : real.shape[1]], imag_1[:, : real.shape[1]]
                new[m - 1].append(torch.stack([real * re_1 + imag * im_1, imag * re_1 - real * im_1], dim=1))
        return torch.cat(even, dim=-1), torch.cat(odd, dim=-1), new


class PairHead(nn.Module):
    """Blocks of one kind of pair in the bond frame, from the two atoms' features in that frame."""

    to_block: Tensor

    def __init__(
        self,
        frames: FrameRotation,
        coupling: BondCoupling,
        channels: int,
        hidden: tuple[int, ...],
        n_radial: int,
        copies: int = 1,
    ) -> None:
        super().__init__()
        self.copies = copies
        hidden = hidden[: 1 + len(coupling.n_complex)]
        self.channels, self.hidden = channels, hidden
        self.layout = [(frames.n_l(m), frames.copies(m)) for m in range(len(hidden))]
        self.mix = nn.ParameterList(
            [
                random_weights(2 * channels * n_l, width)
                for (n_l, _), width in zip(self.layout, hidden, strict=True)
            ]
        )
        for m in range(len(hidden)):
            self.register_buffer(f"parity{m}", frames.parity(m)[:, None, None], persistent=False)
        self.radial = random_weights(n_radial, sum(hidden) + hidden[0])
        self.products = ComplexProducts(hidden)
        width = hidden[0]
        self.scalars1 = nn.Linear(width + self.products.n_scalars, width)
        self.scalars2 = nn.Linear(width, width)
        self.widths_out = [hidden[m] + self.products.n_new[m] for m in range(1, len(hidden))]
        self.gates = nn.Linear(width, sum(self.widths_out) + self.products.n_scalars)
        self.out_even = random_weights(2 * width, coupling.n_even * copies)
        self.out_odd = random_weights(self.products.n_scalars, coupling.n_odd * copies)
        self.out = nn.ParameterList(
            [random_weights(w, n * copies) for w, n in zip(self.widths_out, coupling.n_complex, strict=True)]
        )
        self.register_buffer("to_block", coupling.matrix, persistent=False)

    def forward(self, x_i: list[Tensor], x_j: list[Tensor], radial: Tensor, both_ways: bool) -> Tensor:
        """Features of both atoms per m (P, copies * n_l, C), radial (P, n_radial) -> (P, copies, n_i * n_j).

        With ``both_ways`` the pairs are also taken in the other direction: (2 P, copies, n_i * n_j).
        """
        *weights, bias = (radial @ self.radial).split([*self.hidden, self.hidden[0]], dim=1)
        z = [self._mix(m, x_i[m], x_j[m], weight, both_ways) for m, weight in enumerate(weights)]
        scalars = z[0][:, 0] + (torch.cat([bias, bias]) if both_ways else bias)
        even, odd, new = self.products(z)
        s = silu(self.scalars1(torch.cat([scalars, even], dim=-1)))
        s = silu(self.scalars2(s))
        odd_gate, *gates = self.gates(s).split([odd.shape[1], *self.widths_out], dim=1)
        parts = [torch.cat([s, scalars], dim=-1) @ self.out_even, (odd * odd_gate) @ self.out_odd]
        for m in range(1, len(z)):
            numbers = torch.cat([z[m], *new[m]], dim=-1) * (1 + gates[m - 1])[:, None]
            parts.append((numbers.flatten(0, 1) @ self.out[m - 1]).reshape(len(s), -1))
        return self._collect(parts) @ self.to_block

    def _mix(self, m: int, x_i: Tensor, x_j: Tensor, weight: Tensor, both_ways: bool) -> Tensor:
        """Hidden numbers: (P or 2 P, 1 or 2, hidden[m]).

        Seen from the other end, atoms change places and features change by (-1)^l, a sign that is put on
        the mixing weights.
        """
        n_l, copies = self.layout[m]
        width, channels = self.hidden[m], self.channels
        first, second = self.mix[m].reshape(n_l, 2, channels, width).unbind(1)
        if both_ways:
            parity = getattr(self, f"parity{m}")
            first, second = torch.cat([first, parity * second], -1), torch.cat([second, parity * first], -1)
        first, second = first.flatten(0, 1), second.flatten(0, 1)
        shape = (len(x_i) * copies, n_l * channels)
        mixed = torch.addmm(x_i.reshape(shape) @ first, x_j.reshape(shape), second)
        directions = 2 if both_ways else 1
        mixed = mixed.reshape(len(x_i), copies, directions, width) * weight[:, None, None]
        return mixed.permute(2, 0, 1, 3).reshape(directions * len(x_i), copies, width)

    def _collect(self, parts: list[Tensor]) -> Tensor:
        """Order the outputs as the coupling does, for each copy: (P, copies, n)."""
        n = len(parts[0])
        real = [part.reshape(n, self.copies, -1) for part in parts[:2]]
        pairs = [part.reshape(n, 2, self.copies, -1).transpose(1, 2).flatten(2) for part in parts[2:]]
        return torch.cat([*real, *pairs], dim=-1)


class BondBlocks(nn.Module):
    """Blocks of all pairs of one kind in the global frame; symmetric when both species are the same.

    For two atoms of one species the head is evaluated in both directions and averaged, so that the block
    of (j, i) is the transpose of that of (i, j) to the last digit.
    """

    signs: Tensor

    def __init__(
        self,
        frames: FrameRotation,
        coupling: BondCoupling,
        shells: tuple[tuple[int, ...], tuple[int, ...]],
        same_species: bool,
        **sizes: object,
    ) -> None:
        super().__init__()
        self.head = PairHead(frames, coupling, **sizes)  # type: ignore[arg-type]
        self.shells = shells
        self.same_species = same_species
        signs = [parity_signs(s) for s in shells]
        self.register_buffer("signs", signs[0][:, None] * signs[1], persistent=False)

    def forward(self, x_i: list[Tensor], x_j: list[Tensor], radial: Tensor, wigner: list[Tensor]) -> Tensor:
        """(P, copies, n_i, n_j); ``wigner`` holds D^1, D^2, ... of the bond rotations, each (P, ., .)."""
        shape = (-1, self.head.copies, *self.signs.shape)
        if self.same_species:
            forward, backward = self.head(x_i, x_j, radial, both_ways=True).reshape(shape).chunk(2)
            local = 0.5 * (forward + (backward * self.signs).transpose(-1, -2))
        else:
            local = self.head(x_i, x_j, radial, both_ways=False).reshape(shape)
        left, right = (orbital_rotation(wigner, shells)[:, None] for shells in self.shells)
        return left.transpose(-1, -2) @ local @ right


def orbital_rotation(wigner: list[Tensor], shells: tuple[int, ...]) -> Tensor:
    """(P, n, n) block-diagonal rotation of an atom's orbitals into the bond frame."""
    n_pairs = len(wigner[0])
    rows = []
    for k, l in enumerate(shells):
        block = wigner[l - 1] if l else wigner[0].new_ones(n_pairs, 1, 1)
        before = sum(2 * m + 1 for m in shells[:k])
        after = sum(2 * m + 1 for m in shells[k + 1 :])
        rows.append(nn.functional.pad(block, (before, after)))
    return torch.cat(rows, dim=1)


class OnsiteBlocks(nn.Module):
    """Symmetric on-site blocks of one species, from its atoms' features."""

    coupling0: Tensor

    def __init__(self, lmax: int, shells: tuple[int, ...], channels: int) -> None:
        super().__init__()
        couplings = onsite_couplings(shells)
        self.n_l = min(len(couplings), lmax + 1)
        self.scalars = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.SiLU(), nn.Linear(2 * channels, channels), nn.SiLU()
        )
        self.out = nn.ParameterList()
        for l in range(self.n_l):
            self.register_buffer(f"coupling{l}", couplings[l], persistent=False)
            self.out.append(random_weights(2 * channels, len(couplings[l])))
        self.constant = nn.Parameter(torch.zeros(len(couplings[0])))

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, C) -> (N, n, n)."""
        s = self.scalars(x[:, 0])
        block = torch.einsum(
            "np,pab->nab", torch.cat([s, x[:, 0]], -1) @ self.out[0] + self.constant, self.coupling0[:, 0]
        )
        for l in range(1, self.n_l):
            features = x[:, l * l : (l + 1) ** 2]
            numbers = torch.cat([features * s[:, None], features], dim=-1) @ self.out[l]
            block = block + torch.einsum("nmp,pmab->nab", numbers, getattr(self, f"coupling{l}"))
        return block


class EnergyHead(nn.Module):
    """Double-counting energy of the atoms of one species relative to the isolated atom.

    It is zero for vanishing features, that is for an atom without neighbors.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )

    def shrink(self, factor: float) -> None:
        """Scale the output weights."""
        for parameter in self.layers[-1].parameters():
            parameter.data.mul_(factor)

    def forward(self, scalars: Tensor) -> Tensor:
        """(N, C) -> (N,)"""
        return (self.layers(scalars) - self.layers(torch.zeros_like(scalars[:1])))[:, 0]

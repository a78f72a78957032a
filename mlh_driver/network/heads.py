"""Heads: from atom features to Hamiltonian blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from mlh_driver.errors import InputError
from mlh_driver.network.coupling import BondCoupling, onsite_couplings
from mlh_driver.network.frames import FrameRotation
from mlh_driver.network.nodes import Bonds, random_weights
from mlh_driver.network.rotation import Ends, Terms, gather, quadratic


class ComplexProducts:
    """Products of the components m >= 1, complex numbers that a turn around the bond changes by exp(i m phi).

    For each m the channels are split in halves a and b: a conj(b) gives scalars (0+) and
    pseudoscalars (0-), a b gives 2 m; z_m conj(z_1) gives m - 1. Numbers are stored as all real parts, then
    all imaginary parts, of m = 1, then of m = 2, ...
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        m_max = len(widths) - 1
        if any(width % 2 for width in widths[1:]) or list(widths[1:]) != sorted(widths[1:], reverse=True):
            raise InputError(f"hidden widths {widths} must be even and must not grow with m")
        starts = np.cumsum([0, 0] + [2 * width for width in widths[1:]])
        even: list[list[_Term]] = []
        odd: list[list[_Term]] = []
        new: list[list[tuple[list[_Term], list[_Term]]]] = [[] for _ in widths]
        for m in range(1, m_max + 1):
            width, half = widths[m], widths[m] // 2
            real, imag = starts[m], starts[m] + width
            for k in range(half):
                a_re, a_im, b_re, b_im = real + k, imag + k, real + half + k, imag + half + k
                even.append([(1, a_re, b_re), (1, a_im, b_im)])
                odd.append([(1, a_im, b_re), (-1, a_re, b_im)])
                if 2 * m <= m_max:
                    turned = [(1, a_im, b_re), (1, a_re, b_im)]
                    new[2 * m].append(([(1, a_re, b_re), (-1, a_im, b_im)], turned))
            if m >= 2:
                for k in range(width):
                    re, im, re_1, im_1 = real + k, imag + k, starts[1] + k, starts[1] + widths[1] + k
                    turned = [(1, im, re_1), (-1, re, im_1)]
                    new[m - 1].append(([(1, re, re_1), (1, im, im_1)], turned))
        self.n_scalars = len(even)
        self.n_new = [len(numbers) for numbers in new]
        outputs = even + odd + [part[k] for numbers in new for k in (0, 1) for part in numbers]
        terms = [(out, left, right, sign) for out, sums in enumerate(outputs) for sign, left, right in sums]
        out, left, right, sign = (np.array(column) for column in zip(*terms, strict=True))
        self.terms = Terms(out, left, right, sign.astype(float), (len(outputs), starts[-1], starts[-1]))

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Scalars, pseudoscalars, and per m new (P, 2, n) numbers, from (P, 2 sum(widths[1:])) numbers."""
        sizes = [self.n_scalars, self.n_scalars, *(2 * n for n in self.n_new)]
        even, odd, *new = quadratic(z, self.terms).split(sizes, dim=1)
        return even, odd, [part.unflatten(1, (2, -1)) for part in new]


_Term = tuple[int, int, int]
"""Sign, and which two numbers are multiplied."""


class PairHead(nn.Module):
    """Blocks of one kind of pair in the bond frame, from the two atoms' features in that frame."""

    to_block: Tensor
    parity: Tensor

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
        parity = torch.tensor([(-1.0) ** l for l in range(frames.lmax + 1)])
        self.register_buffer("parity", parity[:, None, None, None], persistent=False)

    def forward(
        self, x_i: list[Tensor], x_j: list[Tensor], radial: Tensor, both_ways: bool = False
    ) -> Tensor:
        """Both atoms' features per m (P, copies * n_l, C), radial (P, n_radial) -> (P, copies, n_i * n_j).

        With ``both_ways``, (2 P, copies, n_i * n_j): then come the reverse bonds, in frames of their own.
        """
        *weights, bias = (radial @ self.radial).split([*self.hidden, self.hidden[0]], dim=1)
        z = self._mix(x_i, x_j, weights)
        if both_ways:
            back = self._mix(x_j, x_i, weights, reverse=True)
            z = [torch.cat(numbers) for numbers in zip(z, back, strict=True)]
            bias = torch.cat([bias, bias])
        scalars = z[0][:, 0] + bias
        even, odd, new = self.products(torch.cat([numbers.flatten(1) for numbers in z[1:]], dim=1))
        mixed = _joint_product((scalars, even), self.scalars1.weight.T) + self.scalars1.bias
        s = silu(self.scalars2(silu(mixed)))
        odd_gate, *gates = self.gates(s).split([odd.shape[1], *self.widths_out], dim=1)
        parts = [_joint_product((s, scalars), self.out_even), (odd * odd_gate) @ self.out_odd]
        for m in range(1, len(z)):
            old_gate, new_gate = (1 + gates[m - 1])[:, None].split([z[m].shape[2], new[m].shape[2]], dim=2)
            numbers = [(z[m] * old_gate).flatten(0, 1), (new[m] * new_gate).flatten(0, 1)]
            parts.append(_joint_product(numbers, self.out[m - 1]).unflatten(0, (-1, 2)).flatten(1))
        return self._collect(parts) @ self.to_block

    def _mix(
        self, x_i: list[Tensor], x_j: list[Tensor], weights: list[Tensor], reverse: bool = False
    ) -> list[Tensor]:
        """Hidden numbers per m: (P, 1 or 2, hidden[m]).

        With ``reverse`` they are those of the bond from the first atom to the second although the features
        are in the frame of the opposite bond: the frames differ by an inversion, so by the parity (-1)^l.
        """
        mixed = []
        for m, ((n_l, copies), mix, weight) in enumerate(zip(self.layout, self.mix, weights, strict=True)):
            mix = mix.reshape(n_l, 2, self.channels, -1)
            first, second = (mix * self.parity[m:] if reverse else mix).unbind(1)
            shape = (len(weight) * copies, n_l * self.channels)
            numbers = torch.addmm(
                x_i[m].reshape(shape) @ first.flatten(0, 1), x_j[m].reshape(shape), second.flatten(0, 1)
            )
            mixed.append(numbers.reshape(len(weight), copies, -1) * weight[:, None])
        return mixed

    def _collect(self, parts: list[Tensor]) -> Tensor:
        """Order the outputs as the coupling does, for each copy: (P, copies, n)."""
        real = [self._per_copy(part, 1)[:, 0] for part in parts[:2]]
        pairs = [self._per_copy(part, 2).transpose(1, 2).flatten(2) for part in parts[2:]]
        return torch.cat([*real, *pairs], dim=-1)

    def _per_copy(self, part: Tensor, n_parts: int) -> Tensor:
        """(P, n_parts * copies * n) -> (P, n_parts, copies, n), also for n = 0."""
        return part.reshape(len(part), n_parts, self.copies, part.shape[1] // (n_parts * self.copies))


def _joint_product(parts: Sequence[Tensor], weight: Tensor) -> Tensor:
    """cat(parts, 1) @ weight for two parts, without joining them."""
    first, second = parts
    upper, lower = weight.split([first.shape[1], second.shape[1]])
    return torch.addmm(first @ upper, second, lower)


class BondBlocks(nn.Module):
    """Blocks of all pairs of one kind in the global frame; symmetric when both species are the same.

    For two atoms of one species the head is evaluated in both directions and averaged, so that the block
    of (j, i) is the transpose of that of (i, j) to the last digit.
    """

    parity: Tensor

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
        self.frames = frames
        self.shells = shells
        self.ways = 2 if same_species else 1
        parity = torch.tensor([(-1.0) ** l for l in shells[0] for _ in range(2 * l + 1)])
        self.register_buffer("parity", torch.outer(parity, parity), persistent=False)

    def forward(self, x: Tensor, bonds: Bonds) -> Tensor:
        """(P, copies, n_i, n_j) from the features of atoms, (N, K, C)."""
        first, second = self.shells
        left = orbital_rotation(bonds.entries, first)[:, None]
        right = left if first == second else orbital_rotation(bonds.entries, second)[:, None]
        numbers = self.numbers(x, bonds.entries, bonds.radial, bonds.ends)
        shape = (len(bonds.radial), self.ways, self.head.copies, left.shape[-1], right.shape[-1])
        local, *back = numbers.reshape(shape).unbind(1)
        if back:
            local = 0.5 * (local + back[0].transpose(-1, -2) * self.parity)
        return left.transpose(-1, -2) @ local @ right

    def numbers(self, x: Tensor, entries: Tensor, radial: Tensor, ends: tuple[Ends, Ends]) -> Tensor:
        """(P * ways, copies * n_i * n_j) of each bond, in its frame, in one direction or both."""
        x_i, x_j = ([gather(entries, x, end, rows) for rows in self.frames.rows] for end in ends)
        found = self.head(x_i, x_j, radial, both_ways=self.ways == 2)
        return found.unflatten(0, (self.ways, -1)).transpose(0, 1).reshape(len(found), -1)


def orbital_rotation(entries: Tensor, shells: tuple[int, ...]) -> Tensor:
    """(P, n, n) block-diagonal rotation of an atom's orbitals into the bond frame."""
    rows = []
    for k, l in enumerate(shells):
        before = sum(2 * m + 1 for m in shells[:k])
        after = sum(2 * m + 1 for m in shells[k + 1 :])
        rows.append(nn.functional.pad(FrameRotation.wigner(entries, l), (before, after)))
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

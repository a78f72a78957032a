"""How the entries of a Hamiltonian block decompose, in the bond frame and on an atom.

In the frame of the bond the entry between orbitals with |m| = a and |m| = b couples to numbers with
|M| = |a - b| and a + b (see :mod:`mlh_driver.network.frames`); M = 0 splits into true scalars (0+), and
pseudoscalars (0-) that change sign under a mirror containing the bond. On an atom the block of two shells
is the Clebsch-Gordan sum of L = |l1 - l2| ... l1 + l2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mlh_driver.network.so3 import wigner_3j


def shell_slices(shells: tuple[int, ...]) -> list[slice]:
    """The orbitals of each shell."""
    starts = [sum(2 * l + 1 for l in shells[:k]) for k in range(len(shells))]
    return [slice(start, start + 2 * l + 1) for start, l in zip(starts, shells, strict=True)]


def n_orbitals(shells: tuple[int, ...]) -> int:
    return sum(2 * l + 1 for l in shells)


@dataclass(frozen=True)
class BondCoupling:
    """Numbers that a pair head must produce for one kind of pair, and the map to the block.

    n_even, n_odd: real numbers of kind 0+ and 0-
    n_complex:     per M = 1, 2, ..., how many complex numbers
    matrix:        (n_even + n_odd + 2 sum(n_complex), n_i * n_j) orthogonal map to the flattened block, the
                   numbers being ordered 0+, 0-, then for each M all real parts and all imaginary parts
    """

    n_even: int
    n_odd: int
    n_complex: tuple[int, ...]
    matrix: Tensor


def bond_coupling(shells_i: tuple[int, ...], shells_j: tuple[int, ...]) -> BondCoupling:
    """Decompose the block between two atoms with the given shells."""
    size_j = n_orbitals(shells_j)
    max_m = max(1, max(shells_i) + max(shells_j))  # the network needs components m = 1
    even: list[dict[int, float]] = []
    odd: list[dict[int, float]] = []
    real: list[list[dict[int, float]]] = [[] for _ in range(max_m + 1)]
    imag: list[list[dict[int, float]]] = [[] for _ in range(max_m + 1)]
    half = 0.5**0.5

    def entry(i: int, j: int) -> int:
        return i * size_j + j

    for rows, l1 in zip(shell_slices(shells_i), shells_i, strict=True):
        for columns, l2 in zip(shell_slices(shells_j), shells_j, strict=True):
            i0, j0 = rows.start + l1, columns.start + l2
            even.append({entry(i0, j0): 1.0})
            for a in range(1, l1 + 1):
                real[a].append({entry(i0 + a, j0): 1.0})
                imag[a].append({entry(i0 - a, j0): 1.0})
            for b in range(1, l2 + 1):
                real[b].append({entry(i0, j0 + b): 1.0})
                imag[b].append({entry(i0, j0 - b): 1.0})
            for a in range(1, l1 + 1):
                for b in range(1, l2 + 1):
                    cc, ss = entry(i0 + a, j0 + b), entry(i0 - a, j0 - b)
                    sc, cs = entry(i0 - a, j0 + b), entry(i0 + a, j0 - b)
                    real[a + b].append({cc: half, ss: -half})
                    imag[a + b].append({sc: half, cs: half})
                    sign = half if a >= b else -half
                    difference = abs(a - b)
                    (even if difference == 0 else real[difference]).append({cc: half, ss: half})
                    (odd if difference == 0 else imag[difference]).append({sc: sign, cs: -sign})
    rows_of_matrix = even + odd
    for m in range(1, max_m + 1):
        rows_of_matrix = rows_of_matrix + real[m] + imag[m]
    matrix = torch.zeros(len(rows_of_matrix), n_orbitals(shells_i) * size_j, dtype=torch.float64)
    for row, entries in enumerate(rows_of_matrix):
        for column, value in entries.items():
            matrix[row, column] = value
    return BondCoupling(len(even), len(odd), tuple(len(r) for r in real[1:]), matrix)


def onsite_couplings(shells: tuple[int, ...]) -> list[Tensor]:
    """Per L, an orthonormal basis of symmetric blocks: (paths, 2 L + 1, n, n) with natural parity."""
    size = n_orbitals(shells)
    slices = shell_slices(shells)
    found: list[list[Tensor]] = [[] for _ in range(2 * max(shells) + 1)]
    for a, l1 in enumerate(shells):
        for b, l2 in list(enumerate(shells))[a:]:
            for total in range(abs(l1 - l2), l1 + l2 + 1, 2):
                block = torch.zeros(2 * total + 1, size, size, dtype=torch.float64)
                coupling = wigner_3j(total, l1, l2, dtype=torch.float64) * (2 * total + 1) ** 0.5
                block[:, slices[a], slices[b]] = coupling
                if a != b:
                    block = (block + block.transpose(1, 2)) / 2**0.5
                found[total].append(block)
    return [
        torch.stack(blocks) if blocks else torch.zeros(0, 2 * total + 1, size, size, dtype=torch.float64)
        for total, blocks in enumerate(found)
    ]

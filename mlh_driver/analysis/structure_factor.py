"""Static structure factors on the wave vectors of the cell itself.

A periodic cell holds the waves q = 2 pi (h a* + k b* + l c*) and no others, so S(q) is computed there and
nowhere in between: a Fourier transform of g(r), cut off at half the cell, would invent the rest. With the
density waves

::

    rho_a(q) = sum over atoms i of element a of exp(i q r_i)

the partials are those of Faber and Ziman (1965), 1 where there is no order, and with the scattering lengths b
they add up to what neutrons see:

::

    S_ab(q) = 1 + (Re <rho_a rho_b*> / N - c_a delta_ab) / (c_a c_b)
    S(q)    = sum_ab c_a c_b b_a b_b S_ab(q) / (sum_a c_a b_a)^2
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlh_driver.analysis.distribution import check_same_atoms, pairs_of
from mlh_driver.system import Array

#: Bound coherent scattering lengths in fm (Sears, Neutron News 3, 26 (1992)).
NEUTRON_fm = {"O": 5.803, "Si": 4.1491}
#: In 1/Å. Where the first sharp diffraction peak of silica lies, at 1.52.
FIRST_PEAK = (1.2, 1.7)


@dataclass(frozen=True)
class StructureFactor:
    """S(q) in bins of |q|; bins in which the cell has no wave vector are left out.

    q_per_A:   (n,) mean |q| of the bin in 1/Å
    n_vectors: (n,) wave vectors in it, over all frames
    s:         (n,) by pair, such as ``"O-Si"``, elements in alphabetical order
    neutron:   (n,) as neutrons see it, None where a scattering length is not known here
    bin_per_A: width of the bins in 1/Å
    """

    q_per_A: Array
    n_vectors: NDArray[np.int64]
    s: dict[str, Array]
    neutron: Array | None
    bin_per_A: float

    def values_at_first_peak(self) -> int:
        """How many bins there are where silica has its first sharp diffraction peak."""
        return int(self._at_first_peak().sum())

    def resolves_first_peak(self) -> bool:
        """Whether no bin is empty there."""
        low, high = FIRST_PEAK
        return self.values_at_first_peak() >= round((high - low) / self.bin_per_A)

    def first_peak(self) -> float:
        """|q| of the largest value of the neutron S(q) there in 1/Å, NaN where the cell cannot resolve it."""
        if self.neutron is None or not self.resolves_first_peak():
            return np.nan
        there = self._at_first_peak()
        return float(self.q_per_A[there][self.neutron[there].argmax()])

    def _at_first_peak(self) -> NDArray[np.bool_]:
        low, high = FIRST_PEAK
        return (self.q_per_A >= low) & (self.q_per_A < high)


def structure_factor(
    frames: Sequence[Atoms], largest_q_per_A: float = 12.0, bin_per_A: float = 0.05
) -> StructureFactor:
    """Mean over the frames and over the directions of q, up to ``largest_q_per_A``.

    Raises InputError for frames that are not all of the same atoms.
    """
    check_same_atoms(frames)
    n_bins = round(largest_q_per_A / bin_per_A)
    pairs = pairs_of(frames[0])
    counts, lengths = np.zeros(n_bins), np.zeros(n_bins)
    sums = {pair: np.zeros(n_bins) for pair in pairs}
    for atoms in frames:
        for q, weight, waves in _planes(atoms, n_bins * bin_per_A):
            bins = (q / bin_per_A).astype(int)
            counts += weight * np.bincount(bins, minlength=n_bins)
            lengths += weight * np.bincount(bins, q, minlength=n_bins)
            for pair in pairs:
                a, b = pair.split("-")
                product = (waves[a] * waves[b].conj()).real / len(atoms)
                sums[pair] += weight * np.bincount(bins, product, minlength=n_bins)
    filled = counts > 0
    shares = {a: float((frames[0].symbols == a).mean()) for a in set(frames[0].symbols)}
    s = {
        pair: 1.0
        + (total[filled] / counts[filled] - (shares[a] if a == b else 0.0)) / (shares[a] * shares[b])
        for pair, total in sums.items()
        for a, b in [pair.split("-")]
    }
    return StructureFactor(
        lengths[filled] / counts[filled], counts[filled].astype(np.int64), s, _neutron(shares, s), bin_per_A
    )


def _planes(atoms: Atoms, largest_q: float) -> Iterator[tuple[Array, int, dict[str, NDArray[np.complex128]]]]:
    """|q| (n,), how often each counts, and rho_a(q) (n,) by element, for the planes h = 0, 1, 2 ...

    Planes of -h have the same products and are counted, not computed.
    """
    reciprocal = 2.0 * np.pi * np.linalg.inv(atoms.cell.array).T
    n_h, n_k, n_l = (int(largest_q * length / (2.0 * np.pi)) for length in atoms.cell.lengths())
    k, l = np.arange(-n_k, n_k + 1), np.arange(-n_l, n_l + 1)
    fractional = np.linalg.solve(atoms.cell.array.T, atoms.positions.T)
    along_k, along_l = (
        np.exp(2j * np.pi * np.outer(n, x)) for n, x in ((k, fractional[1]), (l, fractional[2]))
    )
    members = {a: np.asarray(atoms.symbols == a) for a in set(atoms.symbols)}
    for h in range(n_h + 1):
        vectors = (h * reciprocal[0]) + k[:, None, None] * reciprocal[1] + l[None, :, None] * reciprocal[2]
        q = np.linalg.norm(vectors, axis=2)
        wanted = (q < largest_q) & (q > 0.0)
        phases = along_k * np.exp(2j * np.pi * h * fractional[0])
        waves = {a: (phases[:, own] @ along_l[:, own].T)[wanted] for a, own in members.items()}
        yield q[wanted], 2 if h else 1, waves


def _neutron(shares: dict[str, float], s: dict[str, Array]) -> Array | None:
    if not shares.keys() <= NEUTRON_fm.keys():
        return None
    weighted = {a: share * NEUTRON_fm[a] for a, share in shares.items()}
    total = np.zeros_like(next(iter(s.values())))
    for pair, values in s.items():
        a, b = pair.split("-")
        total += (1 if a == b else 2) * weighted[a] * weighted[b] * values
    return total / sum(weighted.values()) ** 2

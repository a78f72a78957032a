"""Radial distribution functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from vesin import ase_neighbor_list

from mlh_driver.errors import InputError
from mlh_driver.system import Array, System


@dataclass(frozen=True)
class RadialDistribution:
    """g(r) of each pair of elements, 1 where there is no order.

    ::

        g_ab(r) = V n_ab(r) / (N_a N_b 4 pi r^2 dr)      n_ab: pairs of an a and a b in the shell, ordered

    r_A: (n,) middle of each shell in Å
    g:   (n,) by pair, such as ``"O-Si"``, elements in alphabetical order
    """

    r_A: Array
    g: dict[str, Array]

    def first_minimum(self, pair: str) -> float:
        """Where g is smallest between its first maximum and twice that distance, in Å.

        The middle, where several shells are equally empty; NaN where no atoms of the pair are near enough.
        """
        g = self.g[pair]
        peak = self.r_A[g.argmax()]
        between = (self.r_A > peak) & (self.r_A < 2 * peak)
        if not between.any():
            return float("nan")
        return float(self.r_A[between][g[between] == g[between].min()].mean())


def radial_distribution(
    frames: Sequence[Atoms], reach_A: float = 8.0, shell_A: float = 0.05
) -> RadialDistribution:
    """Mean over the frames up to ``reach_A``, which may be larger than half the cell; shells of ``shell_A``.

    Raises InputError for frames that are not all of the same atoms, or not periodic.
    """
    check_same_atoms(frames)
    edges = np.arange(0.0, reach_A + 0.5 * shell_A, shell_A)
    middles, volumes = 0.5 * (edges[1:] + edges[:-1]), 4.0 / 3.0 * np.pi * np.diff(edges**3)
    g = {pair: np.zeros_like(middles) for pair in pairs_of(frames[0])}
    for atoms in frames:
        i, j, distances = ase_neighbor_list("ijd", atoms, reach_A)
        kinds = atoms.symbols
        for pair in g:
            a, b = pair.split("-")
            found = (kinds[i] == a) & (kinds[j] == b)
            per_volume = (kinds == a).sum() * (kinds == b).sum() / atoms.get_volume()
            g[pair] += np.histogram(distances[found], edges)[0] / (per_volume * volumes * len(frames))
    return RadialDistribution(middles, g)


def pairs_of(atoms: Atoms) -> list[str]:
    """Names of all pairs of elements, such as ``"O-Si"``, in alphabetical order."""
    return [f"{a}-{b}" for a, b in combinations_with_replacement(sorted(set(atoms.symbols)), 2)]


def check_same_atoms(frames: Sequence[Atoms]) -> None:
    """Raise InputError unless there are frames, all of the same atoms, periodic along all axes."""
    if not frames:
        raise InputError("there are no frames to analyze; give at least one")
    if any(not np.array_equal(atoms.numbers, frames[0].numbers) for atoms in frames):
        raise InputError("the frames have different atoms; analyze those of one structure at a time")
    for atoms in frames:
        check_periodic(atoms)


def check_periodic(atoms: Atoms) -> None:
    """Raise InputError for what is not periodic along all axes, is empty, or has infinite positions."""
    if not atoms.pbc.all():
        raise InputError(
            f"pbc is {atoms.pbc.tolist()}; the analysis needs a cell that is periodic along all axes"
        )
    System.from_ase(atoms)

"""Bond angles, and the distances that they span."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlh_driver.analysis.network import Network
from mlh_driver.system import Array


@dataclass(frozen=True)
class Angles:
    """All pairs of bonds of the same atom: Si-O-Si around an O, O-Si-O around a Si.

    degrees:   (n,) angle between the two bonds
    spanned_A: (n,) distance between their outer ends in Å
    """

    degrees: Array
    spanned_A: Array


def bond_angles(networks: Sequence[Network], center: int) -> Angles:
    """Angles around all Si (``center`` 14) or all O (8) of all networks."""
    pairs = [
        network.vectors[bonds[np.stack(np.triu_indices(len(bonds), k=1), axis=1)]]
        for network in networks
        for bonds in network.around(center)
    ]
    a, b = np.concatenate([np.empty((0, 2, 3)), *pairs]).swapaxes(0, 1)
    cosines = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return Angles(np.degrees(np.arccos(cosines.clip(-1.0, 1.0))), np.linalg.norm(a - b, axis=1))

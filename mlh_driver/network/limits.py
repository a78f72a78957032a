"""What happens where the training data end: a wall at short distances, and bounds of all that is predicted.

A network knows nothing beyond its data, and an atom that gets there may find a hole without bottom. Two things
keep it out, and both act on no structure of the training.

*Distances.* Below an inner radius r0 of each kind of pair the distance that the network sees stops changing,
over a width w, and a wall W is added to the energy, whose force grows to F:

    s(r) = r0 - (t - 2 t^3 / (3 w^2) + t^5 / (5 w^4)),   t = min(r0 - r, w)
    W(r) = F [t - b arctan(t / b)],   W' = F t^2 / (t^2 + b^2),   t = max(r0 - r, 0)

Both join the outside with two continuous derivatives.

*Outputs.* Atoms may come close in ways that no single distance shows, such as two tetrahedra that share an edge.
So every block, charge flow, dipole and energy x whose norm exceeds the largest of the training data, a bound B,
is scaled to

    |x| -> B [1 + c tanh((|x| / B - 1) / c)],

at most (1 + c) B: electrons cannot gain more from it, while the wall and the pair repulsion go on rising.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

WIDTH_A = 0.25
#: W is F t^3 / (3 b^2) at first. An oxygen atom bounces off it in some ten femtoseconds.
WALL_FORCE_eV_A = 200.0
WALL_ONSET_A = 0.25
#: c of the bounds, and how far beyond the largest value of the training data they lie.
SOFTNESS = 0.2
MARGIN = 1.1


def saturated(distances: Tensor, inner: Tensor) -> Tensor:
    """(P,) distances that the network sees, given true ones and the inner radius of each pair, in Å."""
    t = (inner - distances).clamp(0.0, WIDTH_A)
    u = (t / WIDTH_A) ** 2
    return torch.maximum(distances, inner) - t * (1.0 - u * (2.0 / 3.0 - u / 5.0))


def wall(distances: Tensor, inner: Tensor) -> Tensor:
    """(P,) repulsive energies in eV, zero outside the inner radii."""
    t = (inner - distances).clamp(min=0.0)
    return WALL_FORCE_eV_A * (t - WALL_ONSET_A * torch.atan(t / WALL_ONSET_A))


class OutputBounds(nn.Module):
    """Largest norms of what a network predicts, per kind of pair or species; infinite while they are unknown.

    bonds:       of the blocks of pairs, relative to their decay with distance, in eV
    legs:        of the short blocks whose products join atoms through a third one
    flows:       of the electrons along a bond
    onsite:      of the on-site blocks beyond the constant of the species, in eV
    dipoles:     in electrons times Å
    energies:    of the many-body double-counting energies, in eV
    """

    def __init__(self, n_kinds: int, n_species: int) -> None:
        super().__init__()
        of_pairs, of_atoms = ("bonds", "legs", "flows"), ("onsite", "dipoles", "energies")
        self.names = (*of_pairs, *of_atoms)
        for name in self.names:
            size = n_kinds if name in of_pairs else n_species
            self.register_buffer(name, torch.full((size,), torch.inf))
        self._largest: dict[str, Tensor] | None = None

    def forward(self, name: str, values: Tensor, kinds: Tensor) -> Tensor:
        """(M, ...) the values of this name, bounded; kinds (M,) are indices of pairs or species."""
        norms = torch.linalg.vector_norm(values.detach().flatten(1), dim=1)
        if self._largest is not None:
            self._largest[name].scatter_reduce_(0, kinds, norms, "amax")
            return values
        bounds = getattr(self, name)[kinds]
        beyond = torch.nonzero(norms > bounds)[:, 0]
        if not len(beyond):
            return values
        some = values[beyond]
        x = torch.linalg.vector_norm(some.flatten(1), dim=1) / bounds[beyond]
        factors = (1.0 + SOFTNESS * torch.tanh((x - 1.0) / SOFTNESS)) / x
        return values.index_copy(0, beyond, some * factors.reshape(-1, *[1] * (some.dim() - 1)))

    def lift(self) -> None:
        """No bounds, so that a network can learn what lies beyond them."""
        for name in self.names:
            getattr(self, name).fill_(torch.inf)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """What is evaluated in this block is within bounds, which are set by its largest values afterwards."""
        self._largest = {name: torch.zeros_like(getattr(self, name)) for name in self.names}
        try:
            yield
            for name, largest in self._largest.items():
                getattr(self, name).copy_(MARGIN * largest)
        finally:
            self._largest = None

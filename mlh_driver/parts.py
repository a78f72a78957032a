"""Which part of a structure this process works on: all of it, unless several share it.

What one structure needs is the same in one process and in many: atoms of its own, copies of the atoms around
them (the halo), sums over all processes. Network, Hamiltonian, solvers and engine are written for a part.
:class:`Whole` is the only one there is in one process, where nothing has to be copied or added;
:mod:`mlh_driver.distributed` has the other.

In the shapes of the package N counts the atoms of the structure, L those of a part with its halo, and M those
of its own, which come first among the L. Here all three are the same.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor

from mlh_driver.system import Array


class Whole:
    """All atoms of a structure, in one process."""

    def own(self, values: Tensor) -> Tensor:
        """(M, ...) those of own atoms, from (L, ...)."""
        return values

    def spread(self, values: Tensor) -> Tensor:
        """(L, ...) from the (M, ...) of own atoms, with copies of others in the halo; differentiable."""
        return values

    def reduced(self, values: Tensor) -> Tensor:
        """Sum over the processes; differentiable."""
        return values

    def with_own_end(self, pair_index: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs, index (2, P) and blocks (P, ...), without those that join two atoms of the halo."""
        return pair_index, blocks

    def named(self, index: Tensor) -> Tensor:
        """Atoms of the structure, from numbers that count those of the part."""
        return index

    def chosen(self, values: Array) -> Array:
        """(M, ...) those of own atoms, from (N, ...)."""
        return values

    def gathered(self, values: Array) -> Array:
        """(N, ...) the sum of what all processes have for an atom, from (M, ...) or (L, ...)."""
        return values

    def total(self, values: Array) -> Array:
        """Sum over the processes."""
        return values

    def anywhere(self, found: bool) -> bool:
        """Whether any process has found it."""
        return found

    def together(self) -> AbstractContextManager[None]:
        """What an MLHError of one process in this block ends, it ends in all of them."""
        return nullcontext()


WHOLE = Whole()

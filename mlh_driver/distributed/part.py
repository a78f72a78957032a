"""The part of a structure that one of several processes works on."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlh_driver.distributed.ranks import Exchange, Ranks
from mlh_driver.parts import Whole
from mlh_driver.system import Array


class Part(Whole):
    """Own atoms of this process, and copies of others around them.

    owner: (N,) the process of each atom
    halo:  atoms of others that own ones depend on
    atoms: (L,) own atoms, then those of the halo
    """

    def __init__(self, ranks: Ranks, owner: NDArray[np.int64], halo: NDArray[np.int64]) -> None:
        self.ranks, self.owner = ranks, owner
        own = np.flatnonzero(owner == ranks.rank)
        self.n_own = len(own)
        self.atoms = np.concatenate([own, halo])
        places = self.n_own + np.arange(len(halo))
        self._exchange = ranks.exchange(
            halo, owner[halo], places, lambda wanted: np.searchsorted(own, wanted).astype(np.int64)
        )

    def own(self, values: Tensor) -> Tensor:
        return values[: self.n_own]

    def spread(self, values: Tensor) -> Tensor:
        return _Spread.apply(values, self._exchange, len(self.atoms))

    def reduced(self, values: Tensor) -> Tensor:
        return _Sum.apply(values, self.ranks)

    def with_own_end(self, pair_index: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
        kept = torch.nonzero((pair_index < self.n_own).any(dim=0))[:, 0]
        return pair_index[:, kept], blocks.index_select(0, kept)

    def named(self, index: Tensor) -> Tensor:
        return torch.from_numpy(self.atoms)[index]

    def chosen(self, values: Array) -> Array:
        return values[self.atoms[: self.n_own]]

    def gathered(self, values: Array) -> Array:
        everywhere = np.zeros((len(self.owner), *values.shape[1:]))
        everywhere[self.atoms[: len(values)]] = values
        return self.ranks.total(everywhere)

    def total(self, values: Array) -> Array:
        return self.ranks.total(values)

    def anywhere(self, found: bool) -> bool:
        return self.ranks.anywhere(found)

    def together(self) -> AbstractContextManager[None]:
        return self.ranks.together()


class _Spread(torch.autograd.Function):
    """Own values and copies of those of the halo; derivatives by the copies go to the owners."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, exchange: Exchange, n_local: int) -> Tensor:
        ctx.exchange, ctx.n_own = exchange, len(values)
        local = values.new_empty(n_local, *values.shape[1:])
        local[: len(values)] = values
        exchange.fill(local.numpy())
        return local

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        collected = gradients[0].clone(memory_format=torch.contiguous_format)
        ctx.exchange.collect(collected.numpy())
        return collected[: ctx.n_own], None, None


class _Sum(torch.autograd.Function):
    """Every process depends on the sum, so its derivative is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return torch.from_numpy(ranks.total(values.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return torch.from_numpy(ctx.ranks.total(gradients[0].contiguous().numpy())), None

"""Large systems in parts, so that memory holds the intermediate results of one part only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

#: So many bonds are one part, whose results are kept instead of computed again: a quarter less time.
BONDS_AT_ONCE = 65536
#: Of a part, where there are more; some hundred MB each.
BONDS = 16384
ATOMS = 1024
#: Some results of a part are as large as the whole system, so the number of parts must not grow with it.
MOST = 12


def chunk_sizes(total: int, preferred: int) -> list[int]:
    """Nearly equal sizes, about the preferred one, that add up to ``total``."""
    count = min(max(1, -(-total // preferred)), MOST)
    return [total // count + (k < total % count) for k in range(count)]


def bond_chunks(total: int) -> list[int]:
    """Sizes of the parts of so many bonds: a single one, or nearly equal ones."""
    return [total] if total <= BONDS_AT_ONCE else chunk_sizes(total, BONDS)


def in_chunks(function: Callable[..., Tensor], parts: Sequence[tuple[Any, ...]]) -> Iterator[Tensor]:
    """``function`` of each part; of several, each is computed again in the backward pass."""
    remember = len(parts) == 1 or not torch.is_grad_enabled()
    for part in parts:
        if remember:
            yield function(*part)
        else:
            yield checkpoint(function, *part, use_reentrant=False, preserve_rng_state=False)

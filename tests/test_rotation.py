"""Compiled operations on bonds: equal to the torch operations, and differentiable twice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mlh_driver.network.frames import FrameRotation
from mlh_driver.network.rotation import Ends, Terms, bilinear, gather, quadratic, scatter

LMAX, CHANNELS, ATOMS = 3, 3, 4
FRAMES = FrameRotation(LMAX, 2)
ENDS = Ends(torch.tensor([0, 2, 2, 3, 0, 2, 3]), ATOMS)  # atom 1 has no bond; odd and even numbers of bonds
N_ENTRIES = sum((2 * l + 1) ** 2 for l in range(1, LMAX + 1))


def inputs(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes]


@pytest.mark.parametrize("m", [0, 1, 2])
def test_gather_and_scatter_are_products_with_the_matrices(m: int) -> None:
    rows = FRAMES.rows[m]
    entries, x = inputs((7, N_ENTRIES), (ATOMS, (LMAX + 1) ** 2, CHANNELS))
    D = rows.matrices(entries, (LMAX + 1) ** 2)
    y = gather(entries, x, ENDS, rows)
    torch.testing.assert_close(y, D @ x[ENDS.atoms])
    back = torch.zeros_like(x).index_add(0, ENDS.atoms, D.transpose(1, 2) @ y)
    torch.testing.assert_close(scatter(entries, y, ENDS, rows, (LMAX + 1) ** 2), back)


@pytest.mark.parametrize("m", [0, 2])
def test_rotations_are_differentiable_twice(m: int) -> None:
    rows = FRAMES.rows[m]
    entries, x, y = inputs((7, N_ENTRIES), (ATOMS, (LMAX + 1) ** 2, CHANNELS), (7, len(rows.l), CHANNELS))
    operations: list[tuple[Callable[..., Tensor], tuple[Tensor, Tensor]]] = [
        (lambda e, f: gather(e, f, ENDS, rows), (entries, x)),
        (lambda e, g: scatter(e, g, ENDS, rows, (LMAX + 1) ** 2), (entries, y)),
    ]
    for operation, arguments in operations:
        assert torch.autograd.gradcheck(operation, arguments)
        assert torch.autograd.gradgradcheck(operation, arguments)


def test_bilinear_maps_are_those_of_the_tensor_and_differentiable_twice() -> None:
    tensor = np.random.default_rng(0).normal(size=(3, 4, 5))
    tensor[np.abs(tensor) < 0.5] = 0.0
    terms, square = Terms.of(tensor), Terms.of(tensor[:, :, :4])
    a, b = inputs((20, 4), (20, 5))
    expected = torch.einsum("cab,pa,pb->pc", torch.from_numpy(tensor), a, b)
    torch.testing.assert_close(bilinear(a, b, terms), expected)
    torch.testing.assert_close(quadratic(a, square), bilinear(a, a, square))
    few = (a[:3].detach().requires_grad_(), b[:3].detach().requires_grad_())
    assert torch.autograd.gradcheck(lambda x, y: bilinear(x, y, terms), few)
    assert torch.autograd.gradgradcheck(lambda x, y: bilinear(x, y, terms), few)
    assert torch.autograd.gradcheck(lambda x: quadratic(x, square), few[:1])
    assert torch.autograd.gradgradcheck(lambda x: quadratic(x, square), few[:1])


def test_single_precision_is_kept() -> None:
    entries, x = (t.detach().float() for t in inputs((7, N_ENTRIES), (ATOMS, 16, CHANNELS)))
    assert gather(entries, x, ENDS, FRAMES.rows[1]).dtype == torch.float32

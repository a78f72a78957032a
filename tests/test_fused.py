"""Pair heads with fixed weights: equal to the torch operations that define them, and differentiable twice."""

from __future__ import annotations

import pytest
import torch

from mlh_driver.network.coupling import bond_coupling
from mlh_driver.network.frames import FrameRotation, bond_rotations
from mlh_driver.network.fused import FusedBondBlocks
from mlh_driver.network.nodes import Bonds
from mlh_driver.network.rotation import Ends

LMAX, ATOMS, CHANNELS, RADIAL = 3, 4, 3, 5
FRAMES = FrameRotation(LMAX, 2).double()
ENDS = (Ends(torch.tensor([0, 2, 2, 3, 0]), ATOMS), Ends(torch.tensor([1, 0, 3, 3, 2]), ATOMS))
SP, S = (0, 1), (0,)


def head(first: tuple[int, ...], second: tuple[int, ...], same: bool, copies: int = 1) -> FusedBondBlocks:
    torch.manual_seed(0)
    made = FusedBondBlocks(
        FRAMES,
        bond_coupling(first, second),
        (first, second),
        same,
        channels=CHANNELS,
        hidden=(6, 6, 4),
        n_radial=RADIAL,
        copies=copies,
    )
    return made.double().requires_grad_(False)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    vectors, x, radial = (
        torch.randn(*shape, dtype=torch.float64, generator=generator)
        for shape in ((5, 3), (ATOMS, (LMAX + 1) ** 2, CHANNELS), (5, RADIAL))
    )
    entries = FRAMES.entries(bond_rotations(vectors, vectors.norm(dim=1)))
    return x.requires_grad_(), entries.requires_grad_(), radial.requires_grad_()


@pytest.mark.parametrize(
    ("first", "second", "same", "copies"),
    [(SP, SP, True, 1), (SP, SP, False, 4), (S, SP, False, 1), (S, S, True, 2)],
)
def test_fixed_weights_give_the_blocks_and_derivatives_of_the_definition(
    first: tuple[int, ...], second: tuple[int, ...], same: bool, copies: int
) -> None:
    blocks, (x, entries, radial) = head(first, second, same, copies), inputs()

    def evaluated() -> list[torch.Tensor]:
        found = blocks(x, Bonds(ENDS, entries, radial))
        weights = torch.linspace(-1.0, 1.0, found.numel(), dtype=found.dtype).reshape(found.shape)
        return [found, *torch.autograd.grad((found * weights).sum(), (x, entries, radial))]

    fused = evaluated()
    blocks.requires_grad_(True)  # so that the definition is used
    for one, other in zip(fused, evaluated(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


def test_blocks_with_fixed_weights_are_differentiable_twice() -> None:
    blocks = head(SP, SP, True)
    arguments = inputs()

    def evaluated(x: torch.Tensor, entries: torch.Tensor, radial: torch.Tensor) -> torch.Tensor:
        return blocks(x, Bonds(ENDS, entries, radial))

    assert torch.autograd.gradcheck(evaluated, arguments)
    assert torch.autograd.gradgradcheck(evaluated, arguments)

"""The optimizer of training: against Adam, on a problem whose scales do not lie along its elements."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mlh_driver.training.soap import SOAP


def stretched_quadratic(batch: int = 3) -> tuple[nn.Parameter, Callable[[], Tensor]]:
    """A stack of matrices W and |A (W - W0) B|^2, with A and B turned at random and conditions of 100."""
    generator = torch.Generator().manual_seed(0)

    def turned(n: int) -> Tensor:
        rotation = torch.linalg.qr(torch.randn(batch, n, n, generator=generator))[0]
        return rotation @ torch.diag(torch.logspace(0, -2, n)) @ rotation.mT

    A, B = turned(8), turned(5)
    goal = torch.randn(batch, 8, 5, generator=generator)
    W = nn.Parameter(torch.zeros(batch, 8, 5))
    return W, lambda: (A @ (W - goal) @ B).square().sum()


def after(steps: int, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> float:
    W, loss = stretched_quadratic()
    optimizer = make([W])
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    return float(loss().detach())


def test_turned_problems_converge_faster_than_with_adam() -> None:
    adam = after(300, lambda parameters: torch.optim.Adam(parameters, lr=0.02, betas=(0.9, 0.99)))
    assert after(300, lambda parameters: SOAP(parameters, lr=0.02)) < 0.2 * adam


def test_vectors_change_as_with_adam() -> None:
    start = torch.linspace(-1.0, 1.0, 7)
    ends = []
    for make in (torch.optim.Adam, SOAP):
        x = nn.Parameter(start.clone())
        optimizer = make([x], lr=0.01, betas=(0.9, 0.99))
        for _ in range(20 + (make is SOAP)):  # the first step of SOAP only looks
            optimizer.zero_grad()
            x.pow(4).sum().backward()
            optimizer.step()
        ends.append(x.detach())
    torch.testing.assert_close(*ends)


def test_a_rotated_problem_has_the_rotated_solution_path() -> None:
    """Adam depends on the axes of the elements; in its own basis SOAP must not."""
    generator = torch.Generator().manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
    goal = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    scale = torch.logspace(0, -2, 6, dtype=torch.float64)[:, None]
    ends = []
    for turn in (torch.eye(6, dtype=torch.float64), rotation):
        W = nn.Parameter(torch.zeros(6, 6, dtype=torch.float64))
        optimizer = SOAP([W], lr=0.02)
        for _ in range(40):
            optimizer.zero_grad()
            (scale * (turn.T @ W - goal)).square().sum().backward()
            optimizer.step()
        ends.append(turn.T @ W.detach())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("interrupted", [5, 25])
def test_a_restored_state_goes_on_the_same_way(interrupted: int) -> None:
    W, loss = stretched_quadratic()
    optimizer = SOAP([W], lr=0.02)
    for step in range(40):
        if step == interrupted:
            state = optimizer.state_dict()
            optimizer = SOAP([W], lr=0.02)
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss().detach()) == after(40, lambda parameters: SOAP(parameters, lr=0.02))

"""Density matrices against their defining properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import eigh

from mlh_driver.errors import SolverError
from mlh_driver.solvers import DenseSolver
from mlh_driver.solvers.dense import differentiable_density, fermi_occupations


def gapped_matrix(n: int = 20, filled: int = 8, gap: float = 3.0, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(n, n)))
    levels = np.concatenate([-gap - rng.random(filled), rng.random(n - filled)])
    return torch.tensor(basis * levels @ basis.T)


def overlap(n: int, seed: int = 1) -> torch.Tensor:
    A = torch.tensor(np.random.default_rng(seed).normal(size=(n, n)))
    return torch.eye(n, dtype=torch.float64) + 0.1 * (A @ A.T) / n


def test_zero_temperature_density_is_a_projector() -> None:
    H = gapped_matrix()
    state = DenseSolver().solve(H, None, 16.0, 0.0)
    P = state.density
    torch.testing.assert_close(P @ P, P)
    assert float(P.trace()) == pytest.approx(8, abs=1e-12)
    levels = np.linalg.eigvalsh(H.numpy())
    assert state.band_energy == pytest.approx(2 * levels[:8].sum())
    assert state.band_gap == pytest.approx(levels[8] - levels[7])
    assert state.entropy_term == 0


def test_non_orthogonal_basis_gives_P_and_W() -> None:
    H, S = gapped_matrix(), overlap(20)
    state = DenseSolver().solve(H, S, 16.0, 0.0)
    levels, vectors = eigh(H.numpy(), S.numpy())
    P, W = state.density, state.weighted
    torch.testing.assert_close(P @ S @ P, P)
    assert float((P @ S).trace()) == pytest.approx(8, abs=1e-12)
    torch.testing.assert_close(W, torch.tensor(vectors[:, :8] * levels[:8] @ vectors[:, :8].T))
    torch.testing.assert_close(W, P @ H @ P)


@pytest.mark.parametrize("kT", [0.05, 0.5])
def test_fermi_occupations_minimize_the_free_energy(kT: float) -> None:
    H = gapped_matrix(gap=0.3)
    state = DenseSolver().solve(H, None, 16.0, kT)
    levels = np.linalg.eigvalsh(H.numpy())
    f = fermi_occupations(levels, state.fermi_level, kT)
    assert f.sum() == pytest.approx(8, abs=1e-10)
    np.testing.assert_allclose(np.linalg.eigvalsh(state.density.numpy())[::-1], f, atol=1e-10)
    entropy = -2 * (f * np.log(f) + (1 - f) * np.log(1 - f)).sum()
    assert state.entropy_term == pytest.approx(kT * entropy)


def test_small_temperature_tends_to_the_ground_state() -> None:
    H = gapped_matrix()
    cold, ground = (DenseSolver().solve(H, None, 16.0, kT) for kT in (0.01, 0.0))
    torch.testing.assert_close(cold.density, ground.density)
    assert cold.fermi_level == pytest.approx(ground.fermi_level)


def test_odd_electrons_and_closed_gaps_are_refused_at_zero_temperature() -> None:
    H = gapped_matrix()
    with pytest.raises(SolverError, match="15 electrons"):
        DenseSolver().solve(H, None, 15.0, 0.0)
    degenerate = torch.diag(torch.tensor([-1.0, 0.0, 0.0, 1.0], dtype=torch.float64))
    with pytest.raises(SolverError, match="gap"):
        DenseSolver().solve(degenerate, None, 4.0, 0.0)
    state = DenseSolver().solve(H, None, 15.0, 0.025)
    assert float(state.density.trace()) == pytest.approx(7.5, abs=1e-10)


def test_bad_input_is_refused() -> None:
    H = gapped_matrix()
    with pytest.raises(SolverError, match="do not fit"):
        DenseSolver().solve(H, None, 100.0, 0.0)
    with pytest.raises(SolverError, match="positive definite"):
        DenseSolver().solve(H, -torch.eye(20, dtype=torch.float64), 16.0, 0.0)
    H[0, 0] = float("nan")
    with pytest.raises(SolverError, match="NaN"):
        DenseSolver().solve(H, None, 16.0, 0.0)


def test_density_response_is_the_derivative() -> None:
    H = gapped_matrix(n=6, filled=2).requires_grad_()
    symmetric = lambda A: differentiable_density(0.5 * (A + A.T), 2)  # noqa: E731
    assert torch.autograd.gradcheck(symmetric, (H,))

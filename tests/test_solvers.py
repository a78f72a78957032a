"""Density matrices against their defining properties, and the linear-time solvers against diagonalization."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from electronic_problems import block_matrix, disordered_solid, problem
from scipy.linalg import eigh

from mlh_driver.errors import InputError, SolverError
from mlh_driver.hamiltonian import BlockMatrix
from mlh_driver.solvers import (
    AutoSolver,
    DenseSolver,
    ElectronicProblem,
    ElectronicState,
    LinearScalingSolver,
    make_solver,
)
from mlh_driver.solvers import auto as auto_module
from mlh_driver.solvers.dense import differentiable_density, fermi_occupations, orthonormalized
from mlh_driver.solvers.purification import Purification, purify
from mlh_driver.solvers.sparse import SparsePattern
from mlh_driver.system import System


def gapped_matrix(n: int = 20, filled: int = 8, gap: float = 3.0, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(n, n)))
    levels = np.concatenate([-gap - rng.random(filled), rng.random(n - filled)])
    return torch.tensor(basis * levels @ basis.T)


def overlap(n: int, seed: int = 1) -> torch.Tensor:
    A = torch.tensor(np.random.default_rng(seed).normal(size=(n, n)))
    return torch.eye(n, dtype=torch.float64) + 0.1 * (A @ A.T) / n


def dense(H: torch.Tensor, S: torch.Tensor | None, n_electrons: float, kT: float) -> ElectronicState:
    return DenseSolver().solve(problem(H, S, n_electrons, kT))


def shuffled(original: ElectronicProblem, order: np.ndarray) -> ElectronicProblem:
    """The same atoms in another order."""
    n_atoms = len(order)
    H = original.H.dense()
    n = H.shape[0] // n_atoms
    orbitals = torch.from_numpy((order[:, None] * n + np.arange(n)).ravel())
    system = original.system
    return ElectronicProblem(
        block_matrix(H[orbitals][:, orbitals], [n] * n_atoms),
        None,
        original.n_electrons,
        original.kT,
        System(system.numbers[order], system.positions[order], system.cell),
    )


def test_zero_temperature_density_is_a_projector() -> None:
    H = gapped_matrix()
    state = dense(H, None, 16.0, 0.0)
    P = state.density.dense()
    torch.testing.assert_close(P @ P, P)
    assert float(P.trace()) == pytest.approx(8, abs=1e-12)
    levels = np.linalg.eigvalsh(H.numpy())
    assert state.band_energy == pytest.approx(2 * levels[:8].sum())
    assert state.band_gap == pytest.approx(levels[8] - levels[7])
    assert state.entropy_term == 0


@pytest.mark.parametrize("name", ["dense", "sp2"])
def test_non_orthogonal_basis_gives_P_and_W(name: str) -> None:
    H, S = gapped_matrix(), overlap(20)
    state = make_solver(name).solve(problem(H, S, 16.0, 0.0))
    levels, vectors = eigh(H.numpy(), S.numpy())
    assert state.energy_weighted is not None
    P, W = state.density.dense(), state.energy_weighted.dense()
    close = {"rtol": 0.0, "atol": 1e-6 if name == "sp2" else 1e-10}
    torch.testing.assert_close(P @ S @ P, P, **close)
    assert float((P @ S).trace()) == pytest.approx(8, abs=1e-9)
    torch.testing.assert_close(W, torch.tensor(vectors[:, :8] * levels[:8] @ vectors[:, :8].T), **close)
    torch.testing.assert_close(W, P @ H @ P, **close)
    assert state.band_energy == pytest.approx(2 * levels[:8].sum(), abs=1e-6)


@pytest.mark.parametrize("kT", [0.05, 0.5])
@pytest.mark.parametrize("name", ["dense", "foe"])
def test_fermi_occupations_minimize_the_free_energy(kT: float, name: str) -> None:
    H = gapped_matrix(gap=0.3)
    state = make_solver(name).solve(problem(H, None, 16.0, kT))
    levels = np.linalg.eigvalsh(H.numpy())
    f = fermi_occupations(levels, state.fermi_level, kT)
    tolerance = 1e-10 if name == "dense" else 1e-6
    assert f.sum() == pytest.approx(8, abs=tolerance)
    np.testing.assert_allclose(np.linalg.eigvalsh(state.density.dense().numpy())[::-1], f, atol=tolerance)
    entropy = -2 * (f * np.log(f) + (1 - f) * np.log(1 - f)).sum()
    assert state.entropy_term == pytest.approx(kT * entropy, abs=1e-6)


@pytest.mark.parametrize("kT", [0.0, 0.5])
def test_single_precision_costs_nothing_but_digits(kT: float) -> None:
    """Orbitals are orthonormal again to the accuracy of double precision; rotations are of second order."""
    H = gapped_matrix(n=120, filled=50)
    exact, single = (dense(h, None, 100.0, kT) for h in (H, H.float()))
    assert single.density.blocks.dtype == torch.float64
    torch.testing.assert_close(single.density.blocks, exact.density.blocks, rtol=0.0, atol=3e-6)
    assert float(single.density.dense().trace()) == pytest.approx(50.0, abs=1e-9)
    assert single.band_energy == pytest.approx(exact.band_energy, abs=1e-5)
    rough = torch.linalg.qr(torch.randn(30, 10, dtype=torch.float64)).Q + 1e-5 * torch.randn(30, 10).double()
    smooth = orthonormalized(rough)
    torch.testing.assert_close(smooth.T @ smooth, torch.eye(10).double(), rtol=0.0, atol=1e-8)


def test_small_temperature_tends_to_the_ground_state() -> None:
    H = gapped_matrix()
    cold, ground = (dense(H, None, 16.0, kT) for kT in (0.01, 0.0))
    torch.testing.assert_close(cold.density.blocks, ground.density.blocks)
    assert cold.fermi_level == pytest.approx(ground.fermi_level)


def test_odd_electrons_and_closed_gaps_are_refused_at_zero_temperature() -> None:
    H = gapped_matrix()
    degenerate = torch.diag(torch.tensor([-1.0, 0.0, 0.0, 1.0], dtype=torch.float64))
    for name in ("dense", "sp2"):
        with pytest.raises(SolverError, match="15 electrons"):
            make_solver(name).solve(problem(H, None, 15.0, 0.0))
        with pytest.raises(SolverError, match="gap"):
            make_solver(name).solve(problem(degenerate, None, 4.0, 0.0, n=2))
    basis = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    with pytest.raises(SolverError, match="gap"):
        dense((basis @ degenerate @ basis.T).float(), None, 4.0, 0.0)
    state = dense(H, None, 15.0, 0.025)
    assert float(state.density.dense().trace()) == pytest.approx(7.5, abs=1e-10)


def test_bad_input_is_refused() -> None:
    H = gapped_matrix()
    with pytest.raises(SolverError, match="do not fit"):
        dense(H, None, 100.0, 0.0)
    for name in ("dense", "sp2"):
        with pytest.raises(SolverError, match="positive definite"):
            make_solver(name).solve(problem(H, -torch.eye(20, dtype=torch.float64), 16.0, 0.0))
    with pytest.raises(SolverError, match="above zero"):
        make_solver("foe").solve(problem(H, None, 16.0, 0.0))
    with pytest.raises(InputError, match="positive"):
        make_solver("sp2", 0.0)
    H[0, 0] = float("nan")
    with pytest.raises(SolverError, match="NaN"):
        dense(H, None, 16.0, 0.0)


@pytest.mark.parametrize("kT", [0.0, 0.025, 1.0, 20.0])
def test_density_response_is_the_derivative(kT: float) -> None:
    H = gapped_matrix(n=6, filled=2).requires_grad_()
    symmetric = lambda A: differentiable_density(0.5 * (A + A.T), 2, kT)[0]  # noqa: E731
    assert torch.autograd.gradcheck(symmetric, (H,))


@pytest.mark.parametrize("split_eV", [0.0, 1e-9, 1e-3])
def test_hot_density_responds_smoothly_where_levels_meet(split_eV: float) -> None:
    """A pair of equal or nearly equal levels at the Fermi level, and two more far off."""
    Q, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.manual_seed(0)))
    levels = torch.tensor([-3.0, -0.5 * split_eV, 0.5 * split_eV, 4.0], dtype=torch.float64)
    H = ((Q * levels) @ Q.T).requires_grad_()
    symmetric = lambda A: differentiable_density(0.5 * (A + A.T), 2, 0.3)[0]  # noqa: E731
    assert torch.autograd.gradcheck(symmetric, (H,))


def test_hot_density_keeps_its_electrons_and_is_stationary() -> None:
    """The trace does not respond to H, and the derivative of the free energy by H is 2 P."""
    H, kT = gapped_matrix(n=8, filled=2).requires_grad_(), 5.0
    density, entropy_term = differentiable_density(H, 2, kT)
    (of_trace,) = torch.autograd.grad(density.trace(), H)
    assert float(density.detach().trace()) == pytest.approx(2.0)
    assert float(of_trace.abs().max()) < 1e-12
    state = dense(H.detach(), None, 4.0, kT)
    torch.testing.assert_close(density.detach(), state.density.dense())
    assert float(entropy_term) == pytest.approx(state.entropy_term) and state.entropy_term > 1.0

    def free_energy(step: float) -> float:
        moved = dense(H.detach() + step, None, 4.0, kT)
        return moved.band_energy - moved.entropy_term

    slope = (free_energy(1e-4) - free_energy(-1e-4)) / 2e-4
    assert slope == pytest.approx(2.0 * float(density.detach().sum()), rel=1e-5)


def test_without_truncation_purification_is_exact_element_by_element() -> None:
    """Also for atoms with different numbers of orbitals, whose blocks are padded."""
    for sizes in ([4] * 5, [4, 1, 4, 4, 1, 4, 2]):
        H = gapped_matrix(n=sum(sizes), seed=3)
        positions = np.random.default_rng(0).random((len(sizes), 3)) * 6
        system = System(np.full(len(sizes), 14), positions, 6 * np.eye(3))
        task = ElectronicProblem(block_matrix(H, sizes), None, 16.0, 0.0, system)
        exact = DenseSolver().solve(task)
        solver = LinearScalingSolver(Purification())
        for _ in range(2):  # by the trace first, then guided by the gap
            state = solver.solve(task)
            P = state.density.dense()
            torch.testing.assert_close(P @ P, P, rtol=0, atol=1e-6)
            torch.testing.assert_close(P, exact.density.dense(), rtol=0, atol=1e-6)
            assert state.band_energy == pytest.approx(exact.band_energy, abs=1e-6)
            assert (state.homo, state.lumo) == pytest.approx((exact.homo, exact.lumo), abs=0.01)


@pytest.mark.parametrize("name", ["sp2", "foe"])
def test_truncated_density_is_as_good_as_promised(name: str) -> None:
    task = disordered_solid((8, 7, 6))
    n_atoms = len(task.system)
    exact = DenseSolver().solve(task)
    tolerated_meV = 0.1
    solver = make_solver(name, tolerated_meV)
    assert isinstance(solver, LinearScalingSolver)
    state = solver.solve(task)
    assert solver._frozen is not None
    assert not solver._frozen.pattern.is_complete
    error = (state.band_energy - state.entropy_term) - (exact.band_energy - exact.entropy_term)
    assert abs(error) / n_atoms < 1e-3 * tolerated_meV
    electrons = 2 * float(state.density.orbital_populations().sum())
    assert abs(electrons - task.n_electrons) < 1e-6 * n_atoms
    assert float((state.density.blocks - exact.density.blocks).abs().max()) < 5e-3
    assert state.band_gap == pytest.approx(exact.band_gap, abs=0.02)


def test_energy_error_is_of_second_order_and_bounded_by_its_estimate() -> None:
    task = disordered_solid((9, 9, 9))
    n_atoms = len(task.system)
    exact = DenseSolver().solve(task)
    occupied = torch.linalg.eigh(task.H.dense())[1][:, : round(task.n_occupied)]
    norms = torch.linalg.matrix_norm(
        (occupied @ occupied.T).reshape(n_atoms, 2, n_atoms, 2).transpose(1, 2)
    ).numpy()
    vectors = task.system.positions[:, None] - task.system.positions
    vectors -= 27.0 * np.round(vectors / 27.0)
    distances = np.linalg.norm(vectors, axis=2)
    dropped, energies = [], []
    for radius in (4.5, 6.5, 8.5, 10.5):
        solver = LinearScalingSolver(Purification(), error_per_atom_meV=1e3)
        solver.radius = radius
        state = solver.solve(task)
        dropped.append((norms[distances > radius] ** 2).sum() ** 0.5)
        energies.append(abs(state.band_energy - exact.band_energy) / n_atoms)
    slope = np.polyfit(np.log(dropped), np.log(energies), 1)[0]
    assert 1.5 < slope < 2.5
    for tolerated_meV in (10.0, 1.0, 0.1, 0.01):
        state = LinearScalingSolver(Purification(), tolerated_meV).solve(task)
        assert abs(state.band_energy - exact.band_energy) / n_atoms < 1e-3 * tolerated_meV


@pytest.mark.parametrize("name", ["sp2", "foe"])
def test_order_of_atoms_does_not_matter(name: str) -> None:
    task = disordered_solid((6, 5, 5))
    order = np.random.default_rng(4).permutation(len(task.system))
    first = make_solver(name).solve(task)
    second = make_solver(name).solve(shuffled(task, order))
    assert second.band_energy == pytest.approx(first.band_energy, abs=1e-5)
    n = 2
    orbitals = (order[:, None] * n + np.arange(n)).ravel()
    inside = (first.density.with_blocks(torch.ones_like(first.density.blocks)).dense() != 0)[orbitals][
        :, orbitals
    ]
    difference = (second.density.dense() - first.density.dense()[orbitals][:, orbitals])[inside]
    assert float(difference.abs().max()) < 1e-4


def test_metals_are_refused_by_purification_and_taken_over_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    metal = disordered_solid((6, 6, 6), split=0.0)
    with pytest.raises(SolverError, match="gap"):
        LinearScalingSolver(Purification()).solve(metal)
    exact = DenseSolver().solve(metal)
    monkeypatch.setattr(auto_module, "DENSE_IS_FASTER", 10)
    solver = AutoSolver()
    state = solver.solve(metal)
    assert solver.last_used == "dense"
    free_energy = state.band_energy - state.entropy_term
    assert free_energy == pytest.approx(exact.band_energy - exact.entropy_term, abs=1e-4 * len(metal.system))
    monkeypatch.setattr(auto_module, "DENSE_IS_POSSIBLE", 10)
    cold = ElectronicProblem(metal.H, None, metal.n_electrons, 0.0, metal.system)
    with pytest.raises(SolverError, match="gap"):
        AutoSolver().solve(cold)


def test_auto_picks_by_size_and_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    insulator = disordered_solid((6, 5, 5))
    solver = AutoSolver()
    solver.solve(insulator)
    assert solver.last_used == "dense"
    monkeypatch.setattr(auto_module, "DENSE_IS_FASTER", 10)
    solver = AutoSolver()
    for _ in range(2):
        solver.solve(insulator)
        assert solver.last_used == "sp2"
    hot = ElectronicProblem(insulator.H, None, insulator.n_electrons, 0.5, insulator.system)
    exact = DenseSolver().solve(hot)
    assert solver.solve(hot).entropy_term == exact.entropy_term
    assert solver.last_used == "dense"
    monkeypatch.setattr(auto_module, "DENSE_IS_POSSIBLE", 10)
    state = solver.solve(hot)
    assert solver.last_used == "foe"
    assert state.entropy_term == pytest.approx(exact.entropy_term, abs=1e-4 * len(hot.system))
    assert state.fermi_level == pytest.approx(exact.fermi_level, abs=1e-3)
    solver.solve(hot)
    assert solver.last_used == "foe"


def test_auto_diagonalizes_where_nothing_else_works_and_that_is_possible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: LinearScalingSolver, problem: ElectronicProblem) -> None:
        raise SolverError(f"{self.name} gives up")

    monkeypatch.setattr(LinearScalingSolver, "solve", fail)
    monkeypatch.setattr(auto_module, "DENSE_IS_FASTER", 10)
    task, solver = disordered_solid(), AutoSolver()
    assert solver.solve(task).band_energy == DenseSolver().solve(task).band_energy
    assert solver.last_used == "dense"
    monkeypatch.setattr(auto_module, "DENSE_IS_POSSIBLE", 10)
    with pytest.raises(SolverError, match="foe gives up"):
        AutoSolver().solve(task)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13])
def test_sparse_products_are_those_of_dense_matrices(n: int, dtype: type) -> None:
    task = disordered_solid((3, 2, 2), n=n)
    pattern = SparsePattern(task.system, 20.0, task.H)
    slots = pattern.find(task.H.index.numpy())
    assert slots is not None and pattern.is_complete
    a = pattern.load(task.H, slots, dtype)
    product = pattern.product(a, a, scale=0.5, c=a, beta=2.0, shift=3.0)
    H = task.H.dense().numpy()
    expected = 0.5 * H @ H + 2.0 * H + 3.0 * np.eye(len(H))
    every = np.array(np.triu_indices(len(task.system)))
    like = BlockMatrix(torch.from_numpy(every), torch.zeros(every.shape[1], n, n), task.H.sizes)
    found = pattern.store(product, pattern.find(every), like).dense().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 if dtype is np.float32 else 1e-11)


def test_pattern_is_frozen_until_atoms_move_too_far() -> None:
    task = disordered_solid((6, 5, 5))
    solver = LinearScalingSolver(Purification())
    solver.solve(task)
    made = solver.patterns_made

    def moved(distance: float) -> ElectronicProblem:
        positions = task.system.positions.copy()
        positions[3, 1] += distance
        positions[5] += task.system.cell[0]  # leaving through the boundary is no move
        system = System(task.system.numbers, positions, task.system.cell)
        return ElectronicProblem(task.H, None, task.n_electrons, task.kT, system)

    solver.solve(moved(0.4))
    assert solver.patterns_made == made
    solver.solve(moved(0.6))
    assert solver.patterns_made == made + 1


def test_a_wrong_guess_of_the_gap_or_of_the_polynomials_does_no_harm() -> None:
    task = disordered_solid((6, 5, 5))
    exact = DenseSolver().solve(task)
    solver = LinearScalingSolver(Purification())
    solver.solve(task)
    assert solver._frozen is not None
    pattern = solver._frozen.pattern
    H = pattern.load(task.H, pattern.find(task.H.index.numpy()), np.float32)  # type: ignore[arg-type]
    bounds = (-8.0, 8.0)
    found = (exact.homo, exact.lumo)
    wrong_gaps = [(-6.0, -5.0), (4.0, 4.5), (exact.homo - 3.0, exact.homo - 2.9)]
    for gap, squarings in [*((gap, []) for gap in wrong_gaps), (found, [True] * 20), (found, [False] * 20)]:
        P = purify(pattern, H, task.n_occupied, bounds, gap, squarings)
        assert 2 * pattern.dot(P, H.astype(np.float64)) == pytest.approx(exact.band_energy, abs=0.02)


def test_what_truncation_takes_from_the_trace_does_not_restart_the_purification(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It grows with the number of atoms; here it is more than half a pair before the last step."""
    products = 0
    original = SparsePattern.product

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal products
        products += 1
        return original(*arguments, **options)

    monkeypatch.setattr(SparsePattern, "product", counted)
    task = disordered_solid((12, 12, 12), split=2.75, disorder=0.05)
    solver = LinearScalingSolver(Purification(), error_per_atom_meV=1e3)
    solver.radius = 6.1
    first = solver.solve(task)
    without_guess, products = products, 0
    second = solver.solve(task)
    assert products < 0.75 * without_guess
    assert second.band_energy == pytest.approx(first.band_energy, abs=1e-3 * 1728)
    assert float(second.density.orbital_populations().sum()) == pytest.approx(1728, abs=1e-3)

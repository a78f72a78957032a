"""Electrons are held near the predicted numbers, by potentials that agree with the charges that result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_model, small_system
from derivatives import assert_exact_forces, assert_exact_stress
from electronic_problems import disordered_solid
from electronic_problems import problem as chain
from scipy.optimize import check_grad

from mlh_driver.engine import Engine
from mlh_driver.errors import SolverError
from mlh_driver.results import TOLERATED_e
from mlh_driver.solvers import (
    ChargeHolder,
    DenseSolver,
    ElectronicProblem,
    ElectronicState,
    Solver,
    make_solver,
)
from mlh_driver.solvers.charge_response import (
    deviations_of,
    energy_of,
    hardness_of,
    potential_of,
    shifted,
)
from mlh_driver.system import Array, System

WARM_eV = 0.17


def electrons_of(problem: ElectronicProblem, solver: Solver) -> Array:
    return 2.0 * solver.solve(problem).density.orbital_populations().sum(dim=1).numpy()


def wrong_level(depth_eV: float = 6.0, kT: float = WARM_eV) -> tuple[ElectronicProblem, Array]:
    """A solid in which one atom's levels are wrong, and the electrons (N,) that its atoms ought to have."""
    problem = replace(disordered_solid(), kT=kT)
    right = electrons_of(problem, DenseSolver())
    wrong = np.zeros(len(right))
    wrong[7] = depth_eV
    return replace(problem, H=shifted(problem.H, wrong)), right


def test_potential_and_hardness_are_derivatives_of_the_energy() -> None:
    for d in (-0.7, -0.11, -0.05, 0.0, 0.1003, 0.35, 3.0):
        assert check_grad(lambda x: energy_of(x)[0], potential_of, np.array([d])) < 1e-5
        assert check_grad(lambda x: potential_of(x)[0], hardness_of, np.array([d])) < 1e-5
        if abs(d) > TOLERATED_e:
            assert deviations_of(potential_of(np.array([d])))[0] == pytest.approx(d)


def test_where_charges_agree_with_the_network_nothing_changes() -> None:
    problem, _ = wrong_level()
    bare = DenseSolver().solve(problem)
    electrons = electrons_of(problem, DenseSolver())
    holder = ChargeHolder()
    held = holder.solve(DenseSolver(), problem, electrons + 0.99 * TOLERATED_e)
    assert holder.solutions == 1
    assert not held.potentials.any() and not held.energies.any()
    assert held.state.band_energy == bare.band_energy
    assert torch.equal(held.state.density.blocks, bare.density.blocks)


@pytest.mark.parametrize("name", ["dense", "foe"])
@pytest.mark.parametrize("depth_eV", [6.0, -6.0])
def test_an_atom_with_wrong_levels_keeps_its_electrons(name: str, depth_eV: float) -> None:
    problem, right = wrong_level(depth_eV)
    lost = np.abs(electrons_of(problem, DenseSolver()) - right).max()
    held = ChargeHolder().solve(make_solver(name, 1e-3), problem, right)
    assert lost > 0.8
    assert np.abs(held.deviations).max() < 0.5 * lost


def test_the_state_is_the_minimum_of_the_energy() -> None:
    """The energy, a convex function of P, equals the concave function of potentials whose maximum it is."""
    problem, right = wrong_level()
    held = ChargeHolder().solve(DenseSolver(), problem, right)
    answer = DenseSolver().solve(replace(problem, H=shifted(problem.H, held.potentials)))
    electrons = 2.0 * answer.density.orbital_populations().sum(dim=1).numpy()
    assert electrons - right == pytest.approx(held.deviations, abs=1e-7)
    primal = held.state.band_energy - held.state.entropy_term + held.energies.sum()
    cost = held.potentials @ (right + held.deviations) - held.energies.sum()
    assert primal == pytest.approx(answer.band_energy - answer.entropy_term - cost, abs=1e-9)


def test_susceptibility_is_the_derivative_of_the_electrons() -> None:
    problem, _ = wrong_level()
    atoms = np.array([7, 3, 20])
    state = DenseSolver().solve(problem)
    assert state.susceptibility is not None
    found = state.susceptibility(atoms)
    for column, atom in enumerate(atoms):
        step = np.zeros(len(problem.system))
        step[atom] = 1e-4
        up, down = (
            electrons_of(replace(problem, H=shifted(problem.H, s * step)), DenseSolver()) for s in (1, -1)
        )
        assert found[:, column] == pytest.approx(((up - down) / 2e-4)[atoms], abs=1e-7)


@pytest.mark.parametrize(("name", "kT"), [("foe", WARM_eV), ("sp2", 0.02)])
def test_linear_time_solvers_find_the_same_state(name: str, kT: float) -> None:
    """Also without the derivatives that diagonalization gives."""
    problem, right = wrong_level(1.0, kT)
    right[7] += 0.3
    exact, linear = (
        ChargeHolder().solve(make_solver(solver, 1e-3), problem, right) for solver in ("dense", name)
    )
    assert np.abs(exact.potentials).max() > 0.5
    assert linear.potentials == pytest.approx(exact.potentials, abs=1e-3)
    assert linear.state.band_energy == pytest.approx(exact.state.band_energy, abs=1e-3)


def test_the_potentials_of_the_last_structure_are_a_good_start() -> None:
    problem, right = wrong_level()
    holder = ChargeHolder()
    first = holder.solve(DenseSolver(), problem, right)
    before = holder.solutions
    second = holder.solve(DenseSolver(), problem, right)
    assert holder.solutions == before + 1
    assert second.potentials == pytest.approx(first.potentials, abs=1e-7)


class _ErringAtFirst(DenseSolver):
    """As sp2 before another takes over: its first energy is too high by an amount of its own."""

    calls = 0

    def solve(self, problem: ElectronicProblem) -> ElectronicState:
        self.calls += 1
        state = super().solve(problem)
        off = 0.1 * len(problem.system) if self.calls == 1 else 0.0
        return replace(state, band_energy=state.band_energy + off)


def test_a_first_energy_that_errs_does_not_lock_the_search() -> None:
    problem, right = wrong_level()
    exact = ChargeHolder().solve(DenseSolver(), problem, right)
    held = ChargeHolder().solve(_ErringAtFirst(), problem, right)
    assert held.potentials == pytest.approx(exact.potentials, abs=1e-6)


def test_charges_that_do_not_settle_are_an_error_that_names_the_remedy() -> None:
    """Without temperature, atoms that share no orbital have two electrons or none."""
    levels = torch.diag(torch.tensor([-3.0, -2.0, 1.0, 2.0], dtype=torch.float64))
    alone = chain(levels, None, 4.0, 1e-9, n=1)
    with pytest.raises(SolverError, match="2000 K"):
        ChargeHolder().solve(DenseSolver(), alone, np.array([2.0, 1.0, 1.0, 0.0]))


def crowded(temperature_K: float) -> tuple[Engine, System]:
    """A random model, whose charges are far from those of its Hamiltonian."""
    engine = Engine(random_model(), electronic_temperature_K=temperature_K)
    system = small_system()
    assert engine.compute(system).charge_deviation > 2 * TOLERATED_e
    return engine, system


def test_forces_and_stress_are_exact_where_electrons_are_held() -> None:
    engine, system = crowded(8000.0)
    assert_exact_forces(engine, system)
    assert_exact_stress(engine, system)


def test_energies_of_atoms_sum_to_the_energy_where_electrons_are_held() -> None:
    engine, system = crowded(8000.0)
    results = engine.compute(system)
    assert results.energies.sum() == pytest.approx(results.energy, abs=1e-9)

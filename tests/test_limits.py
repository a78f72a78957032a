"""Where the training data end: a wall at short distances, and bounds of what the network predicts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from conftest import MINIMAL_SIO2, random_model, small_system
from derivatives import assert_exact_forces
from processes import ENVIRONMENT, REPOSITORY

from mlh_driver.data import read_structure
from mlh_driver.engine import Engine
from mlh_driver.graph import GraphBuilder
from mlh_driver.model import Model
from mlh_driver.network.limits import (
    FEATURES_EDGE,
    MARGIN,
    OF_ATOMS,
    OF_PAIRS,
    SOFTNESS,
    WALL_ONSET_A,
    WIDTH_A,
    WALL_FORCE_eV_A,
    saturated,
    wall,
)
from mlh_driver.results import TOLERATED_e
from mlh_driver.system import System
from mlh_driver.training.settings import read_settings
from mlh_driver.training.trainer import Trainer


def test_the_wall_is_smooth_and_holds_the_network_still_inside() -> None:
    """Energy, force and force constant are continuous at the inner radius and where saturation ends."""
    model = random_model()
    model.network.set_inner_radii(torch.full((3,), 1.9))
    engine = Engine(model, electronic_temperature_K=3000.0)

    def force(r: float) -> float:
        system = System(np.array([14, 14]), np.array([[0.0, 0, 0], [0, r, 0]]), 20.0 * np.eye(3))
        return float(engine.compute(system).forces[1, 1])

    for joint in (1.9, 1.9 - WIDTH_A):
        left, right = ((force(joint + s * 1e-5) - force(joint)) / (s * 1e-5) for s in (-1, 1))
        assert left == pytest.approx(right, abs=0.2 + 1e-2 * abs(right))
    # what is left besides the wall is the smooth potential of the charges
    assert force(1.0) == pytest.approx(WALL_FORCE_eV_A * 0.9**2 / (0.9**2 + WALL_ONSET_A**2), rel=1e-3)
    assert force(1.9) < force(1.6) < force(1.2) < WALL_FORCE_eV_A


def test_distances_outside_the_inner_radius_are_untouched() -> None:
    r = torch.linspace(1.9, 6.0, 50)
    inner = torch.full_like(r, 1.9)
    torch.testing.assert_close(saturated(r, inner), r)
    assert (wall(r, inner) == 0).all()


def test_the_wall_stands_below_the_shortest_distances_of_the_training_data(folder: Path) -> None:
    trainer = Trainer(read_settings(folder / "tiny.toml"))
    expected = torch.full((3,), torch.inf)
    for name in ("s0", "s1"):
        graph = GraphBuilder(MINIMAL_SIO2, 5.0).build(read_structure(folder / "data", name).system)
        distances = graph.pair_vectors.norm(dim=1).split(graph.kind_sizes)
        shortest = torch.stack([of_kind.min() for of_kind in distances]).float()
        expected = torch.minimum(expected, 0.98 * shortest)
    assert len(expected.unique()) == 3
    for network in (trainer.network, trainer.average):
        torch.testing.assert_close(network.inner_radii, expected)


def bounded_model(system: System) -> Model:
    """A random model that takes one structure for all of its training data."""
    model = random_model()
    with torch.no_grad(), model.network.bounds.measured():
        model.network(GraphBuilder(model.basis, model.network.settings.pair_cutoff_A).build(system))
    return model


def crushed(system: System, factor: float) -> System:
    return System(system.numbers, factor * system.positions, factor * system.cell)


def test_a_structure_of_the_training_is_within_all_bounds() -> None:
    system = small_system()
    before, after = (Engine(model).compute(system) for model in (random_model(), bounded_model(system)))
    assert after.energy == before.energy
    np.testing.assert_array_equal(after.forces, before.forces)


def test_whatever_is_beyond_its_bound_comes_back_to_it() -> None:
    bounds = bounded_model(small_system()).network.bounds
    kinds = torch.zeros(50, dtype=torch.long)
    for name in OF_ATOMS:
        limit = float(getattr(bounds, name)[0])
        values = limit * torch.linspace(0.0, 50.0, 50, dtype=torch.float64)[:, None]
        found = bounds.atoms(name, values, kinds)
        inside = values[:, 0] <= limit
        torch.testing.assert_close(found[inside], values[inside])
        assert float(found.max()) <= (1.0 + SOFTNESS) * limit * (1 + 1e-6)
    for name in OF_PAIRS:
        blocks = torch.full((50, 4, 4), 1e20, dtype=torch.float64)
        norms = bounds.pairs(name, blocks, torch.linspace(0.1, 6.0, 50).double(), kinds).norm(dim=(1, 2))
        assert float(norms.max()) <= (1.0 + SOFTNESS) * float(getattr(bounds, name).max()) * (1 + 1e-6)


def test_bounds_of_pairs_are_those_of_the_pairs_at_that_distance() -> None:
    bounds = random_model().network.bounds
    with bounds.measured():
        blocks = torch.tensor([3.0, 1.0]).reshape(2, 1, 1).double()
        bounds.pairs("bonds", blocks, torch.tensor([1.55, 4.55]).double(), torch.tensor([0, 0]))
    distances = torch.tensor([0.1, 1.6, 1.7, 3.0, 4.9]).double()
    found = bounds._at(bounds.bonds, distances, torch.zeros(5).long())
    closest, near, between, next_one, far = found.tolist()
    assert closest == near == pytest.approx(MARGIN * 3.0)
    assert MARGIN * 1.0 < between < MARGIN * 3.0
    assert next_one == far == pytest.approx(MARGIN * 1.0)


def test_features_far_from_the_training_data_come_back_to_their_edge() -> None:
    model = bounded_model(small_system())
    bounds, indicator = model.network.bounds, model.indicator
    assert bool(torch.isinf(bounds.edge).all())  # twelve atoms draw no edge
    bounds.edge.fill_(FEATURES_EDGE)
    species = torch.zeros(40, dtype=torch.long)
    means = indicator.means[species].double()
    directions = torch.randn(
        40, means.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    sizes = torch.logspace(-4, 6, 40, dtype=torch.float64)[:, None]
    features = torch.zeros(40, 16, means.shape[1], dtype=torch.float64)
    features[:, 0] = means + sizes * directions
    before = indicator(features[:, 0], species)
    found, energies = bounds.bounded_features(features, species)
    after = indicator(found[:, 0], species)
    inside = before < FEATURES_EDGE
    assert inside.any() and not inside.all()
    torch.testing.assert_close(after[inside], before[inside])
    assert float(after.max()) <= (1.0 + SOFTNESS) * FEATURES_EDGE * (1 + 1e-6)
    assert (energies[inside] == 0).all() and (energies[~inside] > 0).all()


def test_kinds_of_pairs_that_the_training_does_not_have_are_unbounded() -> None:
    bounds = random_model().network.bounds
    with bounds.measured():
        bounds.pairs("bonds", torch.ones(1, 1, 1).double(), torch.tensor([2.0]).double(), torch.tensor([0]))
    distances = torch.tensor([2.0, 2.0]).double().requires_grad_()
    blocks = torch.full((2, 1, 1), 50.0).double()
    found = bounds.pairs("bonds", blocks, distances, torch.tensor([0, 1]))
    (slopes,) = torch.autograd.grad(found.sum(), distances)
    assert found.detach().flatten().tolist() == [pytest.approx(MARGIN * (1.0 + SOFTNESS)), 50.0]
    assert bool(slopes.isfinite().all())


@pytest.mark.parametrize("factor", [0.85, 0.7])
def test_forces_are_exact_beyond_the_bounds(factor: float) -> None:
    system = crushed(small_system(), factor)
    engine = Engine(bounded_model(small_system()), electronic_temperature_K=8000.0)
    assert (
        engine.compute(system).energy
        != Engine(random_model(), electronic_temperature_K=8000.0).compute(system).energy
    )
    assert_exact_forces(engine, system, step_A=1e-4, rel=2e-6)


def test_forces_are_exact_where_everything_acts_that_holds_a_melt(model64: Model, host: Atoms) -> None:
    """Beyond the edge of the training data, with electrons held and atoms inside the wall."""
    atoms = host.copy()
    atoms.rattle(0.3, seed=1)
    engine = Engine(model64, electronic_temperature_K=2000.0)
    results = engine.compute(System.from_ase(atoms))
    assert results.extrapolation > FEATURES_EDGE
    assert results.charge_deviation > TOLERATED_e
    assert_exact_forces(engine, System.from_ase(atoms), step_A=1e-4)


def test_bounds_turn_with_the_structure() -> None:
    system = crushed(small_system(), 0.7)
    engine = Engine(bounded_model(small_system()), electronic_temperature_K=8000.0)
    turn = np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]) @ np.diag([1.0, -1, 1])
    turned = System(system.numbers, system.positions @ turn.T, system.cell @ turn.T)
    before, after = engine.compute(system), engine.compute(turned)
    assert after.energy == pytest.approx(before.energy, abs=1e-9)
    np.testing.assert_allclose(after.forces, before.forces @ turn.T, atol=1e-8)


def test_elements_of_the_hamiltonian_stay_finite_when_atoms_sit_on_top_of_each_other(host: Atoms) -> None:
    engine = Engine()
    ordinary = np.abs(engine.hamiltonian(System.from_ase(host))).max()
    numbers = np.tile([14, 8, 8], 8)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        side = 4.0 + seed  # an ordinary cell has 7 Å
        system = System(numbers, side * rng.random((24, 3)), side * np.eye(3))
        assert np.abs(engine.hamiltonian(system)).max() < 3.0 * ordinary


@pytest.mark.slow
def test_random_structures_relax_into_no_hole() -> None:
    """A part of ``python examples/search_holes.py --structures 500``."""
    done = subprocess.run(
        [sys.executable, "examples/search_holes.py", "--structures", "12", "--steps", "25"],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 holes in 12 structures" in done.stdout

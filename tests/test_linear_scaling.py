"""The engine in linear time: against diagonalization, a crystal solved in k space, and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import read
from conftest import CRISTOBALITE
from processes import REPOSITORY

import mlh_driver.network.nodes as nodes_module
from mlh_driver import Engine, System
from mlh_driver.hamiltonian import Assembly, BlockMatrix
from mlh_driver.model import Model
from mlh_driver.network import chunks


@pytest.fixture
def large(host: Atoms) -> System:
    """192 atoms, not on lattice sites."""
    atoms = host * (2, 1, 1)
    atoms.rattle(0.03, seed=5)
    return System.from_ase(atoms)


def test_sp2_agrees_with_diagonalization_and_makes_no_dense_matrix(
    large: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = Engine(solver="dense").compute(large)

    def refuse(*_: object) -> None:
        raise AssertionError("a dense matrix on the linear-time path")

    monkeypatch.setattr(BlockMatrix, "dense", refuse)
    monkeypatch.setattr(BlockMatrix, "like_dense", refuse)
    results = Engine(solver="sp2").compute(large)
    assert abs(results.energy - exact.energy) / len(large) < 1e-4
    assert np.abs(results.forces - exact.forces).max() < 2e-3
    assert np.abs(results.stress - exact.stress).max() < 1e-4
    assert np.abs(results.charges - exact.charges).max() < 1e-3
    assert abs(results.charges.sum()) < 1e-6 * len(large)
    assert results.band_gap == pytest.approx(exact.band_gap, abs=0.02)


def stretched(first: float, second: float, copies: int) -> System:
    """Cells of a vacancy side by side; in the first and the middle one its Si are pulled apart (Å)."""
    vacancy = read(REPOSITORY / "examples" / "vacancy.xyz")
    bond = vacancy.get_distance(0, 2, mic=True, vector=True)
    bond /= np.linalg.norm(bond)
    atoms = vacancy.repeat((copies, 1, 1))
    for cell, stretch in ((0, first), (copies // 2, second)):
        i = cell * len(vacancy)
        atoms.positions[i] -= 0.5 * stretch * bond
        atoms.positions[i + 2] += 0.5 * stretch * bond
    return System.from_ase(atoms)


def test_highest_level_that_goes_from_one_vacancy_to_another_is_followed(model64: Model) -> None:
    engine = Engine(model64, solver="sp2")
    engine.compute(stretched(0.16, 0.14, copies=4))
    last = stretched(0.05, 0.25, copies=4)
    found, exact = engine.compute(last), Engine(model64, solver="dense").eigenvalues(last)
    n_occupied = 4 * (4 * 32 + 6 * 63) // 2
    assert found.homo == pytest.approx(exact[n_occupied - 1], abs=0.02)
    assert found.lumo == pytest.approx(exact[n_occupied], abs=0.02)


def test_sp2_keeps_to_the_tolerated_error_of_a_stretched_vacancy_from_the_first_call_on() -> None:
    system = stretched(0.0, 0.3, copies=2)
    engine = Engine(solver="sp2")
    first, again = engine.compute(system), engine.compute(system)
    exact = Engine(engine.model, solver="dense").compute(system)
    assert again.energy == pytest.approx(first.energy, abs=1e-5)
    assert abs(first.energy - exact.energy) / len(system) < 1e-4


def test_a_vacancy_after_its_host_is_as_good_as_alone(host: Atoms) -> None:
    """The levels around the gap of the last structure are of no use there."""
    cell = host * (2, 1, 1)
    vacancy = cell.copy()
    del vacancy[int(np.flatnonzero(vacancy.symbols == "O")[5])]
    engine, system = Engine(solver="sp2"), System.from_ase(vacancy)
    engine.compute(System.from_ase(cell))
    found, again = engine.compute(system), engine.compute(system)
    exact = Engine(engine.model, solver="dense").compute(system)
    assert abs(found.energy - exact.energy) / len(system) < 1e-4
    assert np.abs(found.forces - exact.forces).max() < 3e-3
    assert again.energy == pytest.approx(found.energy, abs=1e-5)


def test_fermi_level_in_a_gap_does_not_depend_on_earlier_calls(host: Atoms) -> None:
    engine, system = Engine(solver="foe"), System.from_ase(host)
    first = engine.compute(system)
    shaken = host.copy()
    shaken.rattle(0.1, seed=1)
    engine.compute(System.from_ase(shaken))
    assert engine.compute(system).fermi_level == pytest.approx(first.fermi_level, abs=0.02)
    assert first.fermi_level == pytest.approx(0.5 * (first.homo + first.lumo), abs=1e-12)


def test_hot_electrons_in_linear_time(large: System) -> None:
    exact = Engine(solver="dense", electronic_temperature_K=8000.0).compute(large)
    results = Engine(solver="foe", electronic_temperature_K=8000.0).compute(large)
    assert abs(results.energy - exact.energy) / len(large) < 1e-4
    assert np.abs(results.forces - exact.forces).max() < 2e-3
    assert results.electronic_entropy == pytest.approx(exact.electronic_entropy, abs=1e-4 * len(large))
    assert results.fermi_level == pytest.approx(exact.fermi_level, abs=1e-3)


@pytest.mark.parametrize(("solver", "kelvin"), [("sp2", 300.0), ("foe", 8000.0)])
def test_forces_are_the_derivative_of_the_energy_under_truncation(
    large: System, model64: Model, solver: str, kelvin: float
) -> None:
    engine = Engine(model64, solver=solver, electronic_temperature_K=kelvin)
    forces = engine.compute(large).forces
    direction = np.random.default_rng(1).normal(size=forces.shape)
    direction /= np.linalg.norm(direction)
    step = 0.01

    def energy(distance: float) -> float:
        moved = System(large.numbers, large.positions + distance * direction, large.cell)
        return engine.compute(moved).energy

    slope = (energy(step) - energy(-step)) / (2 * step)
    assert slope == pytest.approx(-float((forces * direction).sum()), abs=2e-3)


def test_crystal_of_2940_atoms_against_k_space() -> None:
    """The supercell at Gamma holds the 245 k points of the primitive cell, each a 48 x 48 problem."""
    repeat = np.array([7, 7, 5])
    system = System.from_ase(CRISTOBALITE * tuple(repeat))
    n_atoms, n_cell = len(system), len(CRISTOBALITE)
    engine = Engine(solver="sp2")
    results = engine.compute(system)

    graph = engine._graph(system)
    with torch.no_grad():
        H = Assembly(engine.model.network(graph), engine._atoms(system).sizes).hamiltonian()
    i, j = H.index.numpy()
    blocks = H.blocks.numpy()
    first = np.zeros((n_cell, n_atoms, 4, 4))  # rows of the first primitive cell
    upper, lower = i < n_cell, j < n_cell
    first[i[upper], j[upper]] = blocks[upper]
    first[j[lower], i[lower]] = blocks[lower].transpose(0, 2, 1)
    translations = np.stack(np.meshgrid(*(np.arange(k) for k in repeat), indexing="ij"), -1).reshape(-1, 3)
    first = first.reshape(n_cell, len(translations), n_cell, 4, 4)
    levels = []
    for k in translations / repeat:
        phases = np.exp(2j * np.pi * translations @ k)
        at_k = np.einsum("arbxy,r->axby", first, phases).reshape(4 * n_cell, 4 * n_cell)
        levels.append(np.linalg.eigvalsh(at_k))
    energies = np.sort(np.concatenate(levels))
    n_occupied = round(engine.model.basis.valences[graph.species.numpy()].sum() / 2)
    band_energy = 2 * energies[:n_occupied].sum()
    assert abs(results.band_energy - band_energy) / n_atoms < 1e-4
    assert results.homo == pytest.approx(energies[n_occupied - 1], abs=0.03)
    assert results.lumo == pytest.approx(energies[n_occupied], abs=0.03)


def test_parts_of_a_large_system_add_up(host: Atoms, model64: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bonds and atoms in many parts, recomputed in the backward pass, give the same as all at once."""
    system = System.from_ase(host)
    whole = Engine(model64).compute(system)
    monkeypatch.setattr(chunks, "BONDS", 500)
    monkeypatch.setattr(chunks, "BONDS_AT_ONCE", 500)
    monkeypatch.setattr(nodes_module, "ATOMS", 20)
    parts = Engine(model64).compute(system)
    assert parts.energy == pytest.approx(whole.energy, abs=1e-8)
    np.testing.assert_allclose(parts.forces, whole.forces, atol=1e-9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("solver", ["dense", "sp2"])
def test_network_on_a_cuda_device(host: Atoms, solver: str) -> None:
    system = System.from_ase(host)
    on_cpu = Engine().compute(system)
    on_gpu = Engine(device="cuda", solver=solver).compute(system)
    assert abs(on_gpu.energy - on_cpu.energy) / len(system) < 1e-4
    assert np.abs(on_gpu.forces - on_cpu.forces).max() < 2e-3

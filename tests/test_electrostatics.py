"""The potential of distant charges: Madelung's constant, a plain sum over G, derivatives, neutrality."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from conftest import MINIMAL_SIO2, random_model, small_system
from scipy.fft import next_fast_len
from scipy.special import erfc
from torch import Tensor
from vesin import NeighborList

from mlh_driver.constants import COULOMB_eV_A
from mlh_driver.engine import Engine
from mlh_driver.graph import GraphBuilder
from mlh_driver.network.electrostatics import LongRange, fast_length, mesh_potential
from mlh_driver.system import System
from mlh_driver.training.samples import Sample
from mlh_driver.training.screening import fit_screening

SMEARING_A = 1.5
MADELUNG_NACL = 1.7475645946


def random_charges(n: int = 24) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Positions, also outside of a skew cell, the cell, monopoles and dipoles."""
    generator = torch.Generator().manual_seed(1)
    cell = torch.tensor([[9.3, 0.5, 0.0], [0.0, 8.2, -1.0], [2.0, 0.0, 10.0]], dtype=torch.float64)
    positions = (3.0 * torch.rand(n, 3, generator=generator, dtype=torch.float64) - 1.0) @ cell
    monopoles = torch.randn(n, generator=generator, dtype=torch.float64)
    dipoles = 0.2 * torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return positions, cell, monopoles, dipoles


def plain_sum(positions: Tensor, cell: Tensor, monopoles: Tensor, dipoles: Tensor) -> tuple[Tensor, Tensor]:
    """The sum over G as it stands in the module's docstring."""
    integers = torch.cartesian_prod(*[torch.arange(-9.0, 10.0, dtype=torch.float64)] * 3)
    G = integers[integers.abs().sum(dim=1) > 0] @ (2.0 * torch.pi * torch.linalg.inv(cell).T)
    squares = G.square().sum(dim=1)
    weights = torch.exp(-0.5 * SMEARING_A**2 * squares) / squares
    phases = torch.exp(-1j * (positions @ G.T))
    source = ((monopoles[:, None] - 1j * (dipoles @ G.T)) * phases).sum(dim=0) * weights
    factor = 4.0 * torch.pi * COULOMB_eV_A / torch.linalg.det(cell).abs()
    waves = phases.conj() * source
    return factor * waves.sum(dim=1).real, factor * (1j * waves @ G.to(waves.dtype)).real


def test_mesh_agrees_with_the_plain_sum():
    charges = random_charges()
    potential, gradient = mesh_potential(*charges, SMEARING_A)
    expected, expected_gradient = plain_sum(*charges)
    assert float(expected.abs().max()) > 5.0
    torch.testing.assert_close(potential, expected, atol=2e-5, rtol=0.0)
    torch.testing.assert_close(gradient, expected_gradient, atol=2e-5, rtol=0.0)


def test_lengths_of_the_mesh_are_those_of_scipy():
    assert all(fast_length(n) == next_fast_len(n, real=True) for n in range(1, 2000))


def test_a_lattice_may_be_described_by_skewed_vectors():
    positions, cell, *multipoles = random_charges()
    straight = mesh_potential(positions, cell, *multipoles, SMEARING_A)
    other = torch.tensor([[1, 0, 0], [1, 1, 0], [-2, 1, 1]], dtype=cell.dtype) @ cell
    for found, expected in zip(
        mesh_potential(positions, other, *multipoles, SMEARING_A), straight, strict=True
    ):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0.0)


def test_with_the_short_range_part_it_gives_the_madelung_constant_of_rock_salt():
    a = 5.64
    sites = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    positions, charges = 0.5 * a * sites, np.array([1.0] * 4 + [-1.0] * 4)
    potential, _ = mesh_potential(
        torch.tensor(positions),
        a * torch.eye(3, dtype=torch.float64),
        torch.tensor(charges),
        torch.zeros(8, 3, dtype=torch.float64),
        SMEARING_A,
    )
    i, j, d = NeighborList(cutoff=8.0 * SMEARING_A, full_list=True).compute(
        positions, a * np.eye(3), periodic=True, quantities="ijd"
    )
    width = np.sqrt(2.0) * SMEARING_A
    short = np.bincount(i, charges[j] * erfc(d / width) / d) - charges * 2.0 / (np.sqrt(np.pi) * width)
    total = potential.numpy() + COULOMB_eV_A * short
    np.testing.assert_allclose(total, -charges * MADELUNG_NACL * COULOMB_eV_A / (0.5 * a), rtol=1e-6)


def test_derivatives_to_second_order_by_finite_differences():
    inputs = [x.requires_grad_() for x in random_charges(4)]
    assert torch.autograd.gradcheck(lambda *x: mesh_potential(*x, SMEARING_A), inputs)
    assert torch.autograd.gradgradcheck(lambda *x: mesh_potential(*x, SMEARING_A), inputs)


def test_the_potential_is_the_derivative_of_the_energy_by_the_charges():
    positions, cell, monopoles, dipoles = random_charges()
    monopoles.requires_grad_()
    dipoles.requires_grad_()
    potential, gradient = mesh_potential(positions, cell, monopoles, dipoles, SMEARING_A)
    energy = 0.5 * ((monopoles * potential).sum() + (dipoles * gradient).sum())
    by_monopole, by_dipole = torch.autograd.grad(energy, (monopoles, dipoles))
    torch.testing.assert_close(by_monopole, potential)
    torch.testing.assert_close(by_dipole, gradient)


def test_the_energy_of_an_atom_takes_back_what_the_levels_count_twice():
    positions, cell, electrons, dipoles = random_charges()
    long_range = LongRange(4, 2, 3, 3, SMEARING_A).double()
    long_range.charge_factor.fill_(0.7)
    long_range.dipole_factors.copy_(torch.tensor([-0.3, 0.4]))
    numbers = np.where(np.arange(len(positions)) % 2, 14, 8)
    graph = GraphBuilder(MINIMAL_SIO2, 1.0).build(System(numbers, positions.numpy(), cell.numpy()))
    charges, moments = 0.7 * electrons, long_range.dipole_factors[graph.species, None] * dipoles
    potential, gradient = plain_sum(positions, cell, charges, moments)
    expected = 0.5 * (charges * potential + (moments * gradient).sum(dim=1)) - electrons * potential
    field = long_range.field(graph, torch.cat([electrons[:, None], dipoles], dim=1))
    torch.testing.assert_close(field.energies, expected, atol=1e-4, rtol=0.0)


def test_atoms_exchange_charge_and_an_isolated_atom_has_none():
    network = random_model().network
    captured: dict[str, Tensor] = {}

    def capture(_module: object, inputs: tuple, _output: object) -> None:
        graph, *rest = inputs
        found = network.long_range.multipoles(graph.species, *rest)
        captured["n"], captured["m"] = found[:, 0], found[:, 1:]

    handle = network.long_range.register_forward_hook(capture)
    builder = GraphBuilder(MINIMAL_SIO2, network.settings.pair_cutoff_A)
    network(builder.build(small_system()))
    assert float(captured["n"].abs().min()) > 1e-3
    assert float(captured["m"].norm(dim=1).min()) > 1e-3
    assert float(captured["n"].sum()) == pytest.approx(0.0, abs=1e-12)
    lone = System(np.array([8]), np.zeros((1, 3)), 20.0 * np.eye(3))
    energy = network(builder.build(lone)).coulomb_energies
    assert float(captured["n"].abs().max()) == 0.0
    assert float(energy.abs().max()) == 0.0
    handle.remove()


def test_distant_atoms_feel_each_other():
    """Two molecules beyond every cutoff: the potential of one reaches the other, as 1/r or faster."""
    network = random_model().network
    builder = GraphBuilder(MINIMAL_SIO2, network.settings.pair_cutoff_A)
    molecule = np.array([[0.0, 0.0, 0.0], [1.6, 0.0, 0.0], [0.3, 1.7, 0.0]])
    cell = np.diag([40.0, 30.0, 30.0])

    def onsite(distance: float) -> Tensor:
        positions = np.concatenate([molecule, molecule + distance * np.eye(3)[2]])
        return network(builder.build(System(np.array([14, 8, 8] * 2), positions, cell))).onsite

    near, far = onsite(8.0), onsite(15.0)
    assert float((near - far).abs().max()) > 1e-4


def test_screening_recovers_the_factors_with_which_labels_were_made():
    """On-site levels that are a potential of known factors, and depend on neighbors, which must not matter.

    On a lattice, where waves are orthogonal.
    """
    factors = torch.tensor([-0.4, 0.5], dtype=torch.float64)

    def sample(seed: int, cell_A: float = 12.0, charge_factor: float = 0.6) -> Sample:
        positions = 3.0 * np.array(list(np.ndindex(4, 4, 4)), dtype=float)
        numbers = np.where(np.random.default_rng(seed).random(64) < 0.5, 8, 14)
        graph = GraphBuilder(MINIMAL_SIO2, 5.0).build(System(numbers, positions, cell_A * np.eye(3)))
        generator = torch.Generator().manual_seed(seed)
        multipoles = 0.1 * torch.randn(64, 4, generator=generator, dtype=torch.float64)
        dipoles = factors[graph.species, None] * multipoles[:, 1:]
        charges = charge_factor * multipoles[:, 0]
        levels, _ = mesh_potential(graph.positions, graph.cell, charges, dipoles, SMEARING_A)
        of_atom = torch.where(graph.species == 1, 0.2 + 0.1 * multipoles[:, 0], 0.0)
        i, j = graph.pair_index[:, graph.pair_vectors.norm(dim=1) < 3.1]
        levels = levels.index_add(0, i, of_atom[j]).index_add(0, j, of_atom[i])
        return Sample(
            name="made up",
            graph=graph,
            sizes=torch.full((64,), 4),
            neutral=torch.zeros(256),
            n_occupied=0,
            hamiltonian=torch.diag(levels.repeat_interleave(4)),
            multipoles=multipoles,
            orbitals=None,
            occupied=None,
            binding=0.0,
            forces=torch.zeros(64, 3),
            virial=None,
        )

    network = random_model().network
    fit_screening(network, [sample(seed) for seed in range(4)])
    smeared = np.exp(-0.5 * (SMEARING_A * 2.0 * np.pi / 12.0) ** 2)
    assert float(network.long_range.charge_factor) == pytest.approx(0.6 * smeared, rel=0.02)
    torch.testing.assert_close(network.long_range.dipole_factors, factors * smeared, rtol=0.0, atol=0.02)
    few = random_model().network
    before = few.long_range.charge_factor.clone()
    fit_screening(few, [sample(0)])  # six equations for seven unknowns
    fit_screening(few, [sample(seed, cell_A=24.0) for seed in range(4)])  # a cluster: waves look alike there
    fit_screening(few, [sample(seed, charge_factor=-0.6) for seed in range(4)])  # reversed, not screened
    assert torch.equal(few.long_range.charge_factor, before)


def test_the_mesh_is_fine_enough_for_the_shipped_model(engine64: Engine, vacancy: Atoms):
    """Wherever the atoms lie on it: the energy of all 95 atoms, the forces and their sum."""
    found = []
    for shift in np.random.default_rng(0).random((3, 3)):
        moved = vacancy.copy()
        moved.positions += shift
        found.append(engine64.compute(System.from_ase(moved)))
    assert np.ptp([results.energy for results in found]) < 1e-5
    assert np.ptp([results.forces for results in found], axis=0).max() < 1e-5
    assert np.abs(found[0].forces.sum(axis=0)).max() < 1e-5

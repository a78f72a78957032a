"""The network's exact properties: symmetry, Hermiticity, smoothness."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from conftest import MINIMAL_SIO2, random_model, small_system
from e3nn import o3
from scipy.spatial.transform import Rotation

from mlh_driver.basis import OrbitalBasis
from mlh_driver.engine import Engine
from mlh_driver.hamiltonian import Assembly
from mlh_driver.network.coupling import bond_coupling, onsite_couplings
from mlh_driver.network.energy import ManyBodyEnergy
from mlh_driver.network.frames import FrameRotation, bond_rotations
from mlh_driver.network.heads import OnsiteBlocks
from mlh_driver.network.network import NetworkSettings
from mlh_driver.network.nodes import SphereProduct
from mlh_driver.network.radial import RadialBasis, envelope
from mlh_driver.system import System

REFLECTION = np.diag([1.0, -1.0, 1.0])


def turned(system: System, matrix: np.ndarray) -> System:
    return System(system.numbers, system.positions @ matrix.T, system.cell @ matrix.T)


def orbital_matrix(matrix: np.ndarray, n_atoms: int) -> np.ndarray:
    one = np.eye(4)
    one[1:, 1:] = matrix
    return np.kron(np.eye(n_atoms), one)


@pytest.mark.parametrize(
    "matrix",
    [Rotation.random(random_state=4).as_matrix(), -np.eye(3), REFLECTION],
    ids=["rotation", "inversion", "reflection"],
)
def test_hamiltonian_and_energies_turn_with_the_structure(matrix: np.ndarray) -> None:
    engine, system = Engine(random_model()), small_system()
    D = orbital_matrix(matrix, len(system))
    H, turned_H = engine.hamiltonian(system), engine.hamiltonian(turned(system, matrix))
    assert np.abs(H).max() > 0.1
    np.testing.assert_allclose(turned_H, D @ H @ D.T, atol=1e-12)
    before, after = engine.compute(system), engine.compute(turned(system, matrix))
    assert after.energy == pytest.approx(before.energy, abs=1e-10)
    np.testing.assert_allclose(after.forces, before.forces @ matrix.T, atol=1e-10)
    np.testing.assert_allclose(after.stress, matrix @ before.stress @ matrix.T, atol=1e-10)


def test_hamiltonian_is_hermitian_and_real() -> None:
    """Elements between two atoms are stored once; those of one atom are there twice."""
    engine, system = Engine(random_model()), small_system()
    with torch.no_grad():
        blocks = engine.model.network(engine._graph(system))
    H = Assembly(blocks, engine._atoms(system).sizes).hamiltonian()
    onsite = H.blocks[H.diagonal]
    assert onsite.dtype == torch.float64 and abs(onsite).max() > 0.1
    torch.testing.assert_close(onsite, onsite.transpose(1, 2), rtol=0.0, atol=0.0)


def test_translation_and_permutation_change_nothing_else() -> None:
    """Up to the mesh of the long-ranged potential, which stays in place when the atoms move."""
    engine, system = Engine(random_model()), small_system()
    order = np.random.default_rng(0).permutation(len(system))
    moved = System(system.numbers[order], system.positions[order] + [3.0, -20.0, 0.7], system.cell)
    before, after = engine.compute(system), engine.compute(moved)
    assert after.energy == pytest.approx(before.energy, abs=1e-6)
    np.testing.assert_allclose(after.forces, before.forces[order], atol=1e-5)
    np.testing.assert_allclose(after.charges, before.charges[order], atol=1e-6)


def test_single_precision_agrees_with_double() -> None:
    model = random_model()
    system = small_system()
    double = Engine(model).hamiltonian(system)
    model.network.float()
    np.testing.assert_allclose(Engine(model).hamiltonian(system), double, atol=2e-5)


def test_bonds_along_the_axes_have_finite_derivatives() -> None:
    """Crystals have bonds along x, y and z, where the angle of a local frame is ill-defined."""
    positions = 2.0 * np.array(list(itertools.product(range(3), repeat=3)), dtype=float)
    numbers = np.where(np.arange(27) % 3 == 0, 14, 8)
    results = Engine(random_model(), electronic_temperature_K=3000.0).compute(
        System(numbers, positions, 6.0 * np.eye(3))
    )
    assert np.isfinite(results.forces).all()


@pytest.mark.parametrize("cutoff", ["pair_cutoff_A", "message_cutoff_A", "hop_cutoff_A"])
def test_hamiltonian_energies_and_two_derivatives_are_continuous_at_the_cutoffs(cutoff: str) -> None:
    """Third differences over the square of the step vanish with the step; at a jump of f'' they do not."""
    model = random_model()
    rc = getattr(model.network.settings, cutoff)
    engine = Engine(model)

    def values(r: float) -> np.ndarray:
        positions = np.array([[0, 0, 0], [0, r, 0], [1.5, 0.3, 0.4]])
        system = System(np.array([14, 8, 8]), positions, 30.0 * np.eye(3))
        energies = model.network(engine.graphs.build(system)).energies.numpy()
        return np.concatenate([engine.hamiltonian(system).ravel(), energies])

    def jump(step: float) -> float:
        f = [values(rc + k * step) for k in (-1, 0, 1, 2)]
        return float(abs(f[3] - 3 * f[2] + 3 * f[1] - f[0]).max()) / step**2

    large, small = jump(2e-2), jump(1e-3)
    assert small < 0.1 * large + 1e-6


def test_an_isolated_atom_has_no_double_counting_energy() -> None:
    engine = Engine(random_model())
    atom = System(np.array([8]), np.zeros((1, 3)), 30.0 * np.eye(3))
    alone = engine.compute(atom)
    assert engine.model.network(engine.graphs.build(atom)).energies.tolist() == [0.0]
    far = engine.compute(System(np.array([8, 8]), np.array([[0, 0, 0], [0, 15.0, 0]]), 30.0 * np.eye(3)))
    assert far.energy == pytest.approx(2 * alone.energy, abs=1e-9)
    np.testing.assert_allclose(far.forces, 0.0, atol=1e-12)


def test_frames_turn_bonds_to_y_and_are_rotations() -> None:
    vectors = torch.cat([torch.eye(3), -torch.eye(3), torch.randn(20, 3)]).double()
    distances = vectors.norm(dim=1)
    R = bond_rotations(vectors, distances)
    expected = torch.zeros_like(vectors)
    expected[:, 1] = distances
    torch.testing.assert_close((R @ vectors[:, :, None])[:, :, 0], expected)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(len(R), dtype=torch.float64))


def test_wigner_matrices_are_those_of_e3nn() -> None:
    from e3nn import o3

    frames = FrameRotation(lmax=4, m_max=2).double()
    R = torch.tensor(Rotation.random(5, random_state=1).as_matrix())
    entries = frames.entries(R)
    for l in range(5):
        matrix = frames.wigner(entries, l)
        expected = o3.Irrep(l, (-1) ** l).D_from_matrix(R)
        torch.testing.assert_close(matrix, expected, atol=3e-6, rtol=0)  # e3nn goes through angles
        torch.testing.assert_close(
            matrix @ matrix.transpose(1, 2), torch.eye(2 * l + 1).double().expand_as(matrix)
        )


def test_sphere_products_are_exactly_equivariant_and_of_third_order() -> None:
    product = SphereProduct(lmax=3, channels=4).double()
    x = torch.randn(6, 16, 4, dtype=torch.float64)
    species = torch.zeros(6, dtype=torch.long)
    rotation = torch.tensor(Rotation.random(random_state=2).as_matrix())[None]
    frames = FrameRotation(3, 2)
    D = torch.block_diag(*(frames.wigner(frames.entries(rotation), l)[0] for l in range(4)))
    torch.testing.assert_close(product(D @ x, species), D @ product(x, species))
    second, third = product(x, species).chunk(2, dim=-1)
    second2, third2 = product(2 * x, species).chunk(2, dim=-1)
    torch.testing.assert_close(second2, 4 * second)
    torch.testing.assert_close(third2, 8 * third)


@pytest.mark.parametrize("shells", [((0,), (0, 1)), ((0, 1), (0, 1)), ((0, 0, 1, 2), (0, 1, 1))])
def test_bond_coupling_is_a_complete_orthonormal_basis(shells: tuple[tuple[int, ...], ...]) -> None:
    matrix = bond_coupling(*shells).matrix
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix), dtype=torch.float64))
    assert matrix.shape[0] == matrix.shape[1]


def test_onsite_couplings_span_the_symmetric_blocks_of_s_and_p() -> None:
    blocks = torch.cat([c.reshape(-1, 4, 4) for c in onsite_couplings((0, 1)) if c.numel()])
    torch.testing.assert_close(blocks, blocks.transpose(1, 2))
    assert torch.linalg.matrix_rank(blocks.reshape(len(blocks), -1)) == 10


@pytest.mark.parametrize("shells", [(0, 2), (1,), (2,)])
def test_onsite_blocks_of_any_shells_can_be_made(shells: tuple[int, ...]) -> None:
    size = sum(2 * l + 1 for l in shells)
    blocks = OnsiteBlocks(4, shells, 3).double()(torch.randn(5, 25, 3, dtype=torch.float64))
    assert blocks.shape == (5, size, size)
    torch.testing.assert_close(blocks, blocks.transpose(1, 2))


def test_a_basis_with_d_shells_and_different_sizes_works_too() -> None:
    """The basis belongs to the model: nothing but its settings assumes s + p."""
    basis = OrbitalBasis(
        species=("O", "Si"),
        shells=((0, 1), (0, 1, 2)),
        occupations=(MINIMAL_SIO2.occupations[0], (*MINIMAL_SIO2.occupations[1], *[0.0] * 5)),
    )
    settings = NetworkSettings(
        lmax=4,
        channels=4,
        pair_channels=4,
        pair_hidden=(8, 6, 4, 4, 2),
        hop_hidden=(4, 4, 2, 2, 2),
        pair_cutoff_A=4.5,
        message_cutoff_A=4.0,
        hop_cutoff_A=2.8,
        energy_channels=4,
    )
    engine = Engine(random_model(basis, settings), electronic_temperature_K=2000.0)
    system = small_system(n_atoms=6)
    matrix = Rotation.random(random_state=0).as_matrix()
    before, after = engine.compute(system), engine.compute(turned(system, matrix))
    assert engine.hamiltonian(system).shape == (2 * 9 + 4 * 4,) * 2
    np.testing.assert_allclose(after.forces, before.forces @ matrix.T, atol=1e-9)


def test_envelope_and_radial_functions_end_smoothly() -> None:
    r = torch.tensor([4.999999, 5.0, 6.0], dtype=torch.float64, requires_grad=True)
    value = envelope(r, 5.0)
    (slope,) = torch.autograd.grad(value.sum(), r)
    assert value.abs().max() < 1e-12
    assert slope.abs().max() < 1e-9
    assert RadialBasis(6, 5.0).double()(r)[1:].abs().max() == 0


@pytest.mark.parametrize(
    ("symbols", "shells", "occupations", "numbers"),
    [
        (("H",), ((0,),), ((0.5,),), [1] * 6),
        (("H", "O"), ((0,), (0, 1)), ((0.5,), (1.0, 2 / 3, 2 / 3, 2 / 3)), [1, 1, 8] * 2),
        (("O", "Mg"), ((0, 1), (0, 0, 1)), ((1.0,) + 3 * (2 / 3,), (1.0, 1.0, 1.0, 1.0, 1.0)), [8, 12] * 3),
    ],
    ids=["s", "s and sp", "sp and ssp"],
)
def test_other_bases_are_invariant_and_conservative(
    symbols: tuple[str, ...],
    shells: tuple[tuple[int, ...], ...],
    occupations: tuple[tuple[float, ...], ...],
    numbers: list[int],
) -> None:
    """Energies do not change on rotation, and forces are their derivative, whatever the shells."""
    engine = Engine(random_model(OrbitalBasis(symbols, shells, occupations)), electronic_temperature_K=3000.0)
    start = small_system(n_atoms=6)
    system = System(numbers, start.positions, start.cell)
    results = engine.compute(system)
    rotated = engine.compute(turned(system, Rotation.random(random_state=1).as_matrix()))
    assert rotated.energy == pytest.approx(results.energy, abs=1e-8)
    step = np.zeros_like(system.positions)
    step[1, 2] = 1e-4
    plus, minus = (
        engine.compute(System(numbers, system.positions + sign * step, system.cell)).energy
        for sign in (1, -1)
    )
    assert -(plus - minus) / 2e-4 == pytest.approx(results.forces[1, 2], rel=1e-5, abs=1e-6)


def test_many_body_energy_counts_its_neighbors() -> None:
    """Invariant under rotation, and a polynomial of fourth order in the neighbor density without constant."""
    torch.manual_seed(0)
    term = ManyBodyEnergy(3, 6, 4, 2).double()
    species = torch.tensor([0, 1, 1])
    neighbors, radial = torch.randn(3, 8, 3).double(), torch.randn(3, 8, 6).double()

    def density_of(vectors: torch.Tensor) -> torch.Tensor:
        harmonics = o3.spherical_harmonics(range(4), vectors, normalize=True, normalization="component")
        return torch.einsum("njk,njc->nkc", harmonics, radial)

    density, matrix = density_of(neighbors), torch.tensor(Rotation.random(random_state=0).as_matrix())
    torch.testing.assert_close(term(density_of(neighbors @ matrix.T), species), term(density, species))
    scales = torch.arange(-2.0, 3.0, dtype=torch.float64)
    values = torch.stack([term(s * density, species) for s in scales])
    coefficients = torch.linalg.solve(scales[:, None] ** torch.arange(5), values)
    assert coefficients[:2].abs().max() < 1e-10  # neither a constant nor a linear term
    assert coefficients[2:].abs().min() > 1e-4
    five = 5.0 ** torch.arange(5, dtype=torch.float64) @ coefficients
    torch.testing.assert_close(term(5.0 * density, species), five)

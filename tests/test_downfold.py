"""Downfolding: the same numbers as the shared reference data, exact levels, rotations, error messages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase.data import chemical_symbols
from e3nn import o3
from scipy.linalg import block_diag, eigh
from scipy.spatial.transform import Rotation

from mlh_driver.constants import HARTREE_eV
from mlh_driver.reference.constants import VALENCE_ELECTRONS, count_occupied
from mlh_driver.reference.downfold import (
    LEAST_OCCUPATION,
    PYSCF_BASIS,
    downfold,
    intrinsic_atomic_orbitals,
    orthonormalize,
    overlap_matrices,
)
from mlh_driver.solvers.dense import entropy_of, filling

pytest.importorskip("pyscf", reason="overlap integrals need PySCF")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "asio2"
MOLECULE_NUMBERS = np.array([14, 8, 8])
MOLECULE_POSITIONS_A = np.array([[0.0, 0.0, 0.0], [1.5, 0.2, 0.1], [-0.4, 1.4, 0.5]])
BOX_A = 40.0 * np.eye(3)


def load_full(name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Labels of a shared cell and its full Kohn-Sham matrix (Ha)."""
    labels = dict(np.load(SHARED / f"{name}.npz"))
    n = len(labels["eig_Ha"])
    H = np.zeros((n, n))
    H[np.triu_indices(n)] = np.load(SHARED / f"{name}_full.npz")["H"]
    return labels, H + np.triu(H, 1).T


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the reference data set ../shared/data/asio2 is not here")
@pytest.mark.parametrize("name", ["h106_min", "v102_1"])
def test_reproduces_the_shared_minimal_hamiltonian(name: str) -> None:
    labels, H = load_full(name)
    S, S12, S22 = overlap_matrices(labels["numbers"], labels["positions"], labels["cell"])
    n_occupied = count_occupied(labels["numbers"])
    assert n_occupied == labels["nocc"]
    H_min, eigenvalues = downfold(H, S, n_occupied, S12, S22)
    # The stored full and minimal matrices are in single precision.
    assert abs(H_min - labels["h_min_Ha"]).max() < 1e-6
    assert abs(eigenvalues[:n_occupied] - labels["eig_Ha"][:n_occupied]).max() < 1e-6
    assert abs(np.linalg.eigvalsh(H_min)[:n_occupied] - eigenvalues[:n_occupied]).max() < 1e-12


SHELLS = {
    14: ([-1.0, -0.2, -0.5, 0.3, 1.5], [1, 1, 3, 3, 5]),
    8: ([-1.4, -0.6, -0.9, -0.1, 1.1], [1, 1, 3, 3, 5]),
    30: ([-1.0, -0.2, -0.5, 0.3, -0.8, 0.6, 1.5], [1, 1, 3, 3, 5, 5, 7]),
}
"""Of each element, the levels in hartree and the orbitals of each of its shells."""


def invariant_model(S: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """A rotationally invariant Hamiltonian (Wolfsberg-Helmholz) on the overlap of the full basis, in eV."""
    onsite = np.concatenate([np.repeat(*SHELLS[z]) for z in numbers]) * HARTREE_eV
    H = 0.875 * (onsite[:, None] + onsite[None, :]) * S
    np.fill_diagonal(H, onsite * np.diag(S))
    return H


def downfold_molecule(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    S, S12, S22 = overlap_matrices(MOLECULE_NUMBERS, positions, BOX_A)
    return downfold(invariant_model(S, MOLECULE_NUMBERS), S, count_occupied(MOLECULE_NUMBERS), S12, S22)


def test_occupied_levels_are_exact() -> None:
    H_min, eigenvalues = downfold_molecule(MOLECULE_POSITIONS_A)
    n_occupied = count_occupied(MOLECULE_NUMBERS)
    assert H_min.shape == (12, 12)
    np.testing.assert_allclose(np.linalg.eigvalsh(H_min)[:n_occupied], eigenvalues[:n_occupied], atol=1e-10)


def test_levels_of_hot_electrons_are_exact_as_far_as_they_hold_some() -> None:
    S, S12, S22 = overlap_matrices(MOLECULE_NUMBERS, MOLECULE_POSITIONS_A, BOX_A)
    H, n_occupied, kT = invariant_model(S, MOLECULE_NUMBERS), count_occupied(MOLECULE_NUMBERS), 1.0
    H_min, eigenvalues = downfold(H, S, n_occupied, S12, S22, kT)
    f = filling(eigenvalues, n_occupied, kT)
    n_held = int((f >= LEAST_OCCUPATION).sum())
    assert n_occupied < n_held < len(H_min)
    minimal = np.linalg.eigvalsh(H_min)
    np.testing.assert_allclose(minimal[:n_held], eigenvalues[:n_held], atol=1e-10)

    def free_energy(levels: np.ndarray) -> float:
        f = filling(levels, n_occupied, kT)
        return float(2 * f @ levels) - kT * entropy_of(f)

    cold, _ = downfold(H, S, n_occupied, S12, S22)
    of_cold, of_hot = (
        abs(free_energy(np.linalg.eigvalsh(h)) - free_energy(eigenvalues)) for h in (cold, H_min)
    )
    assert of_hot < 0.2 * of_cold
    same, _ = downfold(H, S, n_occupied, S12, S22, 1e-4)
    np.testing.assert_array_equal(same, cold)


def test_minimal_hamiltonian_rotates_as_s_and_p() -> None:
    rotation = Rotation.from_rotvec([0.3, -0.7, 1.1]).as_matrix()
    H_min, _ = downfold_molecule(MOLECULE_POSITIONS_A)
    rotated, _ = downfold_molecule(MOLECULE_POSITIONS_A @ rotation.T)
    D = block_diag(*[block_diag(1.0, rotation)] * len(MOLECULE_NUMBERS))
    np.testing.assert_allclose(rotated, D @ H_min @ D.T, atol=1e-6)


def test_d_shells_rotate_as_those_of_the_network() -> None:
    numbers, positions = np.array([30, 8, 8]), 1.1 * MOLECULE_POSITIONS_A

    def minimal(positions: np.ndarray) -> np.ndarray:
        S, S12, S22 = overlap_matrices(numbers, positions, BOX_A)
        return downfold(invariant_model(S, numbers), S, count_occupied(numbers), S12, S22)[0]

    rotation = Rotation.from_rotvec([0.3, -0.7, 1.1]).as_matrix()
    of_d = o3.Irrep("2e").D_from_matrix(torch.tensor(rotation)).numpy()
    D = block_diag(1.0, rotation, of_d, 1.0, rotation, 1.0, rotation)
    rotated = minimal(positions @ rotation.T)
    np.testing.assert_allclose(rotated, D @ minimal(positions) @ D.T, atol=1e-4)  # e3nn's D is good to 1e-6


def test_elements_have_the_electrons_of_their_pseudopotential() -> None:
    from pyscf.pbc.gto.basis import load as load_basis
    from pyscf.pbc.gto.pseudo import load

    for number, valence in VALENCE_ELECTRONS.items():
        symbol = chemical_symbols[number]
        assert sum(load("gth-pbe", symbol)[0]) == valence, symbol
        for basis in PYSCF_BASIS.values():
            assert load_basis(basis, symbol), symbol


def test_iaos_are_orthonormal_and_span_the_occupied_space() -> None:
    S, S12, S22 = overlap_matrices(MOLECULE_NUMBERS, MOLECULE_POSITIONS_A, BOX_A)
    _, orbitals = eigh(invariant_model(S, MOLECULE_NUMBERS), S)
    occupied = orbitals[:, : count_occupied(MOLECULE_NUMBERS)]
    A = intrinsic_atomic_orbitals(occupied, S, S12, S22)
    np.testing.assert_allclose(A.T @ S @ A, np.eye(12), atol=1e-10)
    np.testing.assert_allclose(A @ (A.T @ (S @ occupied)), occupied, atol=1e-10)


def test_errors_name_the_value() -> None:
    with pytest.raises(ValueError, match="3 occupied orbitals do not fit into 2"):
        intrinsic_atomic_orbitals(np.eye(4)[:, :3], np.eye(4), np.eye(4)[:, :2], np.eye(2))
    with pytest.raises(ValueError, match="linearly dependent"):
        orthonormalize(np.ones((3, 2)), np.eye(3))
    with pytest.raises(ValueError, match="closed shell"):
        count_occupied([1])
    with pytest.raises(ValueError, match="labels cannot be made of Au; the elements are H, B"):
        count_occupied([79, 8])

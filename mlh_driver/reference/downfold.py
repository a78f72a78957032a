"""Downfold a Kohn-Sham Hamiltonian to intrinsic atomic orbitals (IAO), orthonormalized symmetrically.

Knizia, J. Chem. Theory Comput. 9, 4834 (2013), doi:10.1021/ct400687b, appendix C. With C the n x n_occ
occupied orbitals of H C = S C eps, S12 the overlap of the full with the minimal basis, S22 that of the
minimal basis:

    P12 = S^-1 S12                      minimal basis in the full one                   (n, m)
    Ct  = orth(P12 S22^-1 S12^T C)      occupied orbitals depolarized                   (n, n_occ)
    A   = C C^T S Ct Ct^T S P12 + (1 - C C^T S)(1 - Ct Ct^T S) P12                      (n, m)
    A   <- A (A^T S A)^-1/2             Löwdin
    H_min = A^T H A                                                                     (m, m)

The columns of A span C exactly, so the lowest n_occ eigenvalues of H_min are those of (H, S).

With Fermi-Dirac occupations f, C are all orbitals with f of at least ``LEAST_OCCUPATION``; as closed shells
these are the occupied ones. Their levels stay exact, and so does the band free energy 2 sum f e - T_e S_e but
for the electrons above them: fewer than 0.01 pairs in each level, at an energy that is off by as much as the
minimal basis fails to describe that level.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.linalg import block_diag, cho_factor, cho_solve, eigh

from mlh_driver.errors import InputError
from mlh_driver.network.so3 import spherical_harmonics
from mlh_driver.reference.constants import FULL_BASIS, MINIMAL_BASIS
from mlh_driver.solvers.dense import filling

#: Pairs of electrons in a level that the minimal basis must hold exactly: levels up to 4.6 kT above the Fermi
#: level. A smaller bound would take in ones so high in the conduction band that s and p functions of the
#: valence cannot describe them, and bend H for the sake of few electrons.
LEAST_OCCUPATION = 0.01

PYSCF_BASIS = {FULL_BASIS: "gth-dzvp-molopt-sr", MINIMAL_BASIS: "gth-szv-molopt-sr"}


def downfold(
    H: np.ndarray, S: np.ndarray, n_occupied: int, S12: np.ndarray, S22: np.ndarray, kT: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Minimal Hamiltonian (m, m) and all eigenvalues (n,) of the full problem, in the unit of ``H``.

    ``H`` and ``S`` are (n, n), ``S12`` (n, m), ``S22`` (m, m); orbitals of the result are ordered as in S22.
    ``n_occupied`` is half the number of electrons, ``kT`` their temperature in the unit of ``H``.
    """
    eigenvalues, orbitals = eigh(H, S)
    held = filling(eigenvalues, n_occupied, kT) >= LEAST_OCCUPATION
    iaos = intrinsic_atomic_orbitals(orbitals[:, held], S, S12, S22)
    minimal = iaos.T @ H @ iaos
    return (minimal + minimal.T) / 2, eigenvalues


def intrinsic_atomic_orbitals(
    occupied: np.ndarray, S: np.ndarray, S12: np.ndarray, S22: np.ndarray
) -> np.ndarray:
    """Orthonormal IAOs (n, m), A^T S A = 1, from S-orthonormal occupied orbitals (n, n_occ)."""
    n_minimal = S22.shape[0]
    if occupied.shape[1] > n_minimal:
        raise InputError(
            f"{occupied.shape[1]} occupied orbitals do not fit into {n_minimal} minimal-basis functions; "
            "check the electron number and the minimal basis"
        )
    minimal = cho_solve(cho_factor(S), S12)
    depolarized = orthonormalize(minimal @ cho_solve(cho_factor(S22), S12.T @ occupied), S)

    def project(orbitals: np.ndarray, onto: np.ndarray) -> np.ndarray:
        return onto @ (onto.T @ (S @ orbitals))

    inside = project(minimal, depolarized)
    outside = minimal - inside
    return orthonormalize(project(inside, occupied) + outside - project(outside, occupied), S)


def orthonormalize(orbitals: np.ndarray, S: np.ndarray) -> np.ndarray:
    """Löwdin's orbitals X (X^T S X)^-1/2, the orthonormal set closest to the columns of X."""
    values, vectors = eigh(orbitals.T @ S @ orbitals)
    if values[0] < 1e-8:
        raise InputError(
            f"orbitals are linearly dependent (smallest overlap eigenvalue {values[0]:.1e}); "
            "the occupied space is not described by the minimal basis"
        )
    return orbitals @ (vectors / np.sqrt(values)) @ vectors.T


def overlap_matrices(
    numbers: ArrayLike, positions: ArrayLike, cell: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """S (n, n), S12 (n, m) and S22 (m, m) of full and minimal basis at Gamma, from PySCF's integrals.

    ``positions`` (N, 3) and ``cell`` (3, 3, rows) in Å. Orbitals: per atom, per shell; p as x, y, z. Other
    shells of the full basis are PySCF's, m = -l..l around z, those of the minimal basis e3nn's, around y.
    """
    full = pyscf_cell(numbers, positions, cell, FULL_BASIS)
    minimal = pyscf_cell(numbers, positions, cell, MINIMAL_BASIS)
    turn = block_diag(*[_from_e3nn(l) for l in shells_of(minimal)])
    return (
        full.pbc_intor("int1e_ovlp"),
        _import_gto().cell.intor_cross("int1e_ovlp", full, minimal) @ turn,
        turn.T @ minimal.pbc_intor("int1e_ovlp") @ turn,
    )


def shells_of(cell: Any) -> list[int]:
    """Angular momentum of each shell of PySCF's cell or molecule, in the order of its orbitals."""
    return [cell.bas_angular(k) for k in range(cell.nbas) for _ in range(cell.bas_nctr(k))]


def _from_e3nn(l: int) -> np.ndarray:
    """PySCF's real harmonics (rows) in e3nn's: Y_m(x, y, z) of the former is Y_m(y, z, x) of the latter."""
    if l == 1:
        return np.eye(3)  # x, y, z in both
    points = torch.from_numpy(np.random.default_rng(0).normal(size=(4 * l + 4, 3)))
    ours, theirs = (spherical_harmonics(l, r, normalize=True) for r in (points, points[:, [1, 2, 0]]))
    return np.linalg.lstsq(ours.numpy(), theirs.numpy(), rcond=None)[0].T


def pyscf_cell(
    numbers: ArrayLike,
    positions: ArrayLike,
    cell: ArrayLike,
    basis: str,
    ke_cutoff_Ha: float | None = None,
) -> Any:
    """PySCF's cell with GTH-PBE pseudopotentials and the basis of CP2K's name ``basis``."""
    result = _import_gto().Cell()
    pairs = zip(np.asarray(numbers), np.asarray(positions), strict=True)
    result.atom = [(int(z), tuple(r)) for z, r in pairs]
    result.a = np.asarray(cell)
    result.unit = "Angstrom"
    result.basis = PYSCF_BASIS[basis]
    result.pseudo = "gth-pbe"
    # Overlaps do not depend on the spin; 'None' lets PySCF accept any electron number.
    result.spin = None
    result.ke_cutoff = ke_cutoff_Ha
    result.verbose = 0
    result.build()
    return result


def _import_gto() -> Any:
    try:
        from pyscf.pbc import gto
    except ImportError as error:
        raise InputError(
            "reference calculations need PySCF, an optional dependency: pip install pyscf"
        ) from error
    return gto

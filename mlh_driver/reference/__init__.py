"""Density-functional reference labels: run the code, check it, downfold its Hamiltonian.

    structure -> cp2k.run_cp2k -> Cp2kResult (E, F, stress, H, S in the full basis)
              -> downfold.downfold -> H in the minimal orthonormal basis
              -> labels.Labels -> one compressed .npz file

Nothing here imports torch; PySCF (overlap integrals) is an optional dependency.
"""

from mlh_driver.reference.cp2k import Cp2kError, Cp2kResult, Cp2kSettings, UnconvergedError, run_cp2k
from mlh_driver.reference.downfold import downfold, intrinsic_atomic_orbitals, overlap_matrices
from mlh_driver.reference.labels import Labels, label_structure

__all__ = [
    "Cp2kError",
    "Cp2kResult",
    "Cp2kSettings",
    "Labels",
    "UnconvergedError",
    "downfold",
    "intrinsic_atomic_orbitals",
    "label_structure",
    "overlap_matrices",
    "run_cp2k",
]

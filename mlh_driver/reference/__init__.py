"""Density-functional reference labels: run the code, check it, downfold its Hamiltonian.

    structure -> Labeler.calculate (pyscf | cp2k) -> Calculation (E, F, stress, H, S in the full basis)
              -> downfold.downfold -> H in the minimal orthonormal basis
              -> mlh_driver.data.LabelledStructure -> HDF5

PySCF (overlap integrals and the default labeler) is an optional dependency.
"""

from mlh_driver.reference.cp2k import Cp2kLabeler, Cp2kSettings
from mlh_driver.reference.downfold import downfold, intrinsic_atomic_orbitals, overlap_matrices
from mlh_driver.reference.labeler import Calculation, Labeler, LabelingError, UnconvergedError
from mlh_driver.reference.labeling import label_into, label_structure, make_labeler
from mlh_driver.reference.pyscf import PyscfLabeler, PyscfSettings

__all__ = [
    "Calculation",
    "Cp2kLabeler",
    "Cp2kSettings",
    "Labeler",
    "LabelingError",
    "PyscfLabeler",
    "PyscfSettings",
    "UnconvergedError",
    "downfold",
    "intrinsic_atomic_orbitals",
    "label_into",
    "label_structure",
    "make_labeler",
    "overlap_matrices",
]

"""PySCF as reference: periodic PBE at the Gamma point with multigrid integration, from pip alone.

Same basis, pseudopotentials and functional as CP2K, and the same free energy at an electronic temperature.
Density and potential live on a hierarchy of uniform grids (VandeVondele et al.,
doi:10.1016/j.cpc.2004.12.014), whose finest cutoff is ``ke_cutoff_Ha``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ase import Atoms

from mlh_driver.errors import StructureError
from mlh_driver.reference.constants import BOHR_A, FULL_BASIS, HARTREE_EV, count_occupied
from mlh_driver.reference.downfold import pyscf_cell
from mlh_driver.reference.labeler import METHOD, Calculation, LabelingError, UnconvergedError
from mlh_driver.solvers.base import KELVIN_eV


@dataclass(frozen=True)
class PyscfSettings:
    """How PySCF is run; the first two define the reference.

    ke_cutoff_Ha:  kinetic-energy cutoff of the finest grid in hartree
    eps_scf_Ha:    largest change of the energy in the last step of the self-consistent field

    electronic_temperature_K: of Fermi-Dirac occupations, 0 for closed shells; small gaps need it
    """

    ke_cutoff_Ha: float = 400.0
    eps_scf_Ha: float = 1e-8
    max_scf: int = 80
    electronic_temperature_K: float = 0.0
    threads: int = 1

    def draft(self) -> PyscfSettings:
        """A coarse calculation: H within some meV, energies and forces not of use."""
        return replace(self, ke_cutoff_Ha=100.0, eps_scf_Ha=1e-6)


class PyscfLabeler:
    """PySCF (``pip install pyscf``) as a labeler."""

    name = "pyscf"

    def __init__(self, settings: PyscfSettings | None = None) -> None:
        self.settings = settings or PyscfSettings()

    def reference(self) -> dict[str, Any]:
        """The settings that determine energies, for the data set."""
        settings = {"ke_cutoff_Ha": self.settings.ke_cutoff_Ha, "eps_scf_Ha": self.settings.eps_scf_Ha}
        return {"engine": self.name} | METHOD | settings

    def calculate(self, atoms: Atoms, workdir: Path) -> Calculation:
        """One single-point calculation in memory; ``workdir`` is not used."""
        import pyscf
        from pyscf import lib
        from pyscf.pbc import dft
        from pyscf.pbc.dft.multigrid import MultiGridNumInt2
        from pyscf.pbc.scf.addons import smearing_

        if not atoms.pbc.all():
            raise StructureError(f"the cell must be periodic in three directions, not {atoms.pbc.tolist()}")
        count_occupied(atoms.numbers)
        with lib.with_omp_threads(self.settings.threads):
            cutoff = self.settings.ke_cutoff_Ha
            cell = pyscf_cell(atoms.numbers, atoms.positions, atoms.cell.array, FULL_BASIS, cutoff)
            field = dft.RKS(cell, xc="pbe,pbe")
            field._numint = MultiGridNumInt2(cell)
            field.conv_tol = self.settings.eps_scf_Ha
            field.max_cycle = self.settings.max_scf
            kT = KELVIN_eV * self.settings.electronic_temperature_K
            if kT > 0:
                smearing_(field, sigma=kT / HARTREE_EV, method="fermi")
            try:
                energy = field.kernel()
            except (RuntimeError, ValueError) as error:  # ValueError is that of linear algebra, too
                raise LabelingError(f"PySCF gave up: {error}; drop the structure") from error
            if not field.converged:
                raise UnconvergedError(
                    f"PySCF's SCF did not converge in {self.settings.max_scf} steps; drop the structure"
                )
            gradient = field.nuc_grad_method()
            forces = -gradient.kernel()
            H = field.get_fock()
            return Calculation(
                energy=float(field.e_free if kT > 0 else energy) * HARTREE_EV,
                forces=forces * (HARTREE_EV / BOHR_A),
                stress=None,  # it exists for the plain uniform grid only, and takes minutes for a few atoms
                H=H * HARTREE_EV,
                S=field.get_ovlp(),
                n_scf_steps=int(field.cycles),
                version=f"PySCF {pyscf.__version__}",
                electronic_temperature_K=self.settings.electronic_temperature_K,
            )

"""What a training run must know about an element: shells, electrons, and the isolated atom's energy."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache

from ase.data import atomic_numbers, ground_state_magnetic_moments

from mlh_driver.constants import HARTREE_eV
from mlh_driver.errors import InputError
from mlh_driver.reference.constants import FULL_BASIS, MINIMAL_BASIS, VALENCE_ELECTRONS, no_labels_of
from mlh_driver.reference.downfold import PYSCF_BASIS, shells_of
from mlh_driver.reference.labeler import UnconvergedError


@dataclass(frozen=True)
class IsolatedAtom:
    """An element in the reference's minimal basis.

    shells:    angular momentum of each shell
    electrons: in each shell of the neutral atom, lowest shell of each angular momentum first
    energy_eV: total energy of the spin-polarized atom in open space
    """

    symbol: str
    shells: tuple[int, ...]
    electrons: tuple[int, ...]
    energy_eV: float

    def toml(self) -> str:
        """The section of a training file."""
        return (
            f'[[species]]\nsymbol = "{self.symbol}"\nshells = {list(self.shells)}\n'
            f"electrons = {list(self.electrons)}\natom_energy_eV = {self.energy_eV:.3f}\n"
        )


@cache
def isolated_atom(symbol: str) -> IsolatedAtom:
    """Solve the isolated atom with PySCF at the reference's functional, basis and pseudopotential.

    Raises InputError for an element without a known pseudopotential, UnconvergedError.
    """
    if atomic_numbers.get(symbol) not in VALENCE_ELECTRONS:
        raise InputError(no_labels_of(repr(symbol)))
    try:
        from pyscf import dft, gto
        from pyscf.pbc.gto.pseudo import load
    except ImportError as error:
        raise InputError("isolated atoms need PySCF: pip install pyscf") from error
    moment = int(ground_state_magnetic_moments[atomic_numbers[symbol]])

    def atom(basis: str) -> gto.Mole:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PySCF warns of integrals that it then does not need
            return gto.M(atom=symbol, basis=PYSCF_BASIS[basis], pseudo="gth-pbe", spin=moment, verbose=0)

    field = dft.UKS(atom(FULL_BASIS), xc="pbe,pbe")
    field.conv_tol = 1e-8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        energy = float(field.kernel())
    if not field.converged:
        raise UnconvergedError(f"the isolated {symbol} atom did not converge in {field.max_cycle} steps")
    shells = shells_of(atom(MINIMAL_BASIS))
    left = dict(enumerate(load("gth-pbe", symbol)[0]))  # valence electrons of each angular momentum
    electrons = []
    for l in shells:
        electrons.append(min(left.get(l, 0), 2 * (2 * l + 1)))
        left[l] = left.get(l, 0) - electrons[-1]
    return IsolatedAtom(symbol, tuple(shells), tuple(electrons), energy * HARTREE_eV)

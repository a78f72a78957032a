"""Labelled structures as tensors, with the graph built once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from torch import Tensor

from mlh_driver.basis import OrbitalBasis
from mlh_driver.constants import KELVIN_eV
from mlh_driver.data import LabelledStructure
from mlh_driver.errors import InputError, StructureError
from mlh_driver.graph import Graph, GraphBuilder
from mlh_driver.solvers.dense import NEGLIGIBLE_OCCUPATION, filling
from mlh_driver.system import System

DTYPE = torch.float32


@dataclass(frozen=True)
class Sample:
    """One structure ready for training.

    sizes:       (N,) orbitals per atom
    neutral:     (n,) diagonal of P0, the occupations of neutral atoms
    hamiltonian: (n, n) eV, or None where it is not labelled
    multipoles:  (N, 4) excess electrons and dipoles of its density matrix at kT, or None
    orbitals:    (n, n_filled) its eigenvectors that hold electrons, or None
    occupied:    (n_occupied,) its lowest levels in eV, or None
    binding:     energy, at an electronic temperature free energy, minus isolated atoms in eV
    forces:      (N, 3) eV/Å
    virial:      (3, 3) -V stress in eV, or None where the stress is not labelled
    only_hamiltonian: energies and forces are those of another reference, and nothing is learned from them
    occupations: (n_filled,) pairs of electrons in each of the orbitals, at most 1, or None
    kT:          electronic temperature of the label in eV
    repeat:      it is drawn so many times as often as others
    rehearsed:   its labels are what the model that the training starts from predicts
    """

    name: str
    graph: Graph
    sizes: Tensor
    neutral: Tensor
    n_occupied: int
    hamiltonian: Tensor | None
    multipoles: Tensor | None
    orbitals: Tensor | None
    occupied: Tensor | None
    binding: float
    forces: Tensor
    virial: Tensor | None
    only_hamiltonian: bool = False
    occupations: Tensor | None = None
    kT: float = 0.0
    repeat: int = 1
    rehearsed: bool = False

    def system(self, basis: OrbitalBasis) -> System:
        """The structure."""
        numbers = np.asarray(basis.numbers)[self.graph.species.numpy()]
        return System(numbers, self.graph.positions.numpy(), self.graph.cell.numpy())


#: Per atom. More is a sign of other units or isolated atoms of another method.
LARGEST_BINDING_eV = 20.0


def _graph(label: LabelledStructure, basis: OrbitalBasis, cutoff: float) -> Graph:
    if unknown := sorted({*label.system.numbers.tolist()} - {*basis.numbers.tolist()}):
        symbols = ", ".join(chemical_symbols[number] for number in unknown)
        raise InputError(
            f"{label.name} has {symbols}, which is no species of the training; add a [[species]] "
            "section to its settings (fine-tuning keeps the species), or leave the structure out"
        )
    try:
        return GraphBuilder(basis, cutoff, skin=0.0).build(label.system, DTYPE)
    except StructureError as error:
        raise InputError(f"{label.name}: {error}") from error


def make_sample(
    label: LabelledStructure, basis: OrbitalBasis, atom_energies: tuple[float, ...], cutoff: float
) -> Sample:
    """Build the graph and convert the labels; raises InputError, with its name, if they do not fit."""
    graph = _graph(label, basis, cutoff)
    species = graph.species.numpy()
    neutral = torch.tensor([f for s in species for f in basis.occupations[s]], dtype=torch.float64)
    n = len(neutral)
    if label.hamiltonian is not None and label.hamiltonian.shape != (n, n):
        raise InputError(
            f"{label.name}: the Hamiltonian is {label.hamiltonian.shape}, but the basis has {n} orbitals "
            "for this structure; the settings' species do not match the data"
        )
    isolated = sum(atom_energies[s] for s in species)
    n_electrons = round(2 * float(neutral.sum()))
    n_occupied = n_electrons // 2
    if n_electrons % 2 or label.n_occupied not in (None, n_occupied):
        labelled = "" if label.n_occupied is None else f" (its label has {2 * label.n_occupied})"
        raise InputError(
            f"{label.name}: by the settings' species it has {n_electrons} valence electrons{labelled}; "
            "correct electrons = [...] there, or leave out structures with an odd number"
        )
    binding = label.energy - isolated
    if abs(binding) > LARGEST_BINDING_eV * len(species):
        raise InputError(
            f"{label.name}: its energy is {binding / len(species):.5g} eV per atom above that of isolated "
            "atoms; energies must be in eV, and atom_energy_eV in the settings of the same method and code"
        )
    kT = KELVIN_eV * label.electronic_temperature_K
    hamiltonian = orbitals = multipoles = occupied = occupations = None
    if label.hamiltonian is not None:
        hamiltonian = torch.tensor(label.hamiltonian, dtype=DTYPE)
        levels, C = torch.linalg.eigh(hamiltonian.double())
        f = torch.from_numpy(filling(levels.numpy(), n_occupied, kT))
        f, C = f[f > NEGLIGIBLE_OCCUPATION], C[:, f > NEGLIGIBLE_OCCUPATION]
        occupied, orbitals, occupations = levels[:n_occupied], C.to(DTYPE), f.to(DTYPE)
        multipoles = multipoles_of((C * f) @ C.T, neutral, species, basis).to(DTYPE)
    return Sample(
        name=label.name,
        graph=graph,
        sizes=torch.tensor(basis.sizes[species]),
        neutral=neutral,
        n_occupied=n_occupied,
        hamiltonian=hamiltonian,
        multipoles=multipoles,
        orbitals=orbitals,
        occupied=occupied,
        binding=binding,
        forces=torch.tensor(label.forces, dtype=DTYPE),
        virial=None
        if label.stress is None
        else torch.tensor(-label.system.volume * label.stress, dtype=DTYPE),
        occupations=occupations,
        kT=kT,
    )


def multipoles_of(P: Tensor, neutral: Tensor, species: NDArray[np.int64], basis: OrbitalBasis) -> Tensor:
    """(N, 4) excess electrons 2 Tr[P - P0] of every atom, and 4 P_sp of its first s and p shell as dipole."""
    found = torch.zeros(len(species), 4, dtype=P.dtype)
    start = 0
    for atom, kind in enumerate(species):
        shells = basis.shells[kind]
        starts = np.cumsum([start, *(2 * l + 1 for l in shells)])
        own = slice(start, int(starts[-1]))
        found[atom, 0] = 2.0 * (P.diagonal()[own] - neutral[own]).sum()
        if 0 in shells and 1 in shells:
            s, p = int(starts[shells.index(0)]), int(starts[shells.index(1)])
            found[atom, 1:] = 4.0 * P[s, p : p + 3]
        start = own.stop
    return found

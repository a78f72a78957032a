"""Labelled structures as tensors, with the graph built once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from torch import Tensor

from mlh_driver.basis import OrbitalBasis
from mlh_driver.constants import KELVIN_eV
from mlh_driver.data import LabelledStructure, read_split, read_splits
from mlh_driver.data.hdf5 import read_reference
from mlh_driver.errors import InputError
from mlh_driver.graph import Graph, GraphBuilder, forces_and_virial
from mlh_driver.solvers.dense import NEGLIGIBLE_OCCUPATION, filling
from mlh_driver.training.settings import TrainSettings

DTYPE = torch.float32
INNER_FRACTION = 0.98


@dataclass(frozen=True)
class Sample:
    """One structure ready for training.

    sizes:       (N,) orbitals per atom
    reference:   (n,) diagonal of P0
    hamiltonian: (n, n) eV, or None where it is not labelled
    multipoles:  (N, 4) excess electrons and dipoles of its density matrix at kT, or None
    orbitals:    (n, n_filled) its eigenvectors that hold electrons, or None
    occupied:    (n_pairs,) its lowest levels in eV, or None
    binding:     energy, at an electronic temperature free energy, minus isolated atoms in eV
    forces:      (N, 3) eV/Å
    virial:      (3, 3) -V stress in eV, or None where the stress is not labelled
    only_hamiltonian: energies and forces are those of another reference, and nothing is learned from them
    occupations: (n_filled,) pairs of electrons in each of the orbitals, at most 1, or None
    kT:          electronic temperature of the label in eV
    """

    name: str
    graph: Graph
    sizes: Tensor
    reference: Tensor
    n_pairs: int
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


#: Per atom. More is a sign of other units or isolated atoms of another method.
LARGEST_BINDING_eV = 20.0


def labels_of(settings: TrainSettings, role: str, learn: str = "all") -> list[LabelledStructure]:
    """The structures that the settings name for a role, ``train`` or ``validation``.

    learn: ``all`` gives those with energies and forces of the reference, ``hamiltonian`` the others
    """
    return [
        label
        for source in settings.data
        if source.learn == learn
        for split in getattr(source, role)
        for label in read_split(source.path, split)
        if fnmatch(label.name, source.names)
    ]


def check_sections(settings: TrainSettings) -> None:
    """Raises InputError for a data section that names no structures, or splits that are not there."""
    for source in settings.data:
        splits = read_splits(source.path)
        held = []
        for role in ("train", "validation") if source.learn == "all" else ("train",):
            for split in getattr(source, role):
                if split not in splits:
                    raise InputError(
                        f"{source.path} has no split {split!r}; it has {', '.join(splits)}: name one of them "
                        f"in its data section, or none by {role} = []"
                    )
                held += splits[split]
        if not any(fnmatch(name, source.names) for name in held):
            raise InputError(
                f"no structure that the data section takes of {source.path} is called {source.names!r}; "
                f"there are {', '.join(held[:5]) or 'none'}"
            )


def check_references(settings: TrainSettings, labels_to_come: dict[str, Any] | None = None) -> None:
    """Raises InputError if energies of two data sets are known to be of different references.

    labels_to_come: the reference of labels that will join the data
    """
    known: list[tuple[Path | str, dict[str, Any]]] = [
        (source.path, read_reference(source.path))
        for source in settings.data
        if source.learn == "all" and source.path.is_file()
    ]
    if labels_to_come is not None:
        known.insert(0, ("the labels to come", labels_to_come))
    for path, reference in known[1:]:
        first, expected = known[0]
        if reference != expected:
            raise InputError(
                f"{path} holds energies of another reference than {first}: {reference}, not {expected}; "
                "label one of them again, or take its Hamiltonians only (learn = 'hamiltonian')"
            )


def check_names(structures: Sequence[Sample | LabelledStructure]) -> None:
    """Raises InputError if two structures share a name."""
    names = Counter(structure.name for structure in structures)
    twice = sorted(name for name, count in names.items() if count > 1)
    if twice:
        raise InputError(
            f"two structures of the data are called {', '.join(twice)}; rename one of them, or choose others "
            "with names = 'PATTERN' in the data section"
        )


def check_unseen(train: Sequence[Sample], validation: Sequence[Sample]) -> None:
    """Raises InputError if a structure for validation is among those of the training, by another name."""

    def key(sample: Sample) -> tuple[bytes, bytes]:
        return sample.graph.species.numpy().tobytes(), sample.graph.positions.numpy().tobytes()

    known = {key(sample): sample.name for sample in train}
    for sample in validation:
        if key(sample) in known:
            raise InputError(
                f"{sample.name}, for validation, is the structure {known[key(sample)]} of the training; "
                "leave one of them out"
            )


def check_species(train: Sequence[Sample], numbers: Sequence[int]) -> None:
    """Raises InputError unless there are two atoms of each species, as the extrapolation indicator needs.

    numbers: (n_species,) atomic numbers
    """
    counts = torch.zeros(len(numbers), dtype=torch.long)
    for sample in train:
        if not sample.only_hamiltonian:
            counts += sample.graph.species.bincount(minlength=len(numbers))
    for number, count in zip(numbers, counts.tolist(), strict=True):
        if count < 2:
            raise InputError(
                f"the training structures with energies have {count} {chemical_symbols[number]} atoms, and "
                "two are needed; remove that species from the settings, or add structures"
            )


def make_sample(
    label: LabelledStructure, basis: OrbitalBasis, atom_energies: tuple[float, ...], cutoff: float
) -> Sample:
    """Build the graph and convert the labels; raises InputError if H does not fit the basis."""
    graph = GraphBuilder(basis, cutoff, skin=0.0).build(label.system, DTYPE)
    species = graph.species.numpy()
    reference = torch.tensor([f for s in species for f in basis.occupations[s]], dtype=torch.float64)
    n = len(reference)
    if label.hamiltonian is not None and label.hamiltonian.shape != (n, n):
        raise InputError(
            f"{label.name}: the Hamiltonian is {label.hamiltonian.shape}, but the basis has {n} orbitals "
            "for this structure; the settings' species do not match the data"
        )
    isolated = sum(atom_energies[s] for s in species)
    n_electrons = round(2 * float(reference.sum()))
    n_pairs = n_electrons // 2
    if n_electrons % 2 or label.n_occupied not in (None, n_pairs):
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
        f = torch.from_numpy(filling(levels.numpy(), n_pairs, kT))
        f, C = f[f > NEGLIGIBLE_OCCUPATION], C[:, f > NEGLIGIBLE_OCCUPATION]
        occupied, orbitals, occupations = levels[:n_pairs], C.to(DTYPE), f.to(DTYPE)
        multipoles = multipoles_of((C * f) @ C.T, reference, species, basis).to(DTYPE)
    return Sample(
        name=label.name,
        graph=graph,
        sizes=torch.tensor(basis.sizes[species]),
        reference=reference,
        n_pairs=n_pairs,
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


def multipoles_of(P: Tensor, reference: Tensor, species: NDArray[np.int64], basis: OrbitalBasis) -> Tensor:
    """(N, 4) excess electrons 2 Tr[P - P0] of every atom, and 4 P_sp of its first s and p shell as dipole."""
    found = torch.zeros(len(species), 4, dtype=P.dtype)
    start = 0
    for atom, kind in enumerate(species):
        shells = basis.shells[kind]
        starts = np.cumsum([start, *(2 * l + 1 for l in shells)])
        own = slice(start, int(starts[-1]))
        found[atom, 0] = 2.0 * (P.diagonal()[own] - reference[own]).sum()
        if 0 in shells and 1 in shells:
            s, p = int(starts[shells.index(0)]), int(starts[shells.index(1)])
            found[atom, 1:] = 4.0 * P[s, p : p + 3]
        start = own.stop
    return found


def inner_radii(samples: list[Sample], n_kinds: int) -> Tensor:
    """(n_kinds,) a little less than the shortest distance of each kind of pair in Å; 0 if there is none."""
    radii = torch.full((n_kinds,), torch.inf)
    for sample in samples:
        distances = torch.linalg.vector_norm(sample.graph.pair_vectors, dim=1)
        for kind, part in enumerate(distances.split(sample.graph.kind_sizes)):
            if len(part):
                radii[kind] = torch.minimum(radii[kind], INNER_FRACTION * part.min())
    return torch.where(radii.isfinite(), radii, 0.0)


@dataclass(frozen=True)
class Derivatives:
    """Forces (N, 3) in eV/Å and virial (3, 3) in eV of some energy."""

    forces: Tensor
    virial: Tensor

    @classmethod
    def of(
        cls, outputs: Sequence[Tensor], cotangents: Sequence[Tensor], graph: Graph, create_graph: bool = False
    ) -> Derivatives:
        """Of sum(outputs * cotangents), by the geometry of the graph from which the outputs were made."""
        gradients = torch.autograd.grad(
            outputs, graph.geometry, cotangents, create_graph=create_graph, materialize_grads=True
        )
        return cls(*forces_and_virial(gradients, graph))

    def __add__(self, other: Derivatives) -> Derivatives:
        return Derivatives(self.forces + other.forces, self.virial + other.virial)

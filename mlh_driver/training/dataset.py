"""The data of a training run: read, checked against the settings and against each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor

from mlh_driver.basis import OrbitalBasis
from mlh_driver.data import LabelledStructure, read_split, read_splits
from mlh_driver.data.hdf5 import differences, read_reference
from mlh_driver.engine import Engine
from mlh_driver.errors import InputError
from mlh_driver.model import Model, load_model
from mlh_driver.system import System
from mlh_driver.training.objectives import total_energy
from mlh_driver.training.samples import Sample, make_sample
from mlh_driver.training.settings import DataSettings, TrainSettings

#: The wall begins at this fraction of the shortest distance of the data.
INNER_FRACTION = 0.98


@dataclass(frozen=True)
class DataSet:
    """Samples for training, those with energies first, and for validation.

    parent:     the model that the training starts from
    remembered: its structures that are not among the samples; they are not trained on, but count as known
    """

    train: list[Sample]
    validation: list[Sample]
    parent: Model | None = None
    remembered: tuple[System, ...] = ()

    @classmethod
    def read(cls, settings: TrainSettings) -> DataSet:
        """All structures that the settings name. Raises InputError where they do not fit together."""
        check_sections(settings)
        check_references(settings)
        basis = settings.basis()
        known = _samples(settings, "train")
        if not known:
            raise InputError("the settings name no training structures with energies")
        drafts, validation = _drafts(settings), _samples(settings, "validation")
        check_names([*known, *drafts, *validation])
        _check_unseen([*known, *drafts], validation, basis)
        parent = _parent(settings)
        others = [] if parent is None else _others(parent.structures, [*known, *validation], basis)
        rehearsed = _evenly(others, settings.rehearse)
        if parent is not None:
            known += [_as_predicted(parent, others[k], k, settings) for k in rehearsed]
        remembered = tuple(system for k, system in enumerate(others) if k not in rehearsed)
        _check_species(known, basis.numbers.tolist())
        if settings.hamiltonian.steps and all(sample.hamiltonian is None for sample in known + drafts):
            raise InputError("no training structure has a Hamiltonian; label some with mlh-driver label")
        return cls(known + drafts, validation, parent, remembered)

    @property
    def known(self) -> list[Sample]:
        """The training samples with energies and forces."""
        return [sample for sample in self.train if not sample.only_hamiltonian]

    def inner_radii(self, n_kinds: int) -> Tensor:
        """(n_kinds,) Å, a little less than the shortest distance of each kind of pair; 0 if there is none.

        Never more than those of the parent.
        """
        radii = torch.full((n_kinds,), torch.inf)
        for sample in self.known:
            distances = torch.linalg.vector_norm(sample.graph.pair_vectors, dim=1)
            for kind, part in enumerate(distances.split(sample.graph.kind_sizes)):
                if len(part):
                    radii[kind] = torch.minimum(radii[kind], INNER_FRACTION * part.min())
        if self.parent is not None:
            before = self.parent.network.inner_radii
            radii = torch.where(before > 0.0, torch.minimum(radii, before), radii)
        return torch.where(radii.isfinite(), radii, 0.0)


def _parent(settings: TrainSettings) -> Model | None:
    """The model that the training starts from; raises InputError if these are not its settings."""
    name = settings.start_from
    if not name:
        return None
    model = load_model(name)
    if (model.basis, model.network.settings) != (settings.basis(), settings.network):
        raise InputError(
            f"start_from = {name}: that model has another basis or other network settings; "
            "use the settings of its metadata (mlh-driver info NAME)"
        )
    if model.metadata.atom_energies_eV != settings.atom_energies():
        raise InputError(
            f"start_from = {name}: that model counts energies from those of isolated atoms "
            f"{model.metadata.atom_energies_eV}, these settings from {settings.atom_energies()} "
            "(atom_energy_eV, eV); use the same"
        )
    return model


def _others(structures: Iterable[System], samples: Sequence[Sample], basis: OrbitalBasis) -> list[System]:
    """Those that are not among the samples."""
    known = {sample.system(basis).key for sample in samples}
    return [system for system in structures if system.key not in known]


def _evenly(items: Sequence[object], count: int) -> list[int]:
    """Indices of ``count`` of the items, or of all if there are fewer, evenly spread."""
    chosen = min(count, len(items))
    return [k * len(items) // chosen for k in range(chosen)]


def _as_predicted(parent: Model, system: System, number: int, settings: TrainSettings) -> Sample:
    """One of the parent's structures as it predicts it, so that the training does not forget it."""
    engine = Engine(parent, sampling="gamma")
    results = engine.compute(system)
    label = LabelledStructure(
        name=f"{parent.metadata.name}:{number}",
        system=system,
        energy=results.energy,
        forces=results.forces,
        stress=results.stress,
        hamiltonian=engine.hamiltonian(system),
        electronic_temperature_K=engine.settings.electronic_temperature_K,
    )
    sample = make_sample(label, settings.basis(), settings.atom_energies(), settings.network.pair_cutoff_A)
    # The engine may hold charges, which no loss knows: then its energy is not what the training computes, and
    # the charges of H are not those that the network predicts.
    blocks, binding, derivatives = total_energy(parent.network, sample)
    return replace(
        sample,
        multipoles=blocks.multipoles.detach(),
        binding=float(binding.detach()),
        forces=derivatives.forces.detach(),
        virial=derivatives.virial.detach(),
        rehearsed=True,
    )


def labels_of(settings: TrainSettings, role: str, learn: str = "all") -> list[LabelledStructure]:
    """The structures that the settings name for a role, ``train`` or ``validation``.

    learn: ``all`` gives those with energies and forces of the reference, ``hamiltonian`` the others
    """
    return [label for _, label in _labels(settings, role, learn)]


def _labels(
    settings: TrainSettings, role: str, learn: str
) -> Iterator[tuple[DataSettings, LabelledStructure]]:
    """With the section that names each."""
    for source in settings.data:
        for split in getattr(source, role) if source.learn == learn else ():
            for label in read_split(source.path, split, source.names):
                yield source, label


def _samples(settings: TrainSettings, role: str, learn: str = "all") -> list[Sample]:
    basis, energies, cutoff = settings.basis(), settings.atom_energies(), settings.network.pair_cutoff_A
    return [
        replace(make_sample(label, basis, energies, cutoff), repeat=source.repeat)
        for source, label in _labels(settings, role, learn)
    ]


def _drafts(settings: TrainSettings) -> list[Sample]:
    """Samples whose Hamiltonian alone is to be learned."""
    drafts = [replace(s, only_hamiltonian=True) for s in _samples(settings, "train", "hamiltonian")]
    for draft in drafts:
        if draft.hamiltonian is None:
            raise InputError(
                f"{draft.name} has no Hamiltonian, but its data section says learn = 'hamiltonian'; "
                "label it with mlh-driver label, or leave that line out"
            )
    return drafts


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
                f"{path} holds energies of another reference than {first} "
                f"({differences(reference, expected)}); label one of them again, or take its Hamiltonians "
                "only (learn = 'hamiltonian')"
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


def _check_unseen(train: Sequence[Sample], validation: Sequence[Sample], basis: OrbitalBasis) -> None:
    """Raises InputError if a structure for validation is among those of the training, by another name."""
    known = {sample.system(basis).key: sample.name for sample in train}
    for sample in validation:
        if (same := known.get(sample.system(basis).key)) is not None:
            raise InputError(
                f"{sample.name}, for validation, is the structure {same} of the training; "
                "leave one of them out"
            )


def _check_species(train: Sequence[Sample], numbers: Sequence[int]) -> None:
    """Raises InputError unless there are two atoms of each species, as the extrapolation indicator needs.

    numbers: (n_species,) atomic numbers
    """
    counts = torch.zeros(len(numbers), dtype=torch.long)
    for sample in train:
        counts += sample.graph.species.bincount(minlength=len(numbers))
    for number, count in zip(numbers, counts.tolist(), strict=True):
        if count < 2:
            raise InputError(
                f"the training structures with energies have {count} {chemical_symbols[number]} atoms, and "
                "two are needed; remove that species from the settings, or add structures"
            )

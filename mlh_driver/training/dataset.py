"""The data of a training run: read, checked against the settings and against each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor

from mlh_driver.data import LabelledStructure, read_split, read_splits
from mlh_driver.data.hdf5 import read_reference
from mlh_driver.errors import InputError
from mlh_driver.training.samples import Sample, make_sample
from mlh_driver.training.settings import TrainSettings

#: The wall begins at this fraction of the shortest distance of the data.
INNER_FRACTION = 0.98


@dataclass(frozen=True)
class DataSet:
    """Samples for training, those with energies first, and for validation."""

    train: list[Sample]
    validation: list[Sample]

    @classmethod
    def read(cls, settings: TrainSettings) -> DataSet:
        """All structures that the settings name. Raises InputError where they do not fit together."""
        check_sections(settings)
        check_references(settings)
        known = _samples(settings, "train")
        if not known:
            raise InputError("the settings name no training structures with energies")
        train, validation = known + _drafts(settings), _samples(settings, "validation")
        check_names([*train, *validation])
        _check_unseen(train, validation)
        _check_species(known, settings.basis().numbers.tolist())
        if settings.hamiltonian.steps and all(sample.hamiltonian is None for sample in train):
            raise InputError("no training structure has a Hamiltonian; label some with mlh-driver label")
        return cls(train, validation)

    def inner_radii(self, n_kinds: int) -> Tensor:
        """(n_kinds,) Å, a little less than the shortest distance of each kind of pair; 0 if there is none."""
        radii = torch.full((n_kinds,), torch.inf)
        for sample in self.train:
            if sample.only_hamiltonian:
                continue
            distances = torch.linalg.vector_norm(sample.graph.pair_vectors, dim=1)
            for kind, part in enumerate(distances.split(sample.graph.kind_sizes)):
                if len(part):
                    radii[kind] = torch.minimum(radii[kind], INNER_FRACTION * part.min())
        return torch.where(radii.isfinite(), radii, 0.0)


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


def _samples(settings: TrainSettings, role: str, learn: str = "all") -> list[Sample]:
    basis, energies, cutoff = settings.basis(), settings.atom_energies(), settings.network.pair_cutoff_A
    return [make_sample(label, basis, energies, cutoff) for label in labels_of(settings, role, learn)]


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


def _check_unseen(train: Sequence[Sample], validation: Sequence[Sample]) -> None:
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

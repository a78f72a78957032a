"""Samples of the structures that the fixture ``folder`` labels by a random model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from mlh_driver.data import LabelledStructure, read_structure
from mlh_driver.engine import Engine
from mlh_driver.model import Model
from mlh_driver.results import Results
from mlh_driver.training.samples import Sample, make_sample
from mlh_driver.training.settings import TrainSettings, read_settings

HOT_K = 20000.0


def sample_of(folder: Path, settings: TrainSettings, dtype: torch.dtype = torch.float32):
    label = read_structure(folder / "data", "s0")
    sample = make_sample(label, settings.basis(), settings.atom_energies(), 5.0)
    if dtype == torch.float32:
        return sample
    return replace(
        sample,
        graph=replace(sample.graph, pair_vectors=sample.graph.pair_vectors.double()),
        hamiltonian=sample.hamiltonian.double(),
        orbitals=sample.orbitals.double(),
        occupations=sample.occupations.double(),
        forces=sample.forces.double(),
        virial=sample.virial.double(),
    )


def hot_sample(folder: Path, teacher: Model) -> tuple[LabelledStructure, Results, Sample]:
    """A structure labelled by the teacher with hot electrons, its results, and the sample."""
    label = read_structure(folder / "data", "s0")
    results = Engine(teacher, electronic_temperature_K=HOT_K).compute(label.system)
    label = replace(
        label,
        energy=results.energy,
        forces=results.forces,
        stress=results.stress,
        electronic_temperature_K=HOT_K,
    )
    settings = read_settings(folder / "tiny.toml")
    return label, results, make_sample(label, settings.basis(), settings.atom_energies(), 5.0)

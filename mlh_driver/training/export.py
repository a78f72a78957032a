"""From a trained network to a model that can be shipped."""

from __future__ import annotations

import torch

from mlh_driver.extrapolation import fit_indicator
from mlh_driver.model import Model, ModelMetadata
from mlh_driver.network.network import HamiltonianNetwork
from mlh_driver.training.samples import Sample
from mlh_driver.training.settings import TrainSettings


def make_model(settings: TrainSettings, network: HamiltonianNetwork, train: list[Sample]) -> Model:
    """Add the extrapolation indicator of the training data and the metadata; errors are not yet known."""
    network = network.eval().requires_grad_(False)
    with torch.no_grad():
        descriptors = torch.cat([network(sample.graph).descriptors for sample in train])
    species = torch.cat([sample.graph.species for sample in train])
    metadata = ModelMetadata(
        name=settings.name,
        basis=settings.basis(),
        network=settings.network,
        atom_energies_eV=settings.atom_energies(),
        reference=settings.reference,
        valid_range=settings.valid_range,
        training_data=tuple(sample.name for sample in train),
    )
    return Model(metadata, network, fit_indicator(descriptors, species, len(settings.species)))

"""From a trained network to a model that can be shipped, with its measured errors."""

from __future__ import annotations

from dataclasses import replace

import torch

from mlh_driver.engine import Engine
from mlh_driver.evaluation import evaluate_structures, mean_summary
from mlh_driver.extrapolation import fit_indicator
from mlh_driver.model import Model, ModelMetadata
from mlh_driver.network.network import HamiltonianNetwork
from mlh_driver.small_cells import widths
from mlh_driver.training.dataset import labels_of
from mlh_driver.training.samples import Sample
from mlh_driver.training.settings import TrainSettings


def make_model(settings: TrainSettings, network: HamiltonianNetwork, train: list[Sample]) -> Model:
    """Add bounds and indicator of the training data, the metadata, and the errors on all splits.

    The indicator knows the structures whose energies and forces were learned, the bounds all of them.
    """
    network = network.eval().requires_grad_(False)
    known = [sample for sample in train if not sample.only_hamiltonian]
    with torch.no_grad(), network.bounds.measured():
        descriptors = {sample.name: network(sample.graph).descriptors for sample in train}
    species = torch.cat([sample.graph.species for sample in known])
    of_known = torch.cat([descriptors[sample.name] for sample in known])
    metadata = ModelMetadata(
        name=settings.name,
        basis=settings.basis(),
        network=settings.network,
        atom_energies_eV=settings.atom_energies(),
        reference=settings.reference,
        valid_range=settings.valid_range,
        training_data=tuple(sample.name for sample in train),
        narrowest_cell_A=min(float(widths(sample.graph.cell.numpy()).min()) for sample in known),
    )
    model = Model(metadata, network, fit_indicator(of_known, species, len(settings.species)))
    return replace(model, metadata=metadata.model_copy(update={"errors": measured_errors(model, settings)}))


def measured_errors(model: Model, settings: TrainSettings) -> dict[str, dict[str, float]]:
    """Mean figures of ``mlh-driver evaluate`` on those of the data that the model can compute, by role."""
    engine = Engine(model)
    labels = {role: labels_of(settings, role) for role in ("train", "validation")}
    return {
        role: mean_summary(evaluate_structures(engine, structures)[0])
        for role, structures in labels.items()
        if structures
    }

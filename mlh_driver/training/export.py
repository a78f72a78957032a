"""From a trained network to a model that can be shipped, with its measured errors."""

from __future__ import annotations

from dataclasses import replace

import torch

from mlh_driver.engine import Engine
from mlh_driver.evaluation import evaluate_structures, mean_summary
from mlh_driver.extrapolation import fit_indicator
from mlh_driver.graph import GraphBuilder
from mlh_driver.model import Model, ModelMetadata
from mlh_driver.network.network import HamiltonianNetwork
from mlh_driver.system import widths
from mlh_driver.training.dataset import DataSet, labels_of
from mlh_driver.training.samples import DTYPE
from mlh_driver.training.settings import TrainSettings


def make_model(settings: TrainSettings, network: HamiltonianNetwork, data: DataSet) -> Model:
    """Add bounds and indicator of the training data, the metadata, and the errors on all splits.

    The indicator knows the structures whose energies and forces were learned, the bounds all of them; both
    know those of the model that the training started from.
    """
    network = network.eval().requires_grad_(False)
    known = (*(sample.system(settings.basis()) for sample in data.known), *data.remembered)
    builder = GraphBuilder(settings.basis(), settings.network.pair_cutoff_A, skin=0.0)
    graphs = [sample.graph for sample in data.known]
    graphs += [builder.build(system, DTYPE) for system in data.remembered]
    with torch.no_grad(), network.bounds.measured():
        descriptors = torch.cat([network(graph).descriptors for graph in graphs])
        for draft in data.train[len(data.known) :]:
            network(draft.graph)
    species = torch.cat([graph.species for graph in graphs])
    inherited = None if data.parent is None else data.parent.metadata
    if data.parent is not None:
        network.bounds.widen(data.parent.network.bounds)
    before = inherited.training_data if inherited else ()
    new = [sample.name for sample in data.train if not sample.rehearsed]
    metadata = ModelMetadata(
        name=settings.name,
        basis=settings.basis(),
        network=settings.network,
        atom_energies_eV=settings.atom_energies(),
        reference=settings.reference,
        valid_range=settings.valid_range,
        license=settings.license or (inherited.license if inherited else ""),
        citation=settings.citation or (inherited.citation if inherited else ""),
        training_data=tuple(dict.fromkeys((*before, *new))),
        narrowest_cell_A=min(float(widths(system.cell).min()) for system in known),
    )
    indicator = fit_indicator(descriptors, species, len(settings.species))
    model = Model(metadata, network, indicator, known)
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

"""A first pair repulsion by least squares.

The double-counting energy is what repulsion is in tight binding: steep and mostly pairwise. Its pair part
is linear in its coefficients, so it is fitted in closed form to the energies and forces that the
electronic term leaves, before the network learns the many-body rest.
"""

from __future__ import annotations

import numpy as np
import torch

from mlh_driver.graph import forces_and_virial
from mlh_driver.network.network import HamiltonianNetwork
from mlh_driver.training.objectives import BandTerm
from mlh_driver.training.samples import Sample
from mlh_driver.training.settings import LossWeights

#: Of the least squares, relative to what one structure contributes: it only settles what no pair tells of.
RIDGE = 1e-4


def fit_repulsion(
    network: HamiltonianNetwork, samples: list[Sample], bands: dict[str, BandTerm], weights: LossWeights
) -> None:
    """Set ``network.repulsion`` to the fit, and let the many-body rest start anew, from zero."""
    systems = [_equations(network, sample, bands[sample.name], weights) for sample in samples]
    matrix = np.concatenate([a for a, _ in systems])
    target = np.concatenate([b for _, b in systems])
    n = matrix.shape[1]
    ridge = RIDGE * np.sqrt(len(samples)) * np.eye(n)
    solution, *_ = np.linalg.lstsq(
        np.concatenate([matrix, ridge]), np.concatenate([target, np.zeros(n)]), rcond=None
    )
    with torch.no_grad():
        network.repulsion.copy_(torch.tensor(solution).reshape(network.repulsion.shape))
        network.many_body.reset()


def _equations(
    network: HamiltonianNetwork, sample: Sample, band: BandTerm, weights: LossWeights
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted linear equations of one structure for the coefficients of the repulsion."""
    graph = sample.graph.with_gradient()
    distances = torch.linalg.vector_norm(graph.pair_vectors, dim=1)
    radial = network.message_radial(distances)
    kinds = torch.repeat_interleave(torch.arange(len(network.kinds)), torch.tensor(graph.kind_sizes))
    energies, forces = [], []
    for kind in range(len(network.kinds)):
        for column in range(radial.shape[1]):
            energy = radial[kinds == kind, column].sum()
            gradients = torch.autograd.grad(energy, graph.geometry, retain_graph=True, materialize_grads=True)
            energies.append(float(energy.detach()))
            forces.append(forces_and_virial(gradients, graph)[0].flatten().numpy())
    n_atoms = graph.n_atoms
    energy_weight = np.sqrt(weights.energy) / n_atoms
    force_weight = np.sqrt(weights.forces / (3 * n_atoms))
    matrix = np.concatenate([energy_weight * np.array(energies)[None], force_weight * np.array(forces).T])
    missing = force_weight * (sample.forces - band.derivatives.forces).flatten().numpy()
    return matrix, np.concatenate([[energy_weight * (sample.binding - band.energy)], missing])

"""The stages of a training: what each learns, from which samples, by which loss, and how it is judged.

First the Hamiltonian alone, then the double-counting energy on top of a fixed electronic term, then all
together with exact forces.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor, nn

from mlh_driver.network.network import HamiltonianNetwork
from mlh_driver.training.objectives import (
    BandTerm,
    band_term,
    double_counting,
    energy_errors,
    energy_loss,
    hamiltonian_errors,
    hamiltonian_loss,
    joint_loss,
    total_energy,
)
from mlh_driver.training.pair_potential import fit_repulsion
from mlh_driver.training.samples import Sample
from mlh_driver.training.settings import LossWeights, StageSettings, TrainSettings

#: The modules and parameters of the network that make its double-counting energy.
ENERGY_PARTS = ("many_body", "repulsion")


class Stage(ABC):
    """One stage.

    plan:           length and learning rate
    gradient_limit: longer gradients are shortened to it: some ten times the usual ones late in a training, so
                    that one odd batch does not undo many steps
    """

    name: str
    gradient_limit: float

    def __init__(self, plan: StageSettings, weights: LossWeights) -> None:
        self.plan = plan
        self.weights = weights

    @abstractmethod
    def parameters(self, network: HamiltonianNetwork) -> list[nn.Parameter]:
        """What is trained."""

    def usable(self, samples: Iterable[Sample]) -> list[Sample]:
        """The samples that can teach it."""
        return list(samples)

    def start(self, network: HamiltonianNetwork, samples: list[Sample]) -> None:  # noqa: B027 most have nothing
        """Called before the first step."""

    @abstractmethod
    def loss(self, network: HamiltonianNetwork, sample: Sample) -> Tensor:
        """What is minimized."""

    @abstractmethod
    def errors(self, network: HamiltonianNetwork, sample: Sample) -> dict[str, float]:
        """Errors on one structure; ``score`` decides on early stopping."""

    def _weighted_score(self, errors: dict[str, float]) -> float:
        """Forces and energies, weighted as in the loss."""
        forces = self.weights.forces * errors["forces_rmse_meV_A"] ** 2
        return float((forces + self.weights.energy * errors["energy_meV_atom"] ** 2) ** 0.5)


class HamiltonianStage(Stage):
    """H of the samples that have one."""

    name = "hamiltonian"
    gradient_limit = 10.0

    def parameters(self, network: HamiltonianNetwork) -> list[nn.Parameter]:
        return [p for name, p in network.named_parameters() if name.split(".")[0] not in ENERGY_PARTS]

    def usable(self, samples: Iterable[Sample]) -> list[Sample]:
        return [sample for sample in samples if sample.hamiltonian is not None]

    def loss(self, network: HamiltonianNetwork, sample: Sample) -> Tensor:
        return hamiltonian_loss(network, network(sample.graph), sample)

    def errors(self, network: HamiltonianNetwork, sample: Sample) -> dict[str, float]:
        errors = hamiltonian_errors(network, sample)
        return {**errors, "score": errors["H_rms_per_atom_meV"]}


class EnergyStage(Stage):
    """The double-counting energy, added to an electronic term that is computed once for each sample."""

    name = "energy"
    gradient_limit = 30.0

    def __init__(self, plan: StageSettings, weights: LossWeights) -> None:
        super().__init__(plan, weights)
        self._bands: dict[str, BandTerm] = {}

    def parameters(self, network: HamiltonianNetwork) -> list[nn.Parameter]:
        return [p for name, p in network.named_parameters() if name.split(".")[0] in ENERGY_PARTS]

    def usable(self, samples: Iterable[Sample]) -> list[Sample]:
        return [sample for sample in samples if not sample.only_hamiltonian]

    def start(self, network: HamiltonianNetwork, samples: list[Sample]) -> None:
        """A first pair repulsion by least squares."""
        self._bands = {sample.name: self.band(network, sample) for sample in samples}
        fit_repulsion(network, samples, self._bands, self.weights)

    def band(self, network: HamiltonianNetwork, sample: Sample) -> BandTerm:
        """What the double-counting energy is added to."""
        return band_term(network, sample)

    def _band(self, network: HamiltonianNetwork, sample: Sample) -> BandTerm:
        """The same, remembered: what makes H is not trained."""
        if sample.name not in self._bands:
            self._bands[sample.name] = self.band(network, sample)
        return self._bands[sample.name]

    def loss(self, network: HamiltonianNetwork, sample: Sample) -> Tensor:
        return energy_loss(network, sample, self._band(network, sample), self.weights)

    def errors(self, network: HamiltonianNetwork, sample: Sample) -> dict[str, float]:
        energy, derivatives = double_counting(network, sample, self._band(network, sample))
        errors = energy_errors(energy, derivatives, sample)
        return {**errors, "score": self._weighted_score(errors)}


class JointStage(Stage):
    """Everything together, with exact forces."""

    name = "joint"
    gradient_limit = 30.0

    def parameters(self, network: HamiltonianNetwork) -> list[nn.Parameter]:
        return list(network.parameters())

    def loss(self, network: HamiltonianNetwork, sample: Sample) -> Tensor:
        return joint_loss(network, sample, self.weights)

    def errors(self, network: HamiltonianNetwork, sample: Sample) -> dict[str, float]:
        _, energy, derivatives = total_energy(network, sample)
        errors = energy_errors(energy, derivatives, sample) | hamiltonian_errors(network, sample)
        return {**errors, "score": self._weighted_score(errors)}


def stages_of(settings: TrainSettings) -> tuple[Stage, ...]:
    """The stages in their order."""
    return (
        HamiltonianStage(settings.hamiltonian, settings.weights),
        EnergyStage(settings.energy, settings.weights),
        JointStage(settings.joint, settings.weights),
    )

"""What each stage minimizes, and the errors that validation reports.

H of a periodic structure is defined up to one constant, H ~ H + c; c is fitted per structure (the mean
of the diagonal of the difference), so that the zero of potential never enters. The double-counting
energy is trained on what remains after the model's *own* electronic energy 2 Tr[(P - P0) H] - T_e S_e, at
the electronic temperature of the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from mlh_driver.graph import Graph, forces_and_virial
from mlh_driver.hamiltonian import Assembly, BlockMatrix
from mlh_driver.network.network import Blocks, HamiltonianNetwork
from mlh_driver.solvers.dense import differentiable_density
from mlh_driver.training.samples import Sample
from mlh_driver.training.settings import LossWeights

#: Of squared errors of on-site elements, 1 for the others: they are few, but the potential of distant charges
#: shows in them alone.
ONSITE_WEIGHT = 10.0
#: Of squared errors of occupied levels to first order: errors of many hops add up in those near the gap. Each
#: level has the weight of its occupation.
LEVEL_WEIGHT = 50.0
#: Of squared errors of excess electrons and dipoles, beside those of H in eV^2.
MULTIPOLE_WEIGHT = 1000.0
#: Errors of the energy beyond this, in eV per atom, count linearly: a few structures in an odd electronic
#: state must not shift all others, nor the swings of all energies at a high learning rate swamp the forces.
LARGE_ENERGY_ERROR_eV = 0.002
#: Largest difference of the electrons on an atom between P of the predicted H and the network's own number.
#: Beyond it electrons are on the wrong atoms, and the energy means nothing yet. Frames of hot melts pass 0.1.
LARGEST_CHARGE_DEVIATION = 0.2


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


def shift_free(difference: Tensor) -> Tensor:
    """Remove the mean of the diagonal from a difference of Hamiltonians, (n, n)."""
    n = len(difference)
    constant = torch.diagonal(difference).mean()
    return difference - constant * torch.eye(n, dtype=difference.dtype)


def hamiltonian_loss(network: HamiltonianNetwork, blocks: Blocks, sample: Sample) -> Tensor:
    """Weighted squared errors of H per atom in eV^2, up to a constant; zero where H is not labelled.

    So are those of the occupied levels, to first order: with the labelled eigenvectors as columns of C, the
    diagonal of C^T (error of H) C, each weighted by its occupation.
    The multipoles and, weighted as the diagonal of H, their potential are held to those of the labelled H.
    H itself is compared with the potential of the labelled multipoles in place of the predicted: else the
    on-site blocks learn by heart what the latter lack in each cell.
    """
    if sample.hamiltonian is None:
        return blocks.onsite.new_zeros(())
    assert sample.orbitals is not None and sample.occupations is not None and sample.multipoles is not None
    predicted = Assembly(blocks, sample.sizes).hamiltonian(sample.hamiltonian.dtype)
    with torch.no_grad():
        labelled = network.long_range.field(sample.graph, sample.multipoles).potentials
    missing = torch.repeat_interleave(labelled - blocks.potentials, sample.sizes)
    error = shift_free(predicted.dense() + torch.diag(missing) - sample.hamiltonian)
    onsite = predicted.like_dense(error).blocks[predicted.diagonal]
    squares = error.square().sum() + (ONSITE_WEIGHT - 1.0) * onsite.square().sum()
    levels = (sample.orbitals * (error @ sample.orbitals)).sum(dim=0)
    multipoles = (blocks.multipoles - sample.multipoles).square().sum()
    potentials = ONSITE_WEIGHT * missing.square().sum()
    of_levels = LEVEL_WEIGHT * (sample.occupations * levels.square()).sum()
    loss = squares + of_levels + potentials + MULTIPOLE_WEIGHT * multipoles
    return loss / sample.graph.n_atoms


@dataclass(frozen=True)
class Electrons:
    """The electrons of the predicted H, at the temperature of the label.

    pattern:      H as blocks
    H, excess:    (n, n) in eV, and 2 (P - P0); both differentiable
    entropy_term: T_e S_e in eV
    """

    graph: Graph
    blocks: Blocks
    assembly: Assembly
    pattern: BlockMatrix
    H: Tensor
    excess: Tensor
    entropy_term: Tensor

    @classmethod
    def of(cls, network: HamiltonianNetwork, sample: Sample) -> Electrons:
        graph = sample.graph.with_gradient()
        blocks = network(graph)
        assembly = Assembly(blocks, sample.sizes)
        pattern = assembly.hamiltonian()
        H = pattern.dense()
        density, entropy_term = differentiable_density(H, sample.n_occupied, sample.kT)
        excess = 2.0 * (density - torch.diag(sample.neutral))
        return cls(graph, blocks, assembly, pattern, H, excess, entropy_term)

    @property
    def free_energy(self) -> Tensor:
        """2 Tr[(P - P0) H] - T_e S_e in eV; P and S_e held fixed, as it is stationary in them."""
        return (self.excess.detach() * self.H).sum() - self.entropy_term

    @property
    def charge_deviation(self) -> float:
        """Largest difference between the excess electrons of an atom by P and those of the network."""
        parts = self.excess.detach().diagonal().split(self.pattern.sizes.tolist())
        found = torch.stack([part.sum() for part in parts])
        return float((found - self.blocks.multipoles[:, 0].detach()).abs().max())

    def derivatives(self, energies: Tensor, create_graph: bool = False) -> Derivatives:
        """Of the free energy plus the double-counting energies (N,)."""
        return Derivatives.of(
            [self.blocks.onsite, self.blocks.pairs, energies],
            [*self.assembly.cotangents(self.pattern.like_dense(self.excess)), torch.ones_like(energies)],
            self.graph,
            create_graph,
        )


@dataclass(frozen=True)
class BandTerm:
    """Electronic free energy less its double counting of Coulomb energy, in eV; derivatives."""

    energy: float
    derivatives: Derivatives


def band_term(network: HamiltonianNetwork, sample: Sample) -> BandTerm:
    """The model's electronic energy and forces, with the network held fixed."""
    electrons = Electrons.of(network, sample)
    coulomb = electrons.blocks.coulomb_energies
    energy = float(electrons.free_energy.detach() + coulomb.detach().sum())
    return BandTerm(energy, electrons.derivatives(coulomb))


def double_counting(
    network: HamiltonianNetwork, sample: Sample, band: BandTerm, create_graph: bool = False
) -> tuple[Tensor, Derivatives]:
    """Binding energy and derivatives: the network's local energies plus the fixed electronic term."""
    graph = sample.graph.with_gradient()
    energy = network.local_energies(graph).sum()
    derivatives = Derivatives.of([energy], [torch.ones_like(energy)], graph, create_graph)
    return energy + band.energy, derivatives + band.derivatives


def energy_loss(network: HamiltonianNetwork, sample: Sample, band: BandTerm, weights: LossWeights) -> Tensor:
    """Errors of energy, forces and virial when only the double-counting energy is trained."""
    energy, derivatives = double_counting(network, sample, band, create_graph=True)
    return weighted_errors(energy - sample.binding, derivatives, sample, weights)


def weighted_errors(
    energy_error: Tensor, derivatives: Derivatives, sample: Sample, weights: LossWeights
) -> Tensor:
    """Weighted errors of the energy per atom (Huber's), and squared ones of forces and virial per atom."""
    n_atoms = sample.graph.n_atoms
    per_atom = energy_error / n_atoms
    huber = huber_loss(per_atom, torch.zeros_like(per_atom), delta=LARGE_ENERGY_ERROR_eV)
    loss = 2.0 * weights.energy * huber
    loss = loss + weights.forces * (derivatives.forces - sample.forces).square().mean()
    if sample.virial is not None:
        loss = loss + weights.virial * ((derivatives.virial - sample.virial) / n_atoms).square().mean()
    return loss


def total_energy(network: HamiltonianNetwork, sample: Sample) -> tuple[Blocks, Tensor, Derivatives]:
    """Blocks, binding energy and derivatives, differentiable in the parameters, response of P included."""
    electrons = Electrons.of(network, sample)
    return electrons.blocks, *_total_energy(electrons)


def _total_energy(electrons: Electrons) -> tuple[Tensor, Derivatives]:
    energies = electrons.blocks.energies
    energy = electrons.free_energy + energies.to(electrons.H.dtype).sum()
    return energy, electrons.derivatives(energies, create_graph=True)


def joint_loss(network: HamiltonianNetwork, sample: Sample, weights: LossWeights) -> Tensor:
    """All errors together, with exact forces.

    The one of the Hamiltonian alone for a draft, and, where it is labelled, while electrons are on the wrong
    atoms.
    """
    if sample.only_hamiltonian:
        return weights.hamiltonian * hamiltonian_loss(network, network(sample.graph), sample)
    electrons = Electrons.of(network, sample)
    loss = weights.hamiltonian * hamiltonian_loss(network, electrons.blocks, sample)
    if sample.hamiltonian is not None and electrons.charge_deviation > LARGEST_CHARGE_DEVIATION:
        return loss
    energy, derivatives = _total_energy(electrons)
    error = (energy - sample.binding).to(sample.forces.dtype)
    return loss + weighted_errors(error, derivatives, sample, weights)


def hamiltonian_errors(network: HamiltonianNetwork, sample: Sample) -> dict[str, float]:
    """Errors of all elements alike and of the occupied eigenvalues, in meV."""
    if sample.hamiltonian is None or sample.occupied is None:
        return {}
    with torch.no_grad():
        H = Assembly(network(sample.graph), sample.sizes).hamiltonian().dense()
    difference = shift_free(H - sample.hamiltonian)
    levels = torch.linalg.eigvalsh(sample.hamiltonian + difference)[: sample.n_occupied] - sample.occupied
    return {
        "H_mae_meV": 1e3 * float(difference.abs().mean()),
        "H_rms_per_atom_meV": 1e3 * float((difference.square().sum() / sample.graph.n_atoms).sqrt()),
        "levels_mae_meV": 1e3 * float(levels.abs().mean()),
    }


def energy_errors(energy: Tensor, derivatives: Derivatives, sample: Sample) -> dict[str, float]:
    """Signed energy error in meV per atom, and force RMSE in meV/Å."""
    return {
        "energy_meV_atom": 1e3 * (float(energy.detach()) - sample.binding) / sample.graph.n_atoms,
        "forces_rmse_meV_A": 1e3
        * float((derivatives.forces.detach() - sample.forces).square().mean().sqrt()),
    }

"""What the stages of a training learn from: losses, their weights and their exact derivatives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_model
from training_samples import hot_sample, sample_of

from mlh_driver.data import hdf5, read_structure
from mlh_driver.errors import InputError
from mlh_driver.hamiltonian import Assembly
from mlh_driver.model import Model
from mlh_driver.training.export import make_model
from mlh_driver.training.objectives import (
    LEVEL_WEIGHT,
    MULTIPOLE_WEIGHT,
    ONSITE_WEIGHT,
    Derivatives,
    Electrons,
    LARGE_ENERGY_ERROR_eV,
    band_term,
    double_counting,
    hamiltonian_loss,
    joint_loss,
    shift_free,
    total_energy,
    weighted_errors,
)
from mlh_driver.training.samples import make_sample
from mlh_driver.training.settings import DataSettings, LossWeights, read_settings
from mlh_driver.training.stages import EnergyStage, JointStage
from mlh_driver.training.trainer import Trainer


@pytest.fixture
def electrons_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model puts electrons on other atoms than it says; its energy counts nevertheless."""
    monkeypatch.setattr("mlh_driver.training.objectives.LARGEST_CHARGE_DEVIATION", np.inf)


def test_hot_labels_teach_free_energies_and_hot_charges(folder: Path, teacher: Model) -> None:
    label, results, sample = hot_sample(folder, teacher)
    assert results.electronic_entropy > 1.0
    _, energy, derivatives = total_energy(teacher.network, sample)
    found, _ = double_counting(teacher.network, sample, band_term(teacher.network, sample))
    for value in (energy, found):
        assert float(value.detach()) == pytest.approx(sample.binding, abs=1e-4)
    torch.testing.assert_close(
        derivatives.forces.detach(), sample.forces, atol=1e-4, rtol=1e-4, check_dtype=False
    )
    np.testing.assert_allclose(sample.multipoles[:, 0], -results.charges, atol=1e-4)
    assert float(sample.occupations.sum()) == pytest.approx(sample.n_occupied, abs=1e-4)
    cold = make_sample(
        replace(label, electronic_temperature_K=0.0),
        teacher.basis,
        read_settings(folder / "tiny.toml").atom_energies(),
        5.0,
    )
    assert abs(cold.multipoles - sample.multipoles).max() > 0.01
    assert cold.occupations.tolist() == [1.0] * cold.n_occupied


def test_electrons_on_wrong_atoms_leave_the_loss_of_the_hamiltonian(
    folder: Path, teacher: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = sample_of(folder, read_settings(folder / "tiny.toml"), torch.float64)
    electrons = Electrons.of(teacher.network, sample)
    excess = sum(part.sum() for part in electrons.excess.detach().diagonal().split(sample.sizes.tolist())[:1])
    deviation = electrons.charge_deviation
    assert deviation >= abs(float(excess - electrons.blocks.multipoles[0, 0].detach())) - 1e-6
    weights = LossWeights()
    of_H = weights.hamiltonian * float(hamiltonian_loss(teacher.network, electrons.blocks, sample).detach())
    wrong = replace(sample, binding=sample.binding + 1.0)
    for limit, alone in ((0.99 * deviation, True), (1.01 * deviation, False)):
        monkeypatch.setattr("mlh_driver.training.objectives.LARGEST_CHARGE_DEVIATION", limit)
        loss = float(joint_loss(teacher.network, wrong, weights).detach())
        assert (loss == pytest.approx(of_H, rel=1e-9)) == alone


@pytest.mark.usefixtures("electrons_anywhere")
def test_the_teacher_has_no_error_on_its_own_labels(folder: Path, teacher: Model) -> None:
    """Energies, forces, virial and H of training are those of the engine, whatever the zero of H."""
    settings = read_settings(folder / "tiny.toml")
    sample = sample_of(folder, settings, torch.float64)
    blocks, energy, derivatives = total_energy(teacher.network, sample)
    assert float(energy.detach()) == pytest.approx(sample.binding, abs=1e-3)
    torch.testing.assert_close(derivatives.forces, sample.forces, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(derivatives.virial, sample.virial, atol=1e-3, rtol=1e-4)
    own = replace(sample, multipoles=blocks.multipoles.detach())  # a teacher without training has others
    assert float(joint_loss(teacher.network, own, LossWeights()).detach()) < 1e-6


def test_the_energy_stage_adds_to_the_exact_electronic_term(folder: Path, teacher: Model) -> None:
    sample = sample_of(folder, read_settings(folder / "tiny.toml"), torch.float64)
    _, energy, derivatives = total_energy(teacher.network, sample)
    found, apart = double_counting(teacher.network, sample, band_term(teacher.network, sample))
    assert float(found.detach()) == pytest.approx(float(energy.detach()), abs=1e-6)
    torch.testing.assert_close(apart.forces, derivatives.forces.detach())
    torch.testing.assert_close(apart.virial, derivatives.virial.detach())


def test_the_energy_stage_starts_anew(folder: Path) -> None:
    """Nothing of an earlier double-counting energy is left, and the fit heeds the weights."""
    trainer = Trainer(read_settings(folder / "tiny.toml"))
    network, plan = trainer.network, trainer.settings.energy
    before = network.many_body.factors.weight.clone()
    EnergyStage(plan, LossWeights()).start(network, trainer.data.train)
    assert (network.many_body.factors.weight != before).all()
    assert (network.many_body.readout == 0).all()
    first = network.repulsion.clone()
    EnergyStage(plan, LossWeights(energy=1e5)).start(network, trainer.data.train)
    assert not torch.allclose(network.repulsion, first)


def test_early_stopping_weighs_forces_and_energies_as_the_loss(folder: Path) -> None:
    trainer = Trainer(read_settings(folder / "tiny.toml"))
    weights = trainer.settings.weights
    errors = JointStage(trainer.settings.joint, weights).errors(trainer.average, trainer.data.validation[0])
    squares = weights.forces * errors["forces_rmse_meV_A"] ** 2
    assert errors["score"] ** 2 == pytest.approx(squares + weights.energy * errors["energy_meV_atom"] ** 2)


@pytest.mark.usefixtures("electrons_anywhere")
@pytest.mark.parametrize("kT", [0.0, 1.0])
def test_joint_loss_has_exact_parameter_gradients(folder: Path, kT: float) -> None:
    """Including the response of the density matrix to the Hamiltonian."""
    settings = read_settings(folder / "tiny.toml")
    sample = sample_of(folder, settings, torch.float64)
    sample = replace(
        sample, kT=kT, hamiltonian=torch.zeros_like(sample.hamiltonian), forces=0 * sample.forces
    )
    network = random_model().network.requires_grad_()
    weight = network.bonds[1].head.out_even
    (gradient,) = torch.autograd.grad(joint_loss(network, sample, LossWeights()), weight)
    direction = torch.randn_like(weight)
    values = []
    for x in (-1e-5, 1e-5):
        with torch.no_grad():
            weight += x * direction
        values.append(float(joint_loss(network, sample, LossWeights()).detach()))
        with torch.no_grad():
            weight -= x * direction
    assert (values[1] - values[0]) / 2e-5 == pytest.approx(float((gradient * direction).sum()), rel=1e-5)


def test_a_constant_in_the_hamiltonian_is_free() -> None:
    A = torch.randn(5, 5)
    torch.testing.assert_close(shift_free(A + 3.0 * torch.eye(5)), shift_free(A), atol=1e-5, rtol=0)


def test_onsite_elements_count_more_than_others(folder: Path, teacher: Model) -> None:
    """By the documented weights: an s-p element of the first atom, and one between two atoms."""
    sample = sample_of(folder, read_settings(folder / "tiny.toml"), torch.float64)
    with torch.no_grad():
        blocks = teacher.network(sample.graph)

    def loss(column: int, error: float) -> float:
        H = Assembly(blocks, sample.sizes).hamiltonian(torch.float64).dense()
        H[0, column] += error
        H[column, 0] += error
        none = {"orbitals": sample.orbitals[:, :0], "occupations": sample.occupations[:0]}
        exact = replace(sample, hamiltonian=H, multipoles=blocks.multipoles, **none)
        return sample.graph.n_atoms * float(hamiltonian_loss(teacher.network, blocks, exact))

    assert loss(1, 0.0) < 1e-10
    assert loss(1, 0.1) == pytest.approx(2 * ONSITE_WEIGHT * 0.1**2)
    assert loss(4, 0.1) == pytest.approx(2 * 0.1**2)


def test_errors_that_add_up_in_a_level_count_more(folder: Path, teacher: Model) -> None:
    """H is wrong by 0.1 eV in one occupied level, which moves the mean of all n by 0.1 / n.

    It holds half a pair of electrons, and the error counts half.
    """
    sample = sample_of(folder, read_settings(folder / "tiny.toml"), torch.float64)
    C, error = sample.orbitals, 0.1
    n, n_occupied = C.shape
    with torch.no_grad():
        blocks = teacher.network(sample.graph)
        H = Assembly(blocks, sample.sizes).hamiltonian(torch.float64).dense()
    wrong = replace(
        sample, hamiltonian=H - error * torch.outer(C[:, 3], C[:, 3]), multipoles=blocks.multipoles
    )
    f = torch.ones(n_occupied, dtype=torch.float64)
    f[3] = 0.5
    losses = [
        n / 4 * float(hamiltonian_loss(teacher.network, blocks, replace(wrong, occupations=occupations)))
        for occupations in (f, 0 * f)
    ]
    squares = 0.5 * (error - error / n) ** 2 + (n_occupied - 1) * (error / n) ** 2
    assert losses[0] - losses[1] == pytest.approx(LEVEL_WEIGHT * squares)


def test_onsite_blocks_do_not_make_up_for_errors_of_the_multipoles(folder: Path, teacher: Model) -> None:
    """H that is right but for the potential of wrong multipoles costs these two only."""
    sample = sample_of(folder, read_settings(folder / "tiny.toml"), torch.float64)
    with torch.no_grad():
        blocks = teacher.network(sample.graph)
        labelled = blocks.multipoles.clone()
        labelled[:2, 0] += torch.tensor([0.1, -0.1])
        missing = teacher.network.long_range.field(sample.graph, labelled).potentials - blocks.potentials
    onsite = blocks.onsite + torch.diag_embed(missing[:, None].expand(-1, 4))
    H = Assembly(replace(blocks, onsite=onsite), sample.sizes).hamiltonian(torch.float64).dense()
    none = {"orbitals": sample.orbitals[:, :0], "occupations": sample.occupations[:0]}
    exact = replace(sample, hamiltonian=H, multipoles=labelled, **none)
    loss = sample.graph.n_atoms * float(hamiltonian_loss(teacher.network, blocks, exact))
    assert float(missing.abs().max()) > 1e-3
    of_potential = ONSITE_WEIGHT * 4 * float(missing.square().sum())
    of_multipoles = MULTIPOLE_WEIGHT * float((labelled - blocks.multipoles).square().sum())
    assert loss == pytest.approx(of_potential + of_multipoles)


def test_large_energy_errors_count_linearly(folder: Path) -> None:
    """A structure that is 0.1 eV per atom off must not outweigh all forces."""
    sample = sample_of(folder, read_settings(folder / "tiny.toml"), torch.float64)
    exact = Derivatives(sample.forces, sample.virial)
    n_atoms, large = sample.graph.n_atoms, LARGE_ENERGY_ERROR_eV
    weights = LossWeights(energy=7.0)

    def loss(per_atom: float) -> float:
        error = torch.tensor(n_atoms * per_atom, dtype=torch.float64)
        return float(weighted_errors(error, exact, sample, weights))

    assert loss(0.5 * large) == pytest.approx(7.0 * (0.5 * large) ** 2)
    assert loss(50 * large) - loss(49 * large) == pytest.approx(2 * 7.0 * large**2, rel=1e-4)


def test_from_drafts_nothing_but_the_hamiltonian_is_learned(folder: Path) -> None:
    """Their energies and forces are wrong here, and the loss does not see it; other stages leave them out."""
    settings = read_settings(folder / "tiny.toml")
    label = read_structure(folder / "data", "s0")
    draft = replace(label, name="d0", energy=label.energy + 50.0, forces=label.forces + 3.0)
    hdf5.append(folder / "drafts.h5", draft, "train", {"engine": "a random model, coarse"})
    drafts = DataSettings(path=folder / "drafts.h5", learn="hamiltonian")
    trainer = Trainer(settings.model_copy(update={"data": (*settings.data, drafts)}))
    assert [sample.name for sample in trainer.data.train] == ["s0", "s1", "d0"]
    used = {stage.name: len(stage.usable(trainer.data.train)) for stage in trainer.stages}
    assert used == {"hamiltonian": 3, "energy": 2, "joint": 3}
    joint = trainer.stages[2]
    loss = joint.loss(trainer.network, trainer.data.train[2]).detach()
    network, sample = trainer.network, trainer.data.train[0]
    expected = hamiltonian_loss(network, network(sample.graph), sample).detach()
    assert float(loss) == pytest.approx(LossWeights().hamiltonian * float(expected))
    model = make_model(trainer.settings, trainer.run(), trainer.data)
    assert model.metadata.training_data == ("s0", "s1", "d0")
    hdf5.append(folder / "bare.h5", replace(draft, hamiltonian=None, eigenvalues=None), "train", {})
    bare = DataSettings(path=folder / "bare.h5", learn="hamiltonian")
    with pytest.raises(InputError, match="d0 has no Hamiltonian"):
        Trainer(settings.model_copy(update={"data": (*settings.data, bare)}))

"""Training on a small scale: the derivatives it relies on, its files, and its errors."""

from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.units import Bohr, Hartree
from conftest import MINIMAL_SIO2, REPOSITORY, network_section, random_model, small_system
from typer.testing import CliRunner

from mlh_driver.cli.main import app, run
from mlh_driver.data import LabelledStructure, hdf5, read_split, read_structure
from mlh_driver.engine import Engine
from mlh_driver.errors import InputError, NonFiniteError
from mlh_driver.evaluation import evaluate_structure
from mlh_driver.extrapolation import fit_indicator
from mlh_driver.graph import GraphBuilder
from mlh_driver.hamiltonian import Assembly
from mlh_driver.model import Model, load_model
from mlh_driver.network.network import HamiltonianNetwork
from mlh_driver.results import Results
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
from mlh_driver.training.samples import Sample, make_sample
from mlh_driver.training.settings import (
    DataSettings,
    LossWeights,
    StageSettings,
    TrainSettings,
    read_settings,
)
from mlh_driver.training.stages import EnergyStage, HamiltonianStage, JointStage, Stage
from mlh_driver.training.trainer import WARM_UP_STEPS, Trainer, learning_rate

SHARED = REPOSITORY.parent / "shared" / "data" / "asio2"

CONFIG = (
    """
name = "tiny"
output = "run"
reference = "a random model"
valid_range = "nothing"

[[data]]
path = "data"

[[species]]
symbol = "Si"
shells = [0, 1]
electrons = [2, 2]
atom_energy_eV = -400.0

[[species]]
symbol = "O"
shells = [0, 1]
electrons = [2, 4]
atom_energy_eV = -400.0

"""
    + network_section()
    + """
[hamiltonian]
steps = 12
learning_rate = 1e-2
validate_every = 4

[energy]
steps = 8
learning_rate = 1e-2
validate_every = 4

[joint]
steps = 4
learning_rate = 1e-3
validate_every = 4
"""
)


@pytest.fixture(scope="module")
def teacher() -> Model:
    """Without bounds, as a network is while it is trained."""
    model = random_model()
    model.network.bounds.lift()
    return model


@pytest.fixture(autouse=True)
def electrons_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model puts electrons on other atoms than it says; nothing holds them, as in training."""
    monkeypatch.setattr("mlh_driver.solvers.charge_response.TOLERATED_e", 1e6)


@pytest.fixture
def folder(tmp_path: Path, teacher: Model) -> Path:
    """A settings file and three structures labelled by a random model, H shifted by an arbitrary constant."""
    engine = Engine(teacher, electronic_temperature_K=0.0)
    (tmp_path / "data").mkdir()
    for k in range(3):
        system = small_system(seed=k)
        results, H = engine.compute(system), engine.hamiltonian(system)
        H = H + 7.0 * np.eye(len(H))
        np.savez(
            tmp_path / "data" / f"s{k}.npz",
            numbers=system.numbers,
            positions=system.positions,
            cell=system.cell,
            energy_Ha=results.energy / Hartree,
            forces_Ha_bohr=results.forces * Bohr / Hartree,
            h_min_Ha=H / Hartree,
            eig_Ha=np.linalg.eigvalsh(H) / Hartree,
            nocc=32,
            stress_eV_A3=results.stress,
        )
    (tmp_path / "data" / "split.json").write_text('{"train": ["s0", "s1"], "validation": ["s2"]}')
    (tmp_path / "tiny.toml").write_text(CONFIG)
    return tmp_path


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


@pytest.fixture
def electrons_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model puts electrons on other atoms than it says; its energy counts nevertheless."""
    monkeypatch.setattr("mlh_driver.training.objectives.LARGEST_CHARGE_DEVIATION", np.inf)


HOT_K = 20000.0


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


def test_a_hot_label_is_evaluated_at_its_temperature(folder: Path, teacher: Model) -> None:
    label, results, _ = hot_sample(folder, teacher)
    engine = Engine(teacher, electronic_temperature_K=300.0)
    errors = evaluate_structure(engine, label)
    assert errors.energy_eV_atom == pytest.approx(0.0, abs=1e-6)
    cold = evaluate_structure(engine, replace(label, electronic_temperature_K=0.0))
    assert cold.energy_eV_atom > 0.1
    assert engine.compute(label.system).electronic_entropy < 0.1 * results.electronic_entropy


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


def test_the_wall_stands_below_the_shortest_distances_of_the_training_data(folder: Path) -> None:
    trainer = Trainer(read_settings(folder / "tiny.toml"))
    expected = torch.full((3,), torch.inf)
    for name in ("s0", "s1"):
        graph = GraphBuilder(MINIMAL_SIO2, 5.0).build(read_structure(folder / "data", name).system)
        distances = graph.pair_vectors.norm(dim=1).split(graph.kind_sizes)
        shortest = torch.stack([of_kind.min() for of_kind in distances]).float()
        expected = torch.minimum(expected, 0.98 * shortest)
    assert len(expected.unique()) == 3
    for network in (trainer.network, trainer.average):
        torch.testing.assert_close(network.inner_radii, expected)


def test_the_learning_rate_falls_after_the_warm_up() -> None:
    rates = [learning_rate(StageSettings(steps=1000, learning_rate=1.0), step) for step in range(1000)]
    assert rates[WARM_UP_STEPS - 1] == 1.0
    assert (np.diff(rates[WARM_UP_STEPS:]) < 0).all()
    assert rates[-1] == pytest.approx(0.01, rel=0.01)


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


def test_train_command_writes_a_model_that_loads(folder: Path) -> None:
    terms = 'valid_range = "nothing"\nlicense = "CC0-1.0"\ncitation = "Somebody 2026"'
    (folder / "tiny.toml").write_text(CONFIG.replace('valid_range = "nothing"', terms))
    result = CliRunner().invoke(app, ["train", str(folder / "tiny.toml"), "--threads", "1"])
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    assert [r["stage"] for r in records] == ["hamiltonian"] * 3 + ["energy"] * 2 + ["joint"]
    assert records[2]["train_loss"] < records[0]["train_loss"]
    model = load_model(folder / "run" / "tiny.pt")
    assert model.metadata.training_data == ("s0", "s1")
    assert (model.metadata.license, model.metadata.citation) == ("CC0-1.0", "Somebody 2026")
    for label in read_split(folder / "data", "train"):
        assert Engine(model, electronic_temperature_K=3000).compute(label.system).extrapolation <= 1 + 1e-3
    written = (folder / "run" / "tiny.pt").read_bytes()
    (folder / "data" / "split.json").write_text('{"train": ["s0", "s1", "s2"], "validation": []}')
    again = CliRunner().invoke(app, ["train", str(folder / "tiny.toml"), "--resume", "--threads", "1"])
    assert again.exit_code == 0 and "its model stays as it is" in again.output
    assert (folder / "run" / "tiny.pt").read_bytes() == written


def test_resuming_gives_the_same_network_as_running_through(folder: Path) -> None:
    settings = read_settings(folder / "tiny.toml")
    through = Trainer(settings.model_copy(update={"output": folder / "through"})).run()

    class Interrupted(Exception):
        pass

    def interrupt(stage: str, step: int, steps: int, errors: dict[str, float]) -> None:
        if stage == "energy" and step == 5:
            trainer.save_checkpoint()
            raise Interrupted

    trainer = Trainer(settings, interrupt)
    with pytest.raises(Interrupted):
        trainer.run()
    resumed = Trainer(settings).run(resume=True)
    for a, b in zip(through.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("change", "is_kept"),
    [({}, True), ({"weights": LossWeights(forces=2.0)}, False), ({"data": ()}, False)],
)
def test_a_best_score_of_another_kind_is_forgotten(folder: Path, change: dict, is_kept: bool) -> None:
    settings = read_settings(folder / "tiny.toml")
    trainer = Trainer(settings)
    trainer.position.best, trainer.position.since_best = 5.0, 2
    trainer.best = {"weights": torch.ones(2)}
    trainer.save_checkpoint()
    if "data" in change:
        change = {"data": (settings.data[0].model_copy(update={"validation": ()}),)}
    resumed = Trainer(settings.model_copy(update=change))
    resumed.load_checkpoint()
    kept = resumed.position.best == 5.0, resumed.position.since_best == 2, bool(resumed.best)
    assert kept == (is_kept,) * 3


def test_sections_that_repeat_are_drawn_more_often(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One structure of a section with repeat = 3 beside two without: three draws of five."""
    settings = read_settings(folder / "tiny.toml")
    often = DataSettings(path=folder / "data", train=("validation",), validation=(), repeat=3)
    once = DataSettings(path=folder / "data", validation=())
    plan = settings.hamiltonian.model_copy(update={"steps": 300, "validate_every": 300})
    nothing = settings.energy.model_copy(update={"steps": 0})
    drawn = []

    def loss(stage: Stage, network: HamiltonianNetwork, sample: Sample) -> torch.Tensor:
        drawn.append(sample.name)
        return sum(p.sum() for p in network.parameters())

    monkeypatch.setattr(HamiltonianStage, "loss", loss)
    changes = {"data": (once, often), "hamiltonian": plan, "energy": nothing, "joint": nothing}
    Trainer(settings.model_copy(update=changes)).run()
    shares = [drawn.count(name) / len(drawn) for name in ("s0", "s1", "s2")]
    assert shares == pytest.approx([0.2, 0.2, 0.6], abs=0.08)


def test_early_stopping_ends_a_stage(folder: Path) -> None:
    settings = read_settings(folder / "tiny.toml")
    stage = settings.hamiltonian.model_copy(
        update={"steps": 400, "patience": 2, "learning_rate": 1e-12, "validate_every": 1}
    )
    nothing = settings.energy.model_copy(update={"steps": 0})
    trainer = Trainer(settings.model_copy(update={"hamiltonian": stage, "energy": nothing, "joint": nothing}))
    trainer.run()
    records = (settings.output / "log.jsonl").read_text().splitlines()
    assert len(records) < 100


@pytest.mark.parametrize(("steps", "validated", "kept"), [(20, 20, 19), (60, 21, 0)])
def test_a_stage_ends_with_its_last_average_or_stops_early_with_the_best(
    folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int, validated: int, kept: int
) -> None:
    """Validation prefers ever earlier ones here, and the patience is 20 validations."""
    settings = read_settings(folder / "tiny.toml")
    plan = settings.hamiltonian.model_copy(update={"steps": steps, "validate_every": 1})
    nothing = settings.energy.model_copy(update={"steps": 0})
    trainer = Trainer(settings.model_copy(update={"hamiltonian": plan, "energy": nothing, "joint": nothing}))
    averages = []

    def errors(stage: Stage) -> dict[str, float]:
        averages.append([p.clone() for p in trainer.average.parameters()])
        return {"score": float(len(averages))}

    monkeypatch.setattr(trainer, "validation_errors", errors)
    parameters = trainer.run().parameters()
    assert len(averages) == validated
    for parameter, expected in zip(parameters, averages[kept], strict=True):
        assert torch.equal(parameter, expected)


def test_fine_tuning_starts_from_the_given_model(folder: Path, teacher: Model) -> None:
    teacher.save(folder / "teacher.pt")
    text = CONFIG.replace('valid_range = "nothing"', 'valid_range = "nothing"\nstart_from = "teacher.pt"')
    (folder / "tiny.toml").write_text(text)
    trainer = Trainer(read_settings(folder / "tiny.toml"))
    for a, b in zip(trainer.network.parameters(), teacher.network.parameters(), strict=True):
        torch.testing.assert_close(a, b.float())
    trainer.save_checkpoint()
    (folder / "tiny.toml").write_text(CONFIG)
    with pytest.raises(InputError, match="or from another model"):
        Trainer(read_settings(folder / "tiny.toml")).run(resume=True)
    (folder / "tiny.toml").write_text(text.replace("channels = 8", "channels = 10", 1))
    with pytest.raises(InputError, match=r"teacher\.pt.*network settings"):
        Trainer(read_settings(folder / "tiny.toml"))
    (folder / "tiny.toml").write_text(text.replace("atom_energy_eV = -400.0", "atom_energy_eV = -401.0", 1))
    with pytest.raises(InputError, match=r"teacher\.pt.*isolated atoms .*-401"):
        Trainer(read_settings(folder / "tiny.toml"))


def test_factors_of_the_distant_potential_are_fitted_again_where_h_is_trained(
    folder: Path, teacher: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher.save(folder / "teacher.pt")
    calls = []
    monkeypatch.setattr("mlh_driver.training.trainer.fit_screening", lambda *_: calls.append("fitted"))
    text = CONFIG.replace('valid_range = "nothing"', 'valid_range = "nothing"\nstart_from = "teacher.pt"')
    for steps, found in (("steps = 12", ["fitted"]), ("steps = 0", [])):
        (folder / "tiny.toml").write_text(text.replace("steps = 12", steps))
        calls.clear()
        Trainer(read_settings(folder / "tiny.toml"))
        assert calls == found


def test_a_constant_in_the_hamiltonian_is_free() -> None:
    A = torch.randn(5, 5)
    torch.testing.assert_close(shift_free(A + 3.0 * torch.eye(5)), shift_free(A), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 12", "stepps = 12", "hamiltonian.stepps"),
        ("learning_rate = 1e-3", "learning_rate = -1", "joint.learning_rate"),
        ('path = "data"', 'path = "nowhere"', "nowhere does not exist"),
        ('symbol = "O"', 'symbol = "Xx"', "'Xx' is not a chemical symbol"),
        ("electrons = [2, 4]", "electrons = [2]", "2 shells, but 1 electron"),
        ("hop_cutoff_A = 3.0", "hop_cutoff_A = 9.0", "hop <= message <= pair"),
        ("name =", "name", "not valid TOML"),
        ("smearing_A = ", "smearing_A = -", "it must be positive"),
        ("n_radial = ", "n_radial = 1 # ", "n_radial is 1; it must be 2 at least"),
        ("pair_hidden = ", "pair_hidden = [8] # ", "the basis needs at least 3 widths"),
        ("pair_hidden = ", "pair_hidden = [8, 0, 4] # ", "it must be 1 at least"),
        ("hop_copies = ", "hop_copies = 0 # ", "hop_copies is 0; it must be 1 at least"),
        ("electrons = [2, 4]", "electrons = [2, 7]", "7 electrons in a shell of angular momentum 1"),
        ('output = "run"', 'output = "run"\nseed = -1', "seed"),
        ("[hamiltonian]", "[weights]\nforces = -1\n[hamiltonian]", "weights.forces"),
    ],
)
def test_bad_settings_are_named(folder: Path, old: str, new: str, message: str) -> None:
    (folder / "tiny.toml").write_text(CONFIG.replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        Trainer(read_settings(folder / "tiny.toml"))


def test_settings_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "data.h5").write_bytes(b"\x89HDF\r\n")
    with pytest.raises(InputError, match=r"data\.h5 is not valid TOML"):
        read_settings(tmp_path / "data.h5")


def test_resume_without_a_checkpoint_says_so(folder: Path) -> None:
    with pytest.raises(InputError, match="there is no checkpoint"):
        Trainer(read_settings(folder / "tiny.toml")).run(resume=True)


def test_damaged_data_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_text("nonsense")
    with pytest.raises(InputError, match=r"a\.npz is not a labelled structure"):
        read_split(tmp_path, "all")
    for content in (b"", b"PK\x03\x04 and no more"):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npz is not a labelled structure"):
            read_split(tmp_path, "all")
    (tmp_path / "split.json").write_text('{"train": ["b"]}')
    with pytest.raises(InputError, match="names b"):
        read_split(tmp_path, "train")
    np.savez(tmp_path / "a.npz", numbers=14, positions=np.zeros(3), cell="a cell")
    with pytest.raises(InputError, match=r"a\.npz is not a labelled structure"):
        read_structure(tmp_path, "a")
    for content in (b'["a"]', b"nonsense", b"\xff\xfe"):
        (tmp_path / "split.json").write_bytes(content)
        with pytest.raises(InputError, match=r"split\.json does not map each split to a list of names"):
            read_split(tmp_path, "train")


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the reference data {SHARED} are not here")
def test_reference_data_are_read_with_their_splits() -> None:
    validation = read_split(SHARED, "validation")
    assert [label.name for label in validation] == ["h106_min", "v106_0", "v106_1"]
    label = validation[0]
    levels = np.linalg.eigvalsh(label.hamiltonian)[: len(label.occupied)]
    np.testing.assert_allclose(levels, label.occupied, atol=1e-5)
    assert label.energy == pytest.approx(-31477.5, abs=1.0)


def test_energies_of_two_references_are_not_mixed(folder: Path) -> None:
    label = read_structure(folder / "data", "s0")
    for functional in ("PBE", "SCAN"):
        renamed = replace(label, name=functional)
        hdf5.append(folder / f"{functional}.h5", renamed, "train", {"functional": functional})
    settings = read_settings(folder / "tiny.toml")
    sources = [
        DataSettings(path=folder / f"{functional}.h5", validation=()) for functional in ("PBE", "SCAN")
    ]
    with pytest.raises(InputError, match=r"SCAN.*not.*PBE"):
        Trainer(settings.model_copy(update={"data": (*settings.data, *sources)}))
    drafts = sources[1].model_copy(update={"learn": "hamiltonian"})
    Trainer(settings.model_copy(update={"data": (*settings.data, sources[0], drafts)}))


def test_data_that_do_not_fit_the_settings_are_refused(folder: Path) -> None:
    settings = read_settings(folder / "tiny.toml")
    label = read_structure(folder / "data", "s0")
    hdf5.append(folder / "again.h5", label, "train", {})
    again = DataSettings(path=folder / "again.h5", validation=())
    with pytest.raises(InputError, match="two structures of the data are called s0"):
        Trainer(settings.model_copy(update={"data": (*settings.data, again)}))

    pairs = label.n_occupied
    assert pairs is not None
    hdf5.append(folder / "ion.h5", replace(label, name="ion", n_occupied=pairs - 1), "train", {})
    ion = DataSettings(path=folder / "ion.h5", validation=())
    with pytest.raises(InputError, match=f"ion: by .* has {2 * pairs} .*its label has {2 * pairs - 2}"):
        Trainer(settings.model_copy(update={"data": (*settings.data, ion)}))
    silicon, oxygen = settings.species
    odd = oxygen.model_copy(update={"electrons": (2, 4 + 1 / (label.system.numbers == 8).sum())})
    with pytest.raises(InputError, match=f"{2 * pairs + 1} valence electrons"):
        Trainer(settings.model_copy(update={"species": (silicon, odd)}))

    aluminum = silicon.model_copy(update={"symbol": "Al"})
    with pytest.raises(InputError, match="have 0 Al atoms"):
        Trainer(settings.model_copy(update={"species": (*settings.species, aluminum)}))


def test_structures_without_a_hamiltonian_teach_energies_and_forces(folder: Path) -> None:
    settings = read_settings(folder / "tiny.toml")
    for name in ("s0", "s2"):
        label = replace(read_structure(folder / "data", name), hamiltonian=None, eigenvalues=None)
        split = "train" if name == "s0" else "validation"
        hdf5.append(folder / "bare.h5", label, split, {"engine": "a random model"})
    bare = DataSettings(path=folder / "bare.h5")
    with pytest.raises(InputError, match="no training structure has a Hamiltonian"):
        Trainer(settings.model_copy(update={"data": (bare,)}))
    mixed = DataSettings(path=folder / "data", names="s1", validation=())
    Trainer(settings.model_copy(update={"data": (bare, mixed)})).run()
    records = [json.loads(line) for line in (settings.output / "log.jsonl").read_text().splitlines()]
    assert "H_mae_meV" not in records[-1]  # the only structure for validation has none
    assert records[-1]["forces_rmse_meV_A"] > 0


def test_evaluate_of_structures_with_and_without_a_hamiltonian(folder: Path, teacher: Model) -> None:
    teacher.save(folder / "teacher.pt")
    label = read_structure(folder / "data", "s0")
    hdf5.append(folder / "mixed.h5", label, "train", {})
    bare = replace(label, name="bare", hamiltonian=None, eigenvalues=None)
    hdf5.append(folder / "mixed.h5", bare, "train", {})
    arguments = ["evaluate", str(folder / "mixed.h5"), "--model", str(folder / "teacher.pt")]
    printed = CliRunner().invoke(app, arguments, catch_exceptions=False).output
    assert "2 structures" in printed
    (levels,) = [line for line in printed.splitlines() if "levels_mae_meV" in line]
    assert "s0" in levels


def test_evaluate_tells_the_error_of_the_highest_occupied_level(folder: Path, teacher: Model) -> None:
    label = read_structure(folder / "data", "s0")
    levels, C = np.linalg.eigh(label.hamiltonian)
    homo, n = label.n_occupied - 1, len(levels)
    raised = label.hamiltonian + 0.05 * np.outer(C[:, homo], C[:, homo])
    label = replace(label, hamiltonian=raised, eigenvalues=np.linalg.eigvalsh(raised))
    summary = evaluate_structure(Engine(teacher), label).summary()
    assert summary["homo_meV"] == pytest.approx(-50.0 + 50.0 / n, abs=0.1)


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


def test_nothing_of_an_unfinished_run_is_lost_or_mixed_up(folder: Path) -> None:
    settings = read_settings(folder / "tiny.toml")
    trainer = Trainer(settings)
    trainer.position.step = 5
    trainer.best = {"weights": torch.ones(2)}
    trainer.save_checkpoint()
    resumed = Trainer(settings)
    resumed.load_checkpoint()
    assert torch.equal(resumed.best["weights"], torch.ones(2))
    with pytest.raises(InputError, match=r"at step 5 of the stage 'hamiltonian': go on with --resume"):
        Trainer(settings).run()
    (folder / "other.toml").write_text(CONFIG.replace("-400.0", "-401.0", 1))
    with pytest.raises(InputError, match="other atom_energy_eV"):
        Trainer(read_settings(folder / "other.toml")).run(resume=True)
    trainer.checkpoint_path.write_bytes(b"nonsense")
    for resume in (False, True):
        with pytest.raises(InputError, match=r"checkpoint\.pt is damaged"):
            Trainer(settings).run(resume=resume)


def test_a_finished_model_is_not_overwritten(folder: Path) -> None:
    settings = read_settings(folder / "tiny.toml")
    settings.output.mkdir()
    (settings.output / "tiny.pt").write_bytes(b"a model")
    with pytest.raises(InputError, match=r"tiny\.pt is a finished model; choose another output"):
        Trainer(settings).run()


def test_a_run_at_its_end_without_its_model_is_not_overwritten(folder: Path) -> None:
    settings = read_settings(folder / "tiny.toml")
    trained = Trainer(settings).run().state_dict()
    with pytest.raises(InputError, match=r"checkpoint\.pt is of a run at its end: go on with --resume"):
        Trainer(settings).run()
    again = Trainer(settings).run(resume=True).state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in again.items())


def test_a_training_that_diverges_ends_with_a_message_and_a_good_checkpoint(folder: Path) -> None:
    fast = CONFIG.replace("steps = 12\nlearning_rate = 1e-2", "steps = 40\nlearning_rate = 1e6")
    (folder / "tiny.toml").write_text(fast)
    trainer = Trainer(read_settings(folder / "tiny.toml"))
    with pytest.raises(NonFiniteError, match=r"diverged at step .* lower its learning_rate = 1000000\.0"):
        trainer.run()
    state = torch.load(trainer.checkpoint_path, weights_only=True)
    weights = {name: value for name, value in state["network"].items() if not name.startswith("bounds.")}
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_a_full_disk_is_an_error_that_costs_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of files stands for it."""
    trainer = Trainer(read_settings(folder / "tiny.toml"))
    trainer.save_checkpoint()
    saved = trainer.checkpoint_path.read_bytes()
    monkeypatch.setattr("sys.argv", ["mlh-driver", "train", str(folder / "tiny.toml")])
    _, most = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(saved) // 2, most))
    try:
        with pytest.raises(SystemExit) as end:
            run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert end.value.code == 1
    assert capsys.readouterr().err.strip() == "error: [Errno 27] File too large"
    assert trainer.checkpoint_path.read_bytes() == saved
    assert [path.name for path in (folder / "run").iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('path = "data"', 'path = "data"\nnames = "v*"', r"is called 'v\*'; there are s0, s1, s2"),
        ('path = "data"', 'path = "data"\nvalidation = ["test"]', r"no split 'test'; .* validation = \[\]"),
        ("atom_energy_eV = -400.0", "atom_energy_eV = 400.0", "energies must be in eV, and atom_energy_eV"),
        ('name = "tiny"', 'name = "Si/O"', "name"),
        ('output = "run"', 'output = "tiny.toml/run"', "cannot be made"),
    ],
)
def test_data_that_cannot_be_meant_are_refused(folder: Path, old: str, new: str, message: str) -> None:
    (folder / "tiny.toml").write_text(CONFIG.replace(old, new))
    with pytest.raises(InputError, match=message):
        Trainer(read_settings(folder / "tiny.toml"))


def test_a_structure_out_of_range_is_named_and_the_others_are_evaluated(folder: Path, teacher: Model) -> None:
    teacher.save(folder / "teacher.pt")
    with np.load(folder / "data" / "s2.npz") as arrays:
        unknown = dict(arrays)
    unknown["numbers"] = np.full_like(unknown["numbers"], 6)
    np.savez(folder / "data" / "s2.npz", **unknown)
    command = ["evaluate", str(folder / "data"), "--model", str(folder / "teacher.pt"), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "left out: s2: " in result.stderr
    assert set(json.loads(result.stdout)["splits"]["train"]["structures"]) == {"s0", "s1"}
    (folder / "data" / "split.json").write_text('{"train": ["s2"]}')
    nothing = CliRunner().invoke(app, command[:-1])
    assert "left out: s2: " in nothing.stderr and not nothing.stdout


def test_a_damaged_structure_is_named_and_the_others_are_evaluated(folder: Path, teacher: Model) -> None:
    teacher.save(folder / "teacher.pt")
    (folder / "data" / "s2.npz").write_bytes(b"PK")
    command = ["evaluate", str(folder / "data"), "--model", str(folder / "teacher.pt"), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1 and "left out: s2: " in result.stderr
    assert set(json.loads(result.stdout)["splits"]["train"]["structures"]) == {"s0", "s1"}
    (folder / "data" / "split.json").write_text('{"train": []}')
    nothing = CliRunner().invoke(app, command)
    assert "holds no structures" in str(nothing.exception)


def test_a_structure_that_is_called_mean_is_one_like_others(folder: Path, teacher: Model) -> None:
    teacher.save(folder / "teacher.pt")
    (folder / "data" / "s1.npz").rename(folder / "data" / "mean.npz")
    (folder / "data" / "split.json").write_text('{"train": ["s0", "mean"]}')
    command = ["evaluate", str(folder / "data"), "--model", str(folder / "teacher.pt")]
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)["splits"]["train"]
    each = [abs(found["structures"][name]["extrapolation"]) for name in ("s0", "mean")]
    assert found["mean"]["extrapolation"] == pytest.approx(np.mean(each)) and each[0] != each[1]
    assert "train: 2 structures" in CliRunner().invoke(app, command).stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"numbers": np.full(16, 6)},
            r"s1 has C, which is no species of the training; add a \[\[species",
        ),
        ({"positions": np.zeros((16, 3))}, "s1: "),
    ],
)
def test_structures_that_cannot_be_trained_on_are_named(
    folder: Path, change: dict[str, np.ndarray], message: str
) -> None:
    with np.load(folder / "data" / "s1.npz") as arrays:
        wrong = {**arrays, **{key: value[: len(arrays["numbers"])] for key, value in change.items()}}
    np.savez(folder / "data" / "s1.npz", **wrong)
    with pytest.raises(InputError, match=message):
        Trainer(read_settings(folder / "tiny.toml"))


def test_species_whose_atoms_look_the_same_have_no_edge() -> None:
    same = torch.ones(4, 3)
    with pytest.raises(InputError, match="all 4 training atoms of species 1 look the same"):
        fit_indicator(same, torch.zeros(4, dtype=torch.long), 1)


def test_levels_follow_from_a_hamiltonian_without_them(folder: Path, teacher: Model) -> None:
    label = read_structure(folder / "data", "s0")
    bare = replace(label, eigenvalues=None, n_occupied=None)
    engine = Engine(teacher, electronic_temperature_K=0.0)
    assert evaluate_structure(engine, bare).summary()["levels_mae_meV"] < 0.1
    settings = read_settings(folder / "tiny.toml")
    samples = [make_sample(x, settings.basis(), settings.atom_energies(), 5.0) for x in (label, bare)]
    torch.testing.assert_close(samples[0].occupied, samples[1].occupied)
    with pytest.raises(InputError, match="different basis sets"):
        evaluate_structure(engine, replace(bare, hamiltonian=bare.hamiltonian[1:, 1:]))


def test_a_copy_of_a_training_structure_validates_nothing(folder: Path) -> None:
    (folder / "data" / "s2.npz").write_bytes((folder / "data" / "s0.npz").read_bytes())
    with pytest.raises(InputError, match="s2, for validation, is the structure s0 of the training"):
        Trainer(read_settings(folder / "tiny.toml"))

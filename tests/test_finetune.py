"""Fine-tuning on a few structures: what the model knew before is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from conftest import CONFIG, CRISTOBALITE, random_model
from processes import REPOSITORY
from typer.testing import CliRunner

from mlh_driver import Engine, System
from mlh_driver.cli.main import app
from mlh_driver.constants import GPA_eV_A3
from mlh_driver.data import LabelledStructure, hdf5
from mlh_driver.errors import InputError
from mlh_driver.model import Model, load_model
from mlh_driver.results import Results
from mlh_driver.training.dataset import DataSet, _as_predicted, _evenly
from mlh_driver.training.finetune import finetune_settings
from mlh_driver.training.objectives import joint_loss
from mlh_driver.training.settings import read_settings
from mlh_driver.training.trainer import Trainer


@pytest.fixture(scope="module")
def crystals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six rattled cells of cristobalite, labelled by the shipped model itself."""
    path = tmp_path_factory.mktemp("data") / "crystals.h5"
    engine = Engine(sampling="gamma")
    for seed in range(6):
        atoms = CRISTOBALITE.repeat((2, 1, 1))
        atoms.rattle(0.05, seed=seed)
        system = System.from_ase(atoms)
        results = engine.compute(system)
        label = LabelledStructure(
            f"c{seed}",
            system,
            results.energy,
            results.forces,
            stress=results.stress,
            hamiltonian=engine.hamiltonian(system),
        )
        hdf5.append(path, label, "validation" if seed == 5 else "train", {"engine": "asio2-minimal"})
    return path


def of_glass_and_vacancy(model: str | Path) -> list[Results]:
    engine = Engine(model)
    files = ("glass.xyz", "vacancy.xyz")
    return [engine.compute(System.from_ase(ase.io.read(REPOSITORY / "examples" / name))) for name in files]


def test_a_fine_tuned_model_keeps_what_its_parent_knew(crystals: Path, tmp_path: Path) -> None:
    out = tmp_path / "crystal.pt"
    command = [
        "finetune",
        "asio2-minimal",
        str(crystals),
        "--out",
        str(out),
        "--steps",
        "2",
        "--rehearse",
        "3",
    ]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0
    parent, child = load_model("asio2-minimal"), load_model(out)
    torch.testing.assert_close(child.network.inner_radii, parent.network.inner_radii)
    assert len(child.structures) == len(parent.structures) + 5
    new = set(child.metadata.training_data) - set(parent.metadata.training_data)
    assert set(parent.metadata.training_data) < set(child.metadata.training_data)
    assert new == {f"c{k}" for k in range(5)}  # what was rehearsed is there already
    assert child.metadata.license == parent.metadata.license != ""
    for before, after in zip(of_glass_and_vacancy("asio2-minimal"), of_glass_and_vacancy(out), strict=True):
        assert after.extrapolation == pytest.approx(before.extrapolation, abs=0.1)
        assert np.abs(after.forces - before.forces).max() < 0.3
        pressures = [-np.trace(results.stress) / 3 / GPA_eV_A3 for results in (before, after)]
        assert abs(pressures[1] - pressures[0]) < 1.0
    with pytest.raises(InputError, match=r"crystal\.pt exists"):
        CliRunner().invoke(app, command, catch_exceptions=False)


def test_settings_follow_from_the_model(crystals: Path, tmp_path: Path) -> None:
    settings = finetune_settings("asio2-minimal", [crystals], tmp_path / "x.pt", steps=7, rehearse=2)
    parent = load_model("asio2-minimal")
    assert settings.basis() == parent.basis
    assert settings.atom_energies() == parent.metadata.atom_energies_eV
    assert (settings.hamiltonian.steps, settings.energy.steps, settings.joint.steps) == (0, 0, 7)
    data = DataSet.read(settings)
    assert len(data.known) == 5 + 2
    assert len(data.validation) == 1
    assert len(data.remembered) == len(parent.structures) - 2


def test_what_is_rehearsed_has_no_error_for_the_model_itself(crystals: Path, tmp_path: Path) -> None:
    """Also where the engine holds charges, in a melt."""
    parent = load_model("asio2-minimal")
    engine = Engine(parent, sampling="gamma")
    melt = next(s for s in reversed(parent.structures) if engine.compute(s).charge_deviation > 0.1)
    settings = finetune_settings("asio2-minimal", [crystals], tmp_path / "x.pt", steps=1, rehearse=1)
    sample = _as_predicted(parent, melt, 0, settings)
    assert joint_loss(parent.network, sample, settings.weights).item() < 1e-6


def test_license_and_citation_are_inherited(crystals: Path, tmp_path: Path) -> None:
    terms = {"license": "CC-BY-4.0", "citation": "Somebody 2026"}
    parent = random_model()
    replace(parent, metadata=parent.metadata.model_copy(update=terms)).save(tmp_path / "parent.pt")
    settings = finetune_settings(
        str(tmp_path / "parent.pt"), [crystals], tmp_path / "x.pt", steps=1, rehearse=0
    )
    assert {name: getattr(settings, name) for name in terms} == terms


def test_each_model_has_a_folder_of_its_own_for_its_training(crystals: Path, tmp_path: Path) -> None:
    made = finetune_settings("asio2-minimal", [crystals], tmp_path / "x.training", steps=1, rehearse=0)
    assert made.output == tmp_path / "x.training.training"
    versions = [
        finetune_settings("asio2-minimal", [crystals], tmp_path / name, steps=1, rehearse=0)
        for name in ("v1.2", "v1.3", "v1.3.pt")
    ]
    assert [made.output.name for made in versions] == ["v1.2.training", "v1.3.training", "v1.3.training"]


@pytest.mark.parametrize(("there", "wanted"), [(0, 3), (25, 24), (49, 24), (7, 0), (5, 9)])
def test_as_many_are_rehearsed_as_asked_for(there: int, wanted: int) -> None:
    chosen = _evenly(range(there), wanted)
    assert len(set(chosen)) == min(there, wanted) and all(0 <= k < there for k in chosen)


def test_structures_of_the_data_are_neither_rehearsed_nor_counted_twice(
    crystals: Path, tmp_path: Path
) -> None:
    knowing = random_model()
    systems = [hdf5.read_structure(crystals, f"c{k}").system for k in (0, 1)]
    stranger = System(systems[0].numbers, systems[0].positions + 0.1, systems[0].cell)
    energies = {"atom_energies_eV": (-431.104, -102.406)}
    knowing = replace(
        knowing,
        structures=(*systems, stranger),
        metadata=knowing.metadata.model_copy(update=energies),
    )
    knowing.save(tmp_path / "knowing.pt")
    settings = finetune_settings(
        str(tmp_path / "knowing.pt"), [crystals], tmp_path / "x.pt", steps=1, rehearse=0
    )
    data = DataSet.read(settings)
    assert len(data.remembered) == 1
    assert data.remembered[0].positions == pytest.approx(stranger.positions)


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

"""Active learning: the tutorial in a reduced form, from seeds to a served model, with real DFT labels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from conftest import SMALL_NETWORK, network_section
from fake_labeler import SomeLabeler
from typer.testing import CliRunner

from mlh_driver import MLHCalculator
from mlh_driver.cli.main import app
from mlh_driver.data import read_splits
from mlh_driver.errors import InputError, StructureError
from mlh_driver.learning.explore import displaced, trajectory
from mlh_driver.learning.loop import ActiveLearning
from mlh_driver.learning.settings import ExploreSettings, read_learn_settings
from mlh_driver.model import load_model
from mlh_driver.reference import Calculation, PyscfLabeler, PyscfSettings

pytest.importorskip("pyscf", reason="labels need PySCF")

LEARN = """
seeds = ["seed.xyz"]
training = "train.toml"
output = "run"
rounds = 2
frames_per_round = 2

[explore]
steps = 20
rattle_A = 0.03

[target]
forces_rmse_meV_A = 0.001
"""

TRAIN = """
name = "hydrogen"
output = "ignored"
reference = "PBE"
valid_range = "a test"

SPECIES
NETWORK
[hamiltonian]
steps = 60
learning_rate = 1e-2

[energy]
steps = 200
learning_rate = 1e-2

[joint]
steps = 100
learning_rate = 3e-3
"""


NETWORK = replace(SMALL_NETWORK, lmax=2, pair_cutoff_A=3.5, message_cutoff_A=3.0, hop_cutoff_A=2.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Settings for a hydrogen molecule in a box; the species section comes from the command."""
    molecule = Atoms("H2", positions=[[0, 0, 0], [0.75, 0, 0]], cell=[5, 5, 4.8], pbc=True)
    ase.io.write(tmp_path / "seed.xyz", molecule)
    species = CliRunner().invoke(app, ["species", "H"]).stdout
    assert "electrons = [1]" in species
    (tmp_path / "train.toml").write_text(
        TRAIN.replace("SPECIES", species).replace("NETWORK", network_section(NETWORK))
    )
    (tmp_path / "learn.toml").write_text(LEARN)
    return tmp_path


@pytest.mark.slow
def test_from_nothing_to_a_model_with_an_interruption(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Interrupted(PyscfLabeler):
        def calculate(self, atoms: Atoms, workdir: Path) -> Calculation:
            calls.append(len(atoms))
            if len(calls) == 3:
                raise KeyboardInterrupt
            return super().calculate(atoms, workdir)

    labeler = Interrupted(PyscfSettings(ke_cutoff_Ha=50.0))
    monkeypatch.setattr("mlh_driver.learning.loop.make_labeler", lambda engine, threads: labeler)
    command = ["learn", str(folder / "learn.toml"), "--threads", "1"]
    assert CliRunner().invoke(app, command).exit_code != 0  # in the second round
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0
    assert len(calls) == 5  # four labels and the interrupted one: nothing was calculated twice
    run = folder / "run"
    assert read_splits(run / "labels.h5") == {"train": ["r0_0", "r1_0"], "validation": ["r0_1", "r1_1"]}
    (row,) = [json.loads(line) for line in (run / "report.jsonl").read_text().splitlines()]
    assert (row["round"], row["labels"]) == (1, 1)  # the other one is for validation
    assert row["forces_rmse_meV_A"] > 0
    assert (run / "report.png").stat().st_size > 5_000
    assert (run / "round_1" / "hydrogen.pt").exists()  # not on target, so trained on
    with open(folder / "learn.toml", "a") as file:  # the forces are 0.001 there
        file.write("energy_meV_atom = 1e6\n")
    text = (folder / "learn.toml").read_text().replace("0.001", "1e6")
    (folder / "learn.toml").write_text(text)
    assert ActiveLearning(read_learn_settings(folder / "learn.toml"), print)._on_target(row)
    atoms = ase.io.read(folder / "seed.xyz")
    atoms.calc = MLHCalculator(run / "hydrogen.pt")
    assert atoms.get_potential_energy() == pytest.approx(-31.7, abs=1.5)  # PBE


def test_a_round_without_frames_to_train_on_can_be_started_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = ase.io.read(folder / "seed.xyz")
    long.cell[0, 0] = 7.0
    ase.io.write(folder / "seed.xyz", long)
    monkeypatch.setattr("mlh_driver.learning.loop.make_labeler", lambda engine, threads: SomeLabeler())
    learning = ActiveLearning(read_learn_settings(folder / "learn.toml"), print)
    with pytest.raises(InputError, match="no frame for training of round 0 could be labelled"):
        learning.run()
    assert learning.labeler.calls == 1  # nothing for validation alone
    assert not (folder / "run" / "round_0" / "frames.xyz").exists()


def test_every_seed_is_trained_on(folder: Path) -> None:
    """The last frame of a round is for validation, in each round that of another seed."""
    seeds = [ase.io.read(folder / "seed.xyz") for _ in range(3)]
    for k, seed in enumerate(seeds):
        seed.info["name"] = f"s{k}"
        seed.cell[2, 2] += k
    ase.io.write(folder / "seed.xyz", seeds)
    (folder / "learn.toml").write_text(LEARN.replace("frames_per_round = 2", "frames_per_round = 3"))
    learning = ActiveLearning(read_learn_settings(folder / "learn.toml"), print)
    trained = {
        round(learning._new_frame(round_, k, None).cell[2, 2] - 4.8) for round_ in (0, 1) for k in (0, 1)
    }
    assert trained == {0, 1, 2}


def test_data_of_another_reference_are_refused_before_any_label(folder: Path) -> None:
    seed = ase.io.read(folder / "seed.xyz")
    seed.calc = SinglePointCalculator(seed, energy=-30.0, forces=np.zeros((2, 3)))
    ase.io.write(folder / "mine.extxyz", seed)
    mine, data = str(folder / "mine.extxyz"), str(folder / "mine.h5")
    converted = CliRunner().invoke(app, ["convert", mine, "--reference", "LDA", "--out", data])
    assert converted.exit_code == 0
    with open(folder / "train.toml", "a") as file:
        file.write('[[data]]\npath = "mine.h5"\nvalidation = []\n')
    result = CliRunner().invoke(app, ["learn", str(folder / "learn.toml")])
    assert isinstance(result.exception, InputError)
    assert "another reference than the labels to come" in str(result.exception)
    assert not (folder / "run").exists()


def test_first_frames_are_displaced_and_strained() -> None:
    seed = Atoms("H2", positions=[[0, 0, 0], [0.75, 0, 0]], cell=[20, 20, 20], pbc=True)
    settings = ExploreSettings(rattle_A=0.1, strain=0.01)
    frames = [displaced(seed, settings, np.random.default_rng(k)) for k in range(200)]
    moves = np.array(
        [frame.get_scaled_positions(wrap=False) - seed.get_scaled_positions() for frame in frames]
    )
    assert np.std(20 * moves) == pytest.approx(0.1, rel=0.1)
    strains = np.array([frame.cell.array / 20 - np.eye(3) for frame in frames])
    assert np.std(strains[:, range(3), range(3)]) == pytest.approx(0.01, rel=0.1)
    np.testing.assert_allclose(strains, strains.transpose(0, 2, 1))


def test_a_trajectory_ends_at_the_edge_and_keeps_the_strangest_frame_before(host: Atoms) -> None:
    model = load_model("asio2-minimal")
    rng = np.random.default_rng(0)
    calm = trajectory(host, model, 100.0, ExploreSettings(steps=20), rng)
    assert 0 < calm.extrapolation < 1.5
    hot = trajectory(host, model, 20000.0, ExploreSettings(steps=1000, stop_at=1.5), rng)
    assert 0.7 < hot.extrapolation <= 1.5
    assert hot.atoms.calc is None
    assert "extrapolation" in hot.atoms.info["note"]


def test_a_seed_beyond_the_edge_is_displaced(host: Atoms) -> None:
    """So that the frames of a round differ, and none is the seed itself."""
    model = load_model("asio2-minimal")
    frames = [
        trajectory(host, model, 300.0, ExploreSettings(stop_at=1e-3), np.random.default_rng(k)).atoms
        for k in range(2)
    ]
    assert abs(frames[0].positions - frames[1].positions).max() > 0.01
    assert "displaced" in frames[0].info["note"]
    golden = host.copy()
    golden.numbers[0] = 79
    with pytest.raises(StructureError, match="Au"):
        trajectory(golden, model, 300.0, ExploreSettings(), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"numbers": [2, 2]}, "seed 'seed': .*He"),
        ({"pbc": (True, True, False)}, "seed 'seed': .*pbc"),
        ({"numbers": [1]}, "seed 'seed': .*electrons"),
    ],
)
def test_seeds_that_cannot_be_learned_are_refused_before_any_label(
    folder: Path, change: dict[str, object], message: str
) -> None:
    numbers = change.get("numbers", [1, 1])
    positions = [[0.75 * k, 0, 0] for k in range(len(numbers))]
    seed = Atoms(numbers=numbers, positions=positions, cell=[5, 5, 4.8], pbc=change.get("pbc", True))
    ase.io.write(folder / "seed.xyz", seed)
    with pytest.raises(InputError, match=message):
        ActiveLearning(read_learn_settings(folder / "learn.toml"), print)

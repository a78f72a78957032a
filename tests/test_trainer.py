"""A training from its settings to its model: when stages end, resuming, and files that nothing overwrites."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONFIG
from typer.testing import CliRunner

from mlh_driver.cli.main import app, run
from mlh_driver.data import read_split
from mlh_driver.engine import Engine
from mlh_driver.errors import InputError, NonFiniteError
from mlh_driver.files import alone_in
from mlh_driver.model import load_model
from mlh_driver.network.network import HamiltonianNetwork
from mlh_driver.training.samples import Sample
from mlh_driver.training.settings import DataSettings, LossWeights, StageSettings, read_settings
from mlh_driver.training.stages import HamiltonianStage, Stage
from mlh_driver.training.trainer import WARM_UP_STEPS, Trainer, learning_rate


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


def test_the_learning_rate_falls_after_the_warm_up() -> None:
    rates = [learning_rate(StageSettings(steps=1000, learning_rate=1.0), step) for step in range(1000)]
    assert rates[WARM_UP_STEPS - 1] == 1.0
    assert (np.diff(rates[WARM_UP_STEPS:]) < 0).all()
    assert rates[-1] == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize("steps", [7, 50, 101, 250])
def test_short_stages_come_to_a_low_learning_rate_too(steps: int) -> None:
    rates = [learning_rate(StageSettings(steps=steps, learning_rate=1.0), step) for step in range(steps + 1)]
    assert rates[-1] == pytest.approx(0.01 * max(rates)) and max(rates) <= 1.0


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


def test_resume_without_a_checkpoint_says_so(folder: Path) -> None:
    with pytest.raises(InputError, match="there is no checkpoint"):
        Trainer(read_settings(folder / "tiny.toml")).run(resume=True)


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
    (folder / "data" / "split.json").write_text('{"train": ["s0", "s1", "s2"], "validation": []}')
    with pytest.raises(InputError, match="is of a run at its end, on other data than these"):
        Trainer(settings).run(resume=True)


def test_two_trainings_do_not_work_in_one_output(folder: Path) -> None:
    settings = read_settings(folder / "tiny.toml")
    trainer = Trainer(settings)
    with alone_in(settings.output), pytest.raises(InputError, match="another process is at work in"):
        trainer.run()
    assert not trainer.checkpoint_path.exists()


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
    assert {path.name for path in (folder / "run").iterdir()} == {"checkpoint.pt", ".lock"}


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

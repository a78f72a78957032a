"""Model files, the shipped model, and the commands that only look."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.units import GPa
from conftest import REPOSITORY, random_model, small_system
from processes import DRIVER, Launcher
from typer.testing import CliRunner

from mlh_driver import Engine, __main__, __version__, load_model
from mlh_driver.cli.main import COMMANDS, app, run
from mlh_driver.data import read_splits, read_structure
from mlh_driver.errors import InputError, ModelFileError
from mlh_driver.evaluation import evaluate_structure
from mlh_driver.extrapolation import fit_indicator
from mlh_driver.model import FORMAT_VERSION
from mlh_driver.model_files import find_model, shipped_models

SHARED = REPOSITORY.parent / "shared" / "data" / "asio2"


def test_saved_models_come_back_the_same(tmp_path: Path) -> None:
    model = random_model()
    model.save(tmp_path / "m.pt")
    again = load_model(tmp_path / "m.pt", dtype="float64")
    assert again.metadata == model.metadata
    before, after = (Engine(m).compute(small_system()) for m in (model, again))
    assert after.energy == pytest.approx(before.energy, abs=1e-2)  # stored in single precision
    assert after.extrapolation == pytest.approx(before.extrapolation, rel=1e-3)


@pytest.mark.parametrize("version", range(3, FORMAT_VERSION))
def test_a_model_of_a_format_before_computes_what_it_did(version: int) -> None:
    """Written by the version that had this format; the levels are what that version printed."""
    model = load_model(REPOSITORY / "tests" / "data" / f"model-format-{version}.pt", dtype="float64")
    assert (model.metadata.license, model.metadata.citation) == ("", "")
    levels = Engine(model).eigenvalues(small_system(seed=3))  # the training data of its indicator
    assert levels[:3] == pytest.approx([-8.5229829188, -8.1833404544, -8.1755527669], abs=1e-9)


def test_shipped_model_says_what_it_is() -> None:
    assert shipped_models() == ["asio2-minimal"]
    assert find_model("asio2-minimal").stat().st_size < 8e6
    metadata = load_model("asio2-minimal").metadata
    assert metadata.basis.species == ("O", "Si")
    assert "PBE" in metadata.reference
    assert metadata.errors["validation"]["levels_mae_meV"] < 30
    if SHARED.is_dir():
        assert not set(metadata.training_data) & set(read_splits(SHARED)["validation"])


def test_shipped_model_is_as_accurate_as_documented_on_a_host_that_it_was_not_trained_on() -> None:
    label = read_structure(REPOSITORY / "examples" / "training" / "asio2-extra.h5", "host_910")
    errors = evaluate_structure(Engine(), label).summary()
    assert abs(errors["energy_meV_atom"]) < 1.0
    assert errors["forces_rmse_meV_A"] < 40.0
    assert errors["H_mae_meV"] < 5.0


def test_an_atom_has_the_extrapolation_of_its_distance_over_the_largest_one_left_out() -> None:
    points = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    species = torch.zeros(40, dtype=torch.long)

    def distance(point: torch.Tensor, others: torch.Tensor) -> float:
        apart = point - others.mean(dim=0)
        return float((apart @ torch.linalg.solve(torch.cov(others.T, correction=0), apart)).sqrt())

    left_out = [distance(points[k], torch.cat([points[:k], points[k + 1 :]])) for k in range(40)]
    far = int(np.argmax(left_out))
    found = float(fit_indicator(points, species, 1)(points[far : far + 1], species[:1]))
    assert found == pytest.approx(distance(points[far], points) / left_out[far], rel=2e-3)


def test_species_whose_atoms_look_the_same_have_no_edge() -> None:
    same = torch.ones(4, 3)
    with pytest.raises(InputError, match="all 4 training atoms of species 1 look the same"):
        fit_indicator(same, torch.zeros(4, dtype=torch.long), 1)


def test_unusable_model_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no model 'graphene'.*asio2-minimal"):
        load_model("graphene")
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(find_model("asio2-minimal").read_bytes()[:5000])
    with pytest.raises(ModelFileError, match=r"damaged\.pt"):
        load_model(damaged)
    torch.save(torch.zeros(3), damaged)
    with pytest.raises(ModelFileError, match=r"damaged\.pt is not a model file"):
        load_model(damaged)
    with pytest.raises(InputError, match="device 'abacus' cannot be used"):
        load_model("asio2-minimal", device="abacus")
    content = torch.load(find_model("asio2-minimal"), weights_only=True)
    newer = tmp_path / "newer.pt"
    torch.save(content | {"format_version": FORMAT_VERSION + 1}, newer)
    with pytest.raises(ModelFileError, match=f"format version {FORMAT_VERSION + 1}"):
        load_model(newer)
    with pytest.raises(InputError, match="'float16'; choose float32 or float64"):
        load_model("asio2-minimal", dtype="float16")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"mlh-driver {command}" in result.output


def test_info_prints_versions_models_and_solvers() -> None:
    output = CliRunner().invoke(app, ["info"]).output
    for text in (__version__, "asio2-minimal", "dense", "torch"):
        assert text in output
    metadata = json.loads(CliRunner().invoke(app, ["info", "asio2-minimal", "--json"]).output)
    assert metadata["name"] == "asio2-minimal"


def test_info_tells_license_and_citation(tmp_path: Path) -> None:
    model = random_model()
    terms = {"license": "CC-BY-4.0", "citation": "[Somebody] 2026"}
    replace(model, metadata=model.metadata.model_copy(update=terms)).save(tmp_path / "free.pt")
    model.save(tmp_path / "silent.pt")
    said = CliRunner().invoke(app, ["info", str(tmp_path / "free.pt")]).output
    assert re.search(r"license\W+CC-BY-4\.0\W", said)
    assert re.search(r"citation\W+\[Somebody\] 2026", said)
    silent = CliRunner().invoke(app, ["info", str(tmp_path / "silent.pt")]).output
    assert re.search(r"license\W+not stated", silent)


def test_predict_prints_tables_and_json(tmp_path: Path, vacancy: Atoms) -> None:
    vacancy.write(tmp_path / "v.xyz")
    text = CliRunner().invoke(app, ["predict", str(tmp_path / "v.xyz")]).output
    for word in ("energy per atom", "band gap", "charge of Si", "time, network"):
        assert word in text
    result = CliRunner().invoke(app, ["predict", str(tmp_path / "v.xyz"), "--json"])
    (report,) = json.loads(result.output)
    assert len(report["forces"]) == report["n_atoms"] == 95
    assert {"energy", "stress", "charges", "band_gap", "fermi_level", "extrapolation", "timings"} <= set(
        report
    )
    (pressure,) = re.findall(r"pressure\s+.\s+(\S+)", text)
    assert float(pressure) == pytest.approx(-np.trace(report["stress"]) / 3 / GPa, abs=1e-3)


def test_predict_takes_files_and_frames_and_writes_everything(tmp_path: Path, vacancy: Atoms) -> None:
    moved = vacancy.copy()
    moved.rattle(0.01, seed=1)
    ase.io.write(tmp_path / "run.xyz", [vacancy, moved])
    ase.io.write(tmp_path / "v.data", vacancy, format="lammps-data", masses=True)
    command = ["predict", str(tmp_path / "run.xyz"), str(tmp_path / "v.data")]
    last = CliRunner().invoke(app, command, catch_exceptions=False).output.splitlines()
    assert [line.split(":")[0] for line in last] == ["run_1", "v"]
    out = tmp_path / "results.xyz"
    command += ["--all", "--out", str(out), "--json"]
    reports = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).output)
    assert [report["name"] for report in reports] == ["run_0", "run_1", "v"]
    frames = ase.io.read(out, index=":")
    for frame, report in zip(frames, reports, strict=True):
        assert frame.info["name"] == report["name"]
        assert frame.info["band_gap"] == pytest.approx(report["band_gap"])
        assert frame.get_potential_energy() == pytest.approx(report["energy"])
        np.testing.assert_allclose(frame.get_forces(), report["forces"], atol=1e-7)
        np.testing.assert_allclose(frame.arrays["extrapolations"].max(), report["extrapolation"], atol=1e-7)
    assert reports[2]["energy"] == pytest.approx(
        reports[0]["energy"], abs=1e-3
    )  # the same, from LAMMPS' file


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.xyz", None, "there is no file .*missing.xyz"),
        ("", None, "is a folder; name the files in it"),
        ("notes.txt", "nothing of the kind", "cannot read structures .*--format"),
    ],
)
def test_predict_names_files_that_hold_no_structure(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        CliRunner().invoke(app, ["predict", str(tmp_path / name)], catch_exceptions=False)


def test_predict_names_a_file_that_cannot_be_read_and_computes_the_others(
    tmp_path: Path, vacancy: Atoms
) -> None:
    (tmp_path / "notes.txt").write_text("nothing of the kind")
    vacancy.write(tmp_path / "v.xyz")
    files = [str(tmp_path / name) for name in ("notes.txt", "v.xyz", "missing.xyz")]
    result = CliRunner().invoke(app, ["predict", *files, "--json"])
    assert result.exit_code == 1
    assert [report["name"] for report in json.loads(result.stdout)] == ["v"]
    assert re.findall(r"left out: .*?(\w+\.\w+)", result.stderr) == ["notes.txt", "missing.xyz"]
    with pytest.raises(InputError, match="there is no format 'nonsense' of ASE"):
        CliRunner().invoke(app, ["predict", *files, "--format", "nonsense"], catch_exceptions=False)


def test_predict_takes_the_elements_of_files_that_name_none(tmp_path: Path) -> None:
    model = random_model()
    model.save(tmp_path / "m.pt")
    atoms = small_system().to_ase()
    ase.io.write(tmp_path / "s.xyz", atoms)
    ase.io.write(tmp_path / "s.data", atoms, format="lammps-data", specorder=["Si", "O"], masses=False)
    command = ["predict", str(tmp_path / "s.data"), "--model", str(tmp_path / "m.pt"), "--json"]
    with pytest.raises(InputError, match="the file names no elements: give --elements"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    (found,) = json.loads(CliRunner().invoke(app, [*command, "--elements", "Si O"]).stdout)
    command[1] = str(tmp_path / "s.xyz")
    (named,) = json.loads(CliRunner().invoke(app, command).stdout)
    assert found["energy"] == pytest.approx(named["energy"], abs=1e-3)
    with pytest.raises(InputError, match="leave these out if the file names its elements"):
        CliRunner().invoke(app, [*command, "--elements", "Si O"], catch_exceptions=False)


def test_ctrl_c_during_the_imports_leaves_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlh_driver.cli.main.run", interrupted)
    with pytest.raises(SystemExit) as end:
        __main__.run()
    assert end.value.code == 130 and capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("function", "arguments", "how"),
    [
        ("workflows.vacancies.run_vacancies", "vacancies glass.xyz", "the same command goes on"),
        ("training.trainer.Trainer", "train training/asio2-melt.toml --resume", "with --resume it goes on"),
    ],
)
def test_interrupted_commands_say_how_they_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, arguments: str, how: str
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"mlh_driver.{function}", interrupted)
    command, path, *options = arguments.split()
    result = CliRunner().invoke(app, [command, str(REPOSITORY / "examples" / path), *options])
    assert result.exit_code == 130 and f"interrupted; {how}" in result.stderr


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_predict_keeps_what_is_finished_when_it_is_interrupted(
    tmp_path: Path, start: Launcher, host: Atoms, signum: int
) -> None:
    ase.io.write(tmp_path / "run.xyz", [host] * 200)
    run = start(*DRIVER, "predict", "run.xyz", "--all", "--out", "results.xyz")
    run.wait_for("run_1: ")
    run.process.send_signal(signum)
    assert run.status() == 130
    (n,) = re.findall(r"interrupted: wrote (\d+) of 200 structures to results\.xyz", run.output)
    frames = ase.io.read(tmp_path / "results.xyz", index=":")
    assert [frame.info["name"] for frame in frames] == [f"run_{k}" for k in range(int(n))]
    assert 2 <= int(n) < 200 and not list(tmp_path.glob(".partial*"))


def test_predict_knows_at_the_start_whether_it_can_write(tmp_path: Path, vacancy: Atoms) -> None:
    vacancy.write(tmp_path / "v.xyz")
    (tmp_path / "dangling.xyz").symlink_to(tmp_path / "nowhere" / "results.xyz")
    forbidden = tmp_path / "forbidden"
    forbidden.mkdir(mode=0o500)
    outputs = {"dangling.xyz": "cannot be written", "forbidden": "is a folder", "gone/r.xyz": "no folder"}
    if os.geteuid():  # root may write everywhere
        outputs["forbidden/results.xyz"] = "cannot be written: Permission denied"
    for out, message in outputs.items():
        command = ["predict", str(tmp_path / "v.xyz"), "--out", str(tmp_path / out), "--model", "graphene"]
        with pytest.raises(InputError, match=message):
            CliRunner().invoke(app, command, catch_exceptions=False)


def test_an_error_of_the_file_system_comes_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "analysis"
    taken.write_text("a file")
    glass = str(REPOSITORY / "examples" / "glass.xyz")
    monkeypatch.setattr("sys.argv", ["mlh-driver", "analyze", glass, "--out", str(taken)])
    with pytest.raises(SystemExit) as end:
        run()
    assert end.value.code == 1
    assert "a file is where a folder should be; give another path" in capsys.readouterr().err
    assert taken.read_text() == "a file"


def test_version_is_printed() -> None:
    assert CliRunner().invoke(app, ["--version"]).output.strip() == __version__


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the reference data {SHARED} are not here")
def test_evaluate_reports_what_the_model_file_claims(tmp_path: Path) -> None:
    for name in read_splits(SHARED)["validation"]:
        (tmp_path / f"{name}.npz").symlink_to(SHARED / f"{name}.npz")
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path), "--json"])
    mean = json.loads(result.output)["splits"]["all"]["mean"]
    claimed = load_model("asio2-minimal").metadata.errors["validation"]
    for figure, value in claimed.items():
        assert mean[figure] == pytest.approx(value, rel=0.02, abs=0.02), figure

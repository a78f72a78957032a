"""Model files, the shipped model, and the commands that only look."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ase import Atoms
from conftest import REPOSITORY, random_model, small_system
from typer.testing import CliRunner

from mlh_driver import Engine, __version__, load_model
from mlh_driver.cli.main import COMMANDS, app
from mlh_driver.data import read_splits
from mlh_driver.errors import InputError, ModelFileError
from mlh_driver.model import FORMAT_VERSION, find_model, shipped_models

SHARED = REPOSITORY.parent / "shared" / "data" / "asio2"


def test_saved_models_come_back_the_same(tmp_path: Path) -> None:
    model = random_model()
    model.save(tmp_path / "m.pt")
    again = load_model(tmp_path / "m.pt", dtype="float64")
    assert again.metadata == model.metadata
    before, after = (Engine(m).compute(small_system()) for m in (model, again))
    assert after.energy == pytest.approx(before.energy, abs=1e-2)  # stored in single precision
    assert after.extrapolation == pytest.approx(before.extrapolation, rel=1e-3)


def test_shipped_model_says_what_it_is() -> None:
    assert shipped_models() == ["asio2-minimal"]
    assert find_model("asio2-minimal").stat().st_size < 8e6
    metadata = load_model("asio2-minimal").metadata
    assert metadata.basis.species == ("O", "Si")
    assert "PBE" in metadata.reference
    assert metadata.errors["validation"]["levels_mae_meV"] < 30
    if SHARED.is_dir():
        assert not set(metadata.training_data) & set(read_splits(SHARED)["validation"])


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
    with pytest.raises(ModelFileError, match="float16"):
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
    metadata = json.loads(CliRunner().invoke(app, ["info", "--model", "asio2-minimal"]).output)
    assert metadata["name"] == "asio2-minimal"


def test_predict_prints_tables_and_json(tmp_path: Path, vacancy: Atoms) -> None:
    vacancy.write(tmp_path / "v.xyz")
    text = CliRunner().invoke(app, ["predict", str(tmp_path / "v.xyz")]).output
    for word in ("energy per atom", "band gap", "charge of Si", "time, network"):
        assert word in text
    result = CliRunner().invoke(app, ["predict", str(tmp_path / "v.xyz"), "--json"])
    report = json.loads(result.output)
    assert len(report["forces"]) == report["n_atoms"] == 95
    assert {"energy", "stress", "charges", "band_gap", "fermi_level", "extrapolation", "timings"} <= set(
        report
    )


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the reference data {SHARED} are not here")
def test_evaluate_reports_what_the_model_file_claims(tmp_path: Path) -> None:
    for name in read_splits(SHARED)["validation"]:
        (tmp_path / f"{name}.npz").symlink_to(SHARED / f"{name}.npz")
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path), "--json"])
    mean = json.loads(result.output)["splits"]["all"]["mean"]
    claimed = load_model("asio2-minimal").metadata.errors["validation"]
    for figure, value in claimed.items():
        assert mean[figure] == pytest.approx(value, rel=0.02, abs=0.02), figure

"""Errors against labels, and the command mlh-driver evaluate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_samples import hot_sample
from typer.testing import CliRunner

from mlh_driver.cli.main import app
from mlh_driver.data import hdf5, read_structure
from mlh_driver.engine import Engine
from mlh_driver.errors import InputError
from mlh_driver.evaluation import evaluate_structure
from mlh_driver.model import Model
from mlh_driver.training.samples import make_sample
from mlh_driver.training.settings import read_settings


def test_a_hot_label_is_evaluated_at_its_temperature(folder: Path, teacher: Model) -> None:
    label, results, _ = hot_sample(folder, teacher)
    engine = Engine(teacher, electronic_temperature_K=300.0)
    errors = evaluate_structure(engine, label)
    assert errors.energy_eV_atom == pytest.approx(0.0, abs=1e-6)
    cold = evaluate_structure(engine, replace(label, electronic_temperature_K=0.0))
    assert cold.energy_eV_atom > 0.1
    assert engine.compute(label.system).electronic_entropy < 0.1 * results.electronic_entropy


def test_evaluate_tells_the_error_of_the_highest_occupied_level(folder: Path, teacher: Model) -> None:
    label = read_structure(folder / "data", "s0")
    levels, C = np.linalg.eigh(label.hamiltonian)
    homo, n = label.n_occupied - 1, len(levels)
    raised = label.hamiltonian + 0.05 * np.outer(C[:, homo], C[:, homo])
    label = replace(label, hamiltonian=raised, eigenvalues=np.linalg.eigvalsh(raised))
    summary = evaluate_structure(Engine(teacher), label).summary()
    assert summary["homo_meV"] == pytest.approx(-50.0 + 50.0 / n, abs=0.1)


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

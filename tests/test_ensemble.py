"""Melt-quenches by seeds: a campaign of ordinary runs, and mean and spread over their glasses."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from processes import DRIVER, PATIENCE_S, REPOSITORY, eventually, launching
from typer.testing import CliRunner

from mlh_driver import Engine, EngineSettings, System
from mlh_driver.analysis import summary
from mlh_driver.cli.main import app
from mlh_driver.errors import InputError
from mlh_driver.files import read_json
from mlh_driver.model import Model, load_model
from mlh_driver.workflows.campaign import open_campaign, states
from mlh_driver.workflows.melt_quench import (
    MeltQuenchSettings,
    find_runs,
    preset,
    run_copies,
    write_comparison,
)
from mlh_driver.workflows.melt_quench.comparison import Spread
from mlh_driver.workflows.task_inputs import _engine

GLASS = REPOSITORY / "examples" / "glass.xyz"
ENGINE = EngineSettings()


@pytest.fixture(scope="module")
def glass() -> Atoms:
    return ase.io.read(GLASS)


def tiny(**changes: object) -> MeltQuenchSettings:
    short = {"melt_ps": 0.002, "quench_K_ps": 1.6e6, "anneal_ps": 0.002, "frame_steps": 1, "restart_steps": 2}
    return preset("quick", {**short, "relax_eV_A": 50.0, "seed": 7, **changes})


@pytest.fixture(scope="module")
def ensemble(glass: Atoms, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two copies, then three; the second fails at first, for something lies in its folder."""
    folder = tmp_path_factory.mktemp("ensemble") / "run"
    foreign = folder / "seed8" / "thesis.tex"
    foreign.parent.mkdir(parents=True)
    foreign.touch()
    (failed,) = run_copies(folder, glass, tiny(), ENGINE, 2)
    assert failed.name == "seed8" and "exists and holds no run" in failed.note
    found = write_comparison(folder)
    assert list(found.structures) == ["seed7"] and [state.name for state in found.failed] == ["seed8"]
    assert "seed8 failed, attempt 1: " in (folder / "report.html").read_text()
    foreign.unlink()
    stamp = (folder / "seed7" / "glass.xyz").stat().st_mtime_ns
    assert run_copies(folder, glass, tiny(), ENGINE, 3) == []
    assert (folder / "seed7" / "glass.xyz").stat().st_mtime_ns == stamp
    return folder


def test_copies_differ_in_their_seed_and_one_that_fails_stops_no_other(ensemble: Path, glass: Atoms) -> None:
    runs = find_runs([ensemble])
    assert [run.folder.name for run in runs] == ["seed7", "seed8", "seed9"]
    assert [run.settings for run in runs] == [tiny(seed=seed) for seed in (7, 8, 9)]
    positions = [run.glass.positions for run in runs]
    assert all(abs(one - other).max() > 0.01 for one, other in pairwise(positions))
    assert [state.status for state in states(ensemble)] == ["done"] * 3
    with pytest.raises(InputError, match=r"settings.melt_ps is 0.002 there and 0.003 now"):
        run_copies(ensemble, glass, tiny(melt_ps=0.003), ENGINE, 3)
    with pytest.raises(InputError, match="holds a single melt-quench"):
        run_copies(ensemble / "seed7", glass, tiny(), ENGINE, 2)
    with pytest.raises(InputError, match=r"engine.solver is auto there and dense now"):
        run_copies(ensemble, glass, tiny(), EngineSettings(solver="dense"), 3)
    with pytest.raises(InputError, match=r"seeds of 2 copies end at 900000001, .*a smaller --seed"):
        run_copies(ensemble, glass, tiny(seed=900_000_000), ENGINE, 2)


def test_glasses_of_different_elements_are_not_averaged(ensemble: Path, tmp_path: Path) -> None:
    for seed in (7, 8):
        shutil.copytree(ensemble / f"seed{seed}", tmp_path / f"seed{seed}")
    other = tmp_path / "seed8" / "glass.xyz"
    atoms = ase.io.read(other)
    atoms.symbols[atoms.symbols == "Si"] = "Ge"
    ase.io.write(other, atoms, format="extxyz")
    with pytest.raises(InputError, match=r"different elements \(seed7: O-Si, seed8: Ge-O\); give each"):
        write_comparison(tmp_path)


def test_mean_and_spread_are_those_of_the_glasses(ensemble: Path) -> None:
    found = write_comparison(ensemble)
    assert not found.unfinished and not found.failed
    glasses = ase.io.read(ensemble / "glasses.xyz", ":")
    each = [summary([atoms]) for atoms in glasses]
    lengths = [one.figures()["Si-O (Å)"] for one in each]
    rings = [float(one.network.rings.get(6, 0.0)) for one in each]
    energies = [atoms.get_potential_energy() / len(atoms) for atoms in glasses]
    written = json.loads((ensemble / "glasses.json").read_text())
    with open(ensemble / "glasses.csv") as file:
        table = {row["quantity"]: row for row in csv.DictReader(file)}
    names = {"Si-O (Å)": lengths, "rings of 6 Si per cell": rings, "energy (eV/atom)": energies}
    for name, values in names.items():
        assert list(written["copies"]) == ["seed7", "seed8", "seed9"]
        assert [copy[name] for copy in written["copies"].values()] == pytest.approx(values, abs=1e-6)
        for held in (written["figures"][name], table[name]):
            assert float(held["mean"]) == pytest.approx(np.mean(values), abs=1e-6)
            assert float(held["spread"]) == pytest.approx(np.std(values, ddof=1), abs=1e-6)
            assert float(held["lowest"]) == pytest.approx(min(values), abs=1e-6)
    pooled = summary(glasses).distribution
    with open(ensemble / "glasses-g.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["O-Si mean"]) for row in rows] == pytest.approx(pooled.g["O-Si"])
    assert max(float(row["O-Si spread"]) for row in rows) > 0.1
    for name in ("glasses.png", "runs.png", "levels.png"):
        assert (ensemble / name).stat().st_size > 10_000


def test_levels_along_a_run_count_from_the_lowest_band_and_span_the_gap_of_the_log(ensemble: Path) -> None:
    run = find_runs([ensemble])[0]
    levels, logged = run.levels(), run.columns()
    assert levels["step"].tolist() == logged["Step"].tolist() == list(range(7))
    assert levels["time_ps"].tolist() == logged["Time"].tolist()
    assert levels["lumo_eV"] - levels["homo_eV"] == pytest.approx(logged["gap"], abs=2e-3)
    assert (levels["homo_eV"] > 15.0).all() and (levels["homo_eV"] < 25.0).all()  # O 2s to the top of O 2p
    engine = Engine()
    step, atoms = list(run.md.frames())[3]
    H = engine.hamiltonian(System.from_ase(atoms))
    occupied = np.linalg.eigvalsh(H + 2.5 * np.eye(len(H)))[:256]
    bottom = occupied[: np.diff(occupied).argmax() + 1]
    assert len(bottom) == 64  # one O 2s for each O
    assert levels["homo_eV"][step] == pytest.approx(occupied[-1] - bottom.mean(), abs=2e-3)
    written = json.loads((run.folder / "report.json").read_text())
    assert written["levels"]["homo_eV"] == pytest.approx(levels["homo_eV"])


def test_a_spread_needs_two_values_and_leaves_out_what_is_none() -> None:
    assert Spread.of([np.nan]) is None
    assert Spread.of([2.0, np.nan]) == Spread(2.0, None, 2.0, 2.0, 1)
    assert Spread.of([1.0, 3.0]) == Spread(2.0, 2.0**0.5, 1.0, 3.0, 2)


def test_report_and_status_know_copies_and_single_runs(ensemble: Path, tmp_path: Path) -> None:
    """A single run has the curves along it in its page, without a glass, too, and no files beside its own."""
    shown = CliRunner().invoke(app, ["report", str(ensemble)])
    assert shown.exit_code == 0, shown.output
    page = (ensemble / "report.html").read_text()
    assert page.count("<img") == 3 and "<td>Si-O (Å)</td>" in page and "Spreads are standard" in page
    assert "asio2-minimal" in page and "Without a glass" not in page
    single = ensemble / "seed7"
    before = {path.name for path in single.iterdir()}
    assert CliRunner().invoke(app, ["report", str(single)]).exit_code == 0
    assert {path.name for path in single.iterdir()} == before | {"report.html"}
    page = (single / "report.html").read_text()
    assert page.count("<img") == 3 and "1 glass," in page and "Along the run<" in page
    other = tmp_path / "other"
    shutil.copytree(single, other, ignore=shutil.ignore_patterns("glass.xyz", "levels.*"))
    assert CliRunner().invoke(app, ["report", str(other)]).exit_code == 0
    page = (other / "report.html").read_text()
    assert page.count("<img") == 1 and "other: anneal, step 6 of 6" in page
    shown = CliRunner().invoke(app, ["status", str(ensemble)])
    assert shown.output.startswith("3 done; 3 tasks in all")
    shutil.copytree(ensemble / "seed8", tmp_path / "another")  # runs made one by one in one folder
    assert CliRunner().invoke(app, ["report", str(tmp_path)]).exit_code == 0
    page = (tmp_path / "report.html").read_text()
    assert "asio2-minimal" in page and "settings.melt_ps" in page and "settings.seed" not in page


def test_the_command_loads_the_model_once_for_all_copies_in_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies that stop where their dynamics would begin."""
    loaded = []

    def counting(model: str, *rest: Any) -> Model:
        loaded.append(model)
        return load_model(model, *rest)

    def stop(*_: object) -> None:
        raise InputError("enough")

    monkeypatch.setattr("mlh_driver.engine.load_model", counting)
    monkeypatch.setattr("mlh_driver.workflows.melt_quench.ensemble.carry_out", stop)
    _engine.cache_clear()
    command = ["melt-quench", "--structure", str(GLASS), "--copies", "2", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, command)
    assert "seed1 failed: enough" in done.output and "seed2 failed: enough" in done.output
    assert loaded == ["asio2-minimal"]


def test_copies_of_other_settings_leave_nothing_in_the_folder(tmp_path: Path) -> None:
    command = ["melt-quench", "--structure", str(GLASS), "--copies", "2", "--dry-run", "--out", str(tmp_path)]
    with open_campaign(tmp_path, {"workflow": "melt-quench", "settings": {"seed": 1}}, 2):
        pass
    done = CliRunner().invoke(app, [*command, "--seed", "5"])
    assert "settings.seed is 1 there and 5 now" in str(done.exception)
    assert not (tmp_path / "seed5").exists()


@pytest.mark.slow
def test_a_copy_whose_worker_is_killed_goes_on_from_its_restart_and_stops_no_other(tmp_path: Path) -> None:
    """SIGKILL to one of two workers in the middle of its run."""
    pytest.importorskip("distributed", reason="dask is not installed: pip install 'mlh-driver[cluster]'")
    short = ["--melt", "0.012", "--rate", "640000", "--anneal", "0.004", "--save", "4", "--fmax", "50"]
    command = [*DRIVER, "melt-quench", "--structure", str(GLASS), *short, "--every", "1", "--out", "run"]
    run = tmp_path / "run"
    with launching(tmp_path) as launch:
        refused = launch(*command, "--workers", "2")
        assert refused.status() == 1 and "ask for several by --copies" in refused.output
        program = launch(*command, "--copies", "2", "--workers", "2", "--threads", "1")
        log = run / "seed2" / "log.0.lammps"
        for written in (run / "tasks", log.parent, log):
            assert eventually(written.exists, 2 * PATIENCE_S), program.output
        assert eventually(lambda: re.search(r"(?m)^ +6 +\d", log.read_text()) is not None), program.output
        (task,) = (path for path in run.glob("tasks/*") if read_json(path / "task.json")["name"] == "seed2")
        os.kill(read_json(task / "running.json")["process"], signal.SIGKILL)
        assert program.status(500) == 0, program.output
    assert "2 of 2 glasses" in program.output and "published" in program.output
    assert {state.name: (state.status, state.attempts) for state in states(run)} == {
        "seed1": ("done", 0),
        "seed2": ("done", 1),
    }
    starts = [int(path.name.split(".")[1]) for path in (run / "seed2").glob("log.*.lammps")]
    assert min(starts) == 0 and max(starts) >= 4
    for each in find_runs([run]):
        assert each.columns()["Step"].tolist() == list(range(each.settings.steps + 1))

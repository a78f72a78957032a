"""What is kept, and what ends, where a run leaves the model's range."""

from __future__ import annotations

import re
import subprocess
from contextlib import nullcontext
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.lammps import convert
from fake_engine import Engine
from lammps_runs import SETUP, run_text, write_data
from processes import DRIVER, ENVIRONMENT, PATIENCE_S, REPOSITORY

from mlh_driver.errors import InputError, LammpsError, LimitReached, NonFiniteError
from mlh_driver.interfaces import guard
from mlh_driver.interfaces.alarm import GUARDED
from mlh_driver.interfaces.guard import GuardedEngine, Rule
from mlh_driver.structures import read_frames
from mlh_driver.system import System

GLASS = System(np.array([14, 8, 8]), np.array([[0.0, 0, 0], [1.6, 0, 0], [0, 1.6, 0]]), 9.0 * np.eye(3))


def guarded(folder: Path, model: str = "fake,strange=1", **rules: str) -> GuardedEngine:
    """The stand-in, whose extrapolation is 2, 4, 8 ... if it is a strange one."""
    parsed = {name: Rule.parse(name, text) for name, text in rules.items()}
    return GuardedEngine(Engine(model), parsed, folder / "guard.xyz")


def reasons(folder: Path) -> list[str]:
    return [atoms.info["why"] for atoms in ase.io.read(folder / "guard.xyz", ":")]


def test_rules_are_read_with_and_without_a_limit() -> None:
    assert Rule.parse("band_gap", "stop") == Rule("stop", GUARDED["band_gap"].limit)
    assert Rule.parse("extrapolation", "dump:3.5") == Rule("dump", 3.5)
    with pytest.raises(InputError, match="'halt' is no action for largest_force; give warn, dump, stop"):
        Rule.parse("largest_force", "halt")
    with pytest.raises(InputError, match="'much' in 'stop:much' is no number"):
        Rule.parse("largest_force", "stop:much")
    with pytest.raises(InputError, match="'nan' in 'stop:nan' is no number"):
        Rule.parse("extrapolation", "stop:nan")  # it would never stop
    with pytest.raises(InputError, match=r"'warn:1.5' for extrapolation: .* such as dump:1\.5"):
        Rule.parse("extrapolation", "warn:1.5")  # it would warn at 2 all the same


def test_a_run_that_stays_outside_is_dumped_where_it_has_more_than_doubled(tmp_path: Path) -> None:
    engine = guarded(tmp_path, extrapolation="dump:3", band_gap="warn")
    for step in range(6):
        engine.compute(System(GLASS.numbers, GLASS.positions + 0.01 * step, GLASS.cell))
    assert reasons(tmp_path) == [
        "last good structure",
        *(f"an extrapolation of {value} is above the limit of 3" for value in (4, 16, 64)),
    ]
    good, first, *_ = ase.io.read(tmp_path / "guard.xyz", ":")
    np.testing.assert_allclose(first.positions - good.positions, 0.01)
    assert first.info["extrapolation"] == 4.0
    assert first.get_potential_energy() < 0
    assert len(read_frames([tmp_path / "guard.xyz"])) == 4  # as `mlh-driver label` does


def test_a_limit_of_zero_keeps_the_first_structure(tmp_path: Path) -> None:
    guarded(tmp_path, "fake", extrapolation="dump:0").compute(GLASS)
    assert reasons(tmp_path) == ["an extrapolation of 0.5 is above the limit of 0"]


def test_a_rule_may_end_the_run(tmp_path: Path) -> None:
    engine = guarded(tmp_path, "fake", band_gap="stop:6")
    with pytest.raises(LimitReached, match=r"a gap \(eV\) of 5.5 is below the limit of 6.*guard\.xyz"):
        engine.compute(GLASS)
    assert len(reasons(tmp_path)) == 1


def test_forces_are_guarded(tmp_path: Path) -> None:
    engine = guarded(tmp_path, "fake", largest_force="stop:0.5")
    engine.compute(GLASS)
    pulled = System(
        GLASS.numbers, GLASS.positions + np.array([[0, 0, 0], [0, 0, 0.2], [0, 0, 0]]), GLASS.cell
    )
    with pytest.raises(LimitReached, match="a force"):
        engine.compute(pulled)


def test_a_structure_without_an_answer_is_kept_without_being_asked_for(tmp_path: Path) -> None:
    class Failing(Engine):
        def compute(self, system: System):
            return super().compute(system).check_finite()

    engine = GuardedEngine(Failing("fake,nan=2"), {}, tmp_path / "guard.xyz")
    engine.compute(GLASS)
    with pytest.raises(NonFiniteError, match=r"the last good one, are in .*guard\.xyz"):
        engine.compute(GLASS)
    assert [reason[:20] for reason in reasons(tmp_path)] == ["last good structure", "the model returned f"]


def test_the_structure_that_ends_a_run_is_kept_beside_any_number_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Engine):
        def compute(self, system: System):
            if system.positions[0, 0] > 0:
                raise NonFiniteError("no answer")
            return super().compute(system)

    monkeypatch.setattr(guard, "MOST_FRAMES", 3)
    engine = GuardedEngine(
        Failing("fake"), {"band_gap": Rule.parse("band_gap", "stop:6")}, tmp_path / "guard.xyz"
    )
    tried = System(GLASS.numbers, GLASS.positions + 0.01, GLASS.cell)
    for words in 3 * ["The structure is in "] + ["has 3 structures of this run already, and not this one"]:
        with pytest.raises(NonFiniteError, match=words):
            engine.compute(tried)
    with pytest.raises(LimitReached, match="The structure is in "):
        engine.compute(GLASS)
    assert len(reasons(tmp_path)) == 4
    assert "below the limit of 6" in reasons(tmp_path)[-1]


def test_evidence_that_cannot_be_written_hides_no_error_and_ends_no_run(tmp_path: Path) -> None:
    (tmp_path / "guard.xyz").mkdir()
    why = r"could not be written to .*guard\.xyz \(Is a directory\)"
    engine = guarded(tmp_path, extrapolation="dump:3", band_gap="stop:1")
    engine.compute(GLASS)
    with pytest.warns(
        RuntimeWarning, match=f"extrapolation of 4 is above the limit of 3; the structure {why}"
    ):
        engine.compute(GLASS)
    with pytest.raises(LimitReached, match=f"below the limit of 6. The structure {why}"):
        guarded(tmp_path, "fake", band_gap="stop:6").compute(GLASS)


@pytest.mark.parametrize("units", ["metal", "real", "electron"])
@pytest.mark.usefixtures("no_hang", "own_folder")
def test_what_lammps_leaves_has_velocities(host: ase.Atoms, units: str) -> None:
    """Those at the start of a run, where they belong to the time of the positions."""
    write_data(host, "a.data", units=units)
    text = SETUP.format(units=units, data="a.data")
    text += "velocity all create 300 1\nwrite_dump all custom v.dump id vx vy vz modify sort id\nrun 0\n"
    with pytest.raises(LimitReached):
        run_text(text, guarded(Path.cwd(), "fake", band_gap="stop:6"))
    expected = convert(np.loadtxt("v.dump", skiprows=9)[:, 1:], "velocity", units, "ASE")
    assert np.abs(expected).max() > 0
    kept = ase.io.read("guard.xyz")
    np.testing.assert_allclose(kept.get_velocities(), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.usefixtures("no_hang", "own_folder")
@pytest.mark.parametrize(("fix", "ends"), [("", False), ("fix drag all viscous 0.001", True)])
def test_lammps_ends_by_itself_where_the_energy_drifts(host: ase.Atoms, fix: str, ends: bool) -> None:
    """By the lines that the page names; friction takes tens of meV/atom/ps of the energy of springs."""
    page = (REPOSITORY / "docs" / "long_runs.md").read_text()
    (lines,) = re.findall(r"```text\n(variable +conserved.*?)```", page, re.DOTALL)
    write_data(host, "a.data")
    text = SETUP.format(units="metal", data="a.data") + f"fix move all nve\n{fix}\n"
    text += f"velocity all create 300 1\ntimestep 0.0005\n{lines}run 1000\n"
    with pytest.raises(LammpsError, match="watch") if ends else nullcontext():
        run_text(text, Engine())


def test_lammps_ends_where_the_gap_is_too_small(tmp_path: Path, host: ase.Atoms) -> None:
    """By the command, with the model in its own process; nothing of the script runs after that."""
    write_data(host, tmp_path / "a.data")
    setup = SETUP.format(units="metal", data="a.data")
    (tmp_path / "in.test").write_text(setup + "fix move all nve\nrun 5\nprint 'all done'\n")
    done = subprocess.run(
        [*DRIVER, "lammps", "-in", "in.test", "-log", "none", "--on-small-gap", "stop:9"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=ENVIRONMENT,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "is below the limit of 9" in done.stderr
    assert str(tmp_path / "mlh_guard.xyz") in done.stderr.replace("\n", "")
    assert "all done" not in done.stdout
    kept = ase.io.read(tmp_path / "mlh_guard.xyz")
    assert kept.info["band_gap"] < 9
    np.testing.assert_allclose(kept.get_all_distances(mic=True), host.get_all_distances(mic=True), atol=1e-6)

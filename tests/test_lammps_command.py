"""The command mlh-driver lammps, and the inputs to copy."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from lammps_runs import (
    SETUP,
    run_text,
    write_data,
)
from processes import DRIVER, ENVIRONMENT, Launcher, serve

from mlh_driver import Results, System
from mlh_driver.cli.lammps import read_arguments
from mlh_driver.errors import ConnectionLost, InputError
from mlh_driver.interfaces.lammps.run import _interrupts_noted
from mlh_driver.interfaces.lammps.script import remove_leftovers
from mlh_driver.interfaces.sockets.remote import RemoteEngine
from mlh_driver.model_files import model_digest

pytestmark = pytest.mark.usefixtures("no_hang", "own_folder")

INPUTS = Path(__file__).parents[1] / "lammps_inputs"


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DRIVER, "lammps", *arguments],
        capture_output=True,
        text=True,
        timeout=170,
        env=ENVIRONMENT | environment,
    )


def thermo(log: str) -> list[np.ndarray]:
    """The tables of thermo output, one array (lines, columns) for each run."""
    tables = re.findall(r"^ +Step.*\n((?: +[-\d.][^\n]*\n)+)", Path(log).read_text(), re.MULTILINE)
    return [np.array([line.split() for line in table.splitlines()], dtype=float) for table in tables]


def run_input(case: str, script: str, *arguments: str) -> str:
    shutil.copytree(INPUTS / case, case)
    os.chdir(case)
    done = command("-in", script, *arguments, "-log", "test.log")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_input_nve() -> None:
    printed = run_input("nve", "in.nve", "-var", "settle", "10", "-var", "steps", "40", "-var", "every", "1")
    _, table = thermo("test.log")
    assert len(table) == 41
    total, potential = table[:, 3], table[:, 2]
    assert np.ptp(potential) > 0.3
    assert np.ptp(total) < 0.05 * np.ptp(potential)
    assert re.search(r"drift of the total energy: -?\d+\.\d+ meV/atom/ps over 0\.02 ps", printed)


@pytest.mark.slow
def test_input_npt() -> None:
    run_input("npt", "in.npt", "-var", "steps", "20", "-var", "every", "5")
    (table,) = thermo("test.log")
    assert len(table) == 5
    assert np.ptp(table[:, 4]) > 0
    assert len(set(table[-1, 4:7])) == 3
    assert Path("npt.lammpstrj").read_text().count("ITEM: TIMESTEP") == 5


@pytest.mark.slow
def test_input_melt_quench_and_its_continuation() -> None:
    lengths = ("-var", "melt", "8", "-var", "quench", "8", "-var", "anneal", "8", "-var", "every", "4")
    run_input("melt_quench", "in.melt_quench", *lengths)
    tables = thermo("test.log")
    assert [table[-1, 0] for table in tables] == [8, 16, 24]
    assert tables[0][0, 1] == pytest.approx(4500, rel=1e-6)
    done = command("-in", "in.continue", "-var", "steps", "4", "-var", "every", "2", "-log", "next.log")
    assert done.returncode == 0, done.stderr
    (table,) = thermo("next.log")
    assert np.allclose(table[0, [0, 1, 2]], tables[-1][-1, [0, 1, 2]], rtol=1e-6)


@pytest.mark.slow
def test_input_vacancy_relaxation() -> None:
    printed = run_input("vacancy_relaxation", "in.relax", "-var", "steps", "6", "-var", "every", "1")
    table = thermo("test.log")[0]
    assert (np.diff(table[:, 1]) < 0).all()
    assert "relaxed energy" in printed
    parts = np.loadtxt("relaxed.lammpstrj", skiprows=9, usecols=5)
    assert parts.sum() == pytest.approx(table[-1, 1], rel=1e-5)


def test_command_with_a_server_ends_with_a_message_and_a_status(host: Atoms, start: Launcher) -> None:
    write_data(host, "a.data")
    setup = SETUP.format(units="metal", data="a.data")
    Path("in.test").write_text(setup + "fix move all nve\nrun ${n}\nprint 'all done'\n")
    Path("in.bad").write_text("units metal\nfoo bar\n")
    Path("in.quit").write_text(setup + "run 2\nif '2 > 1' then 'quit 7'\nprint 'all done'\n")
    _, address = serve(start, "fake,nan=20")
    for arguments, status, message in [
        (("-in", "in.test", "-var", "n", "10"), 0, ""),
        (("-in", "in.test", "-var", "n", "100"), 1, "forces on 1 atoms"),
        (("-in", "in.test", "-var", "n", "10", "--elements", "Si"), 1, "names 1 elements"),
        (("-in", "in.bad"), 1, "Unknown command: foo bar"),
        (("-in", "in.quit"), 7, ""),
        (("-in", "nowhere.in"), 1, "'nowhere.in' does not exist"),
        (("-in", "in.test", "--solver", "foe"), 1, "--solver has no effect with --server"),
        (("-in", "in.test", "--model", "other"), 1, "--model has no effect with --server"),
        (("-in", "in.test", "--secret-file", "any"), 1, "needs no --secret-file"),
    ]:
        done = command(*arguments, "-log", "none", "--server", address)
        assert done.returncode == status, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert ("all done" in done.stdout) == (status == 0)


def test_folders_of_dead_processes_are_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not those of another machine, whose processes are not to be seen here: nodes may share the folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = subprocess.Popen(["true"])
    dead.wait()
    for machine in ("node_2", "node"):
        for owner in (dead.pid, os.getpid(), 1):
            (tmp_path / f"mlh-driver-lammps-{machine}-{owner}-x").mkdir()
    monkeypatch.setattr("socket.gethostname", lambda: "node-2")
    remove_leftovers()
    left = sorted(path.name.split("-")[3:5] for path in tmp_path.iterdir())
    assert left == sorted(
        [
            ["node", str(dead.pid)],
            *([node, str(pid)] for node in ("node", "node_2") for pid in (os.getpid(), 1)),
        ]
    )


def test_a_killed_server_ends_the_run(host: Atoms, start: Launcher) -> None:
    write_data(host, "a.data")
    server, address = serve(start, "fake,slow=0.05")

    class Killing(RemoteEngine):
        def compute(self, system: System) -> Results:
            if len(seen) == 3:
                server.process.kill()
            seen.append(0)
            return super().compute(system)

    seen: list[int] = []
    with pytest.raises(ConnectionLost):
        run_text(SETUP.format(units="metal", data="a.data") + "fix move all nve\nrun 100\n", Killing(address))
    assert len(seen) == 4


@pytest.mark.slow
def test_command_with_the_model_names_an_unknown_mass(host: Atoms) -> None:
    write_data(host, "a.data", masses=(28.085, 36.5))
    Path("in.test").write_text(SETUP.format(units="metal", data="a.data") + "run 1\n")
    done = command("-in", "in.test", "-log", "none")
    assert done.returncode == 1
    assert "type 2 has the mass 36.5 amu" in done.stderr


@pytest.mark.slow
def test_same_seed_and_settings_same_trajectory_to_the_last_digit() -> None:
    """In one thread; and the log says what it depends on."""
    shutil.copytree(INPUTS / "nve", "nve")
    os.chdir("nve")
    lengths = ("-var", "settle", "1", "-var", "steps", "5", "-var", "every", "1")
    logs = []
    for _ in range(2):
        done = command("-in", "in.nve", *lengths, "-log", "test.log")
        assert done.returncode == 0, done.stderr
        logs.append(Path("test.log").read_text())
    tables = [re.findall(r"^ +\d+ .*-31.*$", log, re.MULTILINE) for log in logs]
    assert len(tables[0]) == 8
    assert tables[0] == tables[1]
    assert f"model asio2-minimal ({model_digest('asio2-minimal')}), solver auto, 300 K" in logs[0]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_run_after_a_whole_step(
    host: Atoms, start: Launcher, sign: signal.Signals
) -> None:
    write_data(host, "a.data")
    Path("in.test").write_text(SETUP.format(units="metal", data="a.data") + "fix move all nve\nrun 1000000\n")
    _, address = serve(start, "fake")
    program = start(*DRIVER, "lammps", "-in", "in.test", "-log", "test.log", "--server", address)
    program.wait_for("Per MPI rank memory")
    program.process.send_signal(sign)
    assert program.status() == 130
    assert re.search(r"WARNING: interrupted at step \d+ .*\n", Path("test.log").read_text())


def test_a_process_that_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    """As those that a shell script starts in the background do: Ctrl-C is meant for those in front."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with _interrupts_noted() as interrupted:
            os.kill(os.getpid(), signal.SIGINT)
            assert not interrupted.is_set()
    finally:
        signal.signal(signal.SIGINT, before)


def test_command_refuses_several_ranks() -> None:
    done = command("-in", "in.test", PMI_SIZE="2")
    assert done.returncode == 1
    assert "started on 2 MPI ranks" in done.stderr
    assert "without mpirun" in done.stderr


def test_arguments_are_sorted_as_lammps_users_type_them() -> None:
    typed = "-var T 300 -5 600 -in in.x --elements Si O -v n 3 -log none -nocite"
    arguments = read_arguments(typed.split())
    assert arguments.scripts == ["in.x"]
    assert arguments.elements == ["Si", "O"]
    assert " ".join(arguments.lammps) == "-var T 300 -5 600 -v n 3 -log none -nocite"
    for wrong, message in [
        ("-partition 2x1 -in a", "-partition is not an option"),
        ("-var a", "-var needs 2 values"),
        ("in.x", "belongs to no option"),
    ]:
        with pytest.raises(InputError, match=message):
            read_arguments(wrong.split())


def test_echo_is_an_option_of_lammps_and_no_cry_for_help() -> None:
    done = command("-in", "missing.in", "-echo", "both")
    assert done.returncode == 1
    assert "the LAMMPS script 'missing.in' does not exist" in done.stderr and not done.stdout

"""Errors of the model and of LAMMPS end a LAMMPS run with a message, and nothing wrong is written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from fake_engine import Engine as FakeEngine
from lammps_runs import (
    QUIET,
    SETUP,
    Recorder,
    run_text,
    write_data,
)
from processes import ENVIRONMENT, PATIENCE_S

from mlh_driver import Results, System
from mlh_driver.errors import InputError, LammpsError, NonFiniteError
from mlh_driver.interfaces.lammps import bind, open_lammps, run_script

pytestmark = pytest.mark.usefixtures("no_hang", "own_folder")


class Failing(FakeEngine):
    """Raises a programming error in the given call."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.left = call

    def compute(self, system: System) -> Results:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("tensors of $sizes 'a' and \"b\" do not match [0]")
        return super().compute(system)


WATCHED = """
fix move all nve
dump frames all custom 1 frames.dump id fx fy fz
{run}
print "went on" file after.txt screen no
"""


@pytest.mark.parametrize("run", ["run 10", "minimize 0 0 10 10", "run 10 every 5 'print x'"])
@pytest.mark.parametrize("call", [1, 4])
def test_nan_ends_the_run_and_never_enters_the_trajectory(host: Atoms, run: str, call: int) -> None:
    write_data(host, "a.data")
    text = SETUP.format(units="metal", data="a.data") + WATCHED.format(run=run)
    run_text(text, FakeEngine())
    sound = Path("frames.dump").read_text()
    Path("frames.dump").unlink()
    Path("after.txt").unlink()
    with pytest.raises(NonFiniteError, match="the first is atom 1"):
        run_text(text, FakeEngine(f"fake,nan={call}"))
    written = Path("frames.dump").read_text() if Path("frames.dump").exists() else ""
    assert sound.startswith(written)
    assert written.count("TIMESTEP") < call
    assert not Path("after.txt").exists()


def test_an_exception_of_the_model_is_raised_as_it_is(host: Atoms) -> None:
    write_data(host, "a.data")
    Path("in.test").write_text(SETUP.format(units="metal", data="a.data") + WATCHED.format(run="run 10"))
    with pytest.raises(RuntimeError, match="sizes 'a'"):
        run_script("in.test", Failing(3), arguments=["-log", "test.log", "-screen", "none"])
    assert "at step 2 failed: RuntimeError: tensors of $sizes 'a'" in Path("test.log").read_text()
    assert not Path("after.txt").exists()


def test_what_is_allowed_and_seldom_meant_is_warned_of_once(host: Atoms) -> None:
    write_data(host, "a.data")
    text = SETUP.format(units="metal", data="a.data") + "fix move all nve\nrun 1\n"
    beside = text.replace("fix mlh", "pair_style lj/cut 3.0\npair_coeff * * 1e-9 1.0\nfix mlh")
    arguments = ["-log", "test.log", "-screen", "none", "-var", "steps", "5", "-var", "used", "1"]
    Path("in.test").write_text(beside + "print '${used}'\n")
    run_script("in.test", FakeEngine(), arguments=arguments)
    log = Path("test.log").read_text()
    assert log.count("pair_style lj/cut: its energy and forces are added to the model's") == 1
    assert log.count("-var steps: no script that was read so far has a variable steps") == 1
    assert "-var used" not in log
    Path("in.test").write_text(text.replace("fix mlh", "pair_style zero 2.0\npair_coeff * *\nfix mlh"))
    run_script("in.test", FakeEngine(), arguments=["-log", "test.log", "-screen", "none"])
    assert "WARNING" not in Path("test.log").read_text()


def test_leaving_the_training_data_is_said_in_the_log(host: Atoms) -> None:
    write_data(host, "a.data")
    Path("in.test").write_text(SETUP.format(units="metal", data="a.data") + "fix move all nve\nrun 5\n")
    run_script("in.test", FakeEngine("fake,strange=1"), arguments=["-log", "test.log", "-screen", "none"])
    warnings = re.findall(r"WARNING: step (\d): extrapolation is ([\d.]+),", Path("test.log").read_text())
    assert warnings == [("1", "4.00"), ("3", "16.00"), ("5", "64.00")]


class Selective(FakeEngine):
    """Cannot compute the first atom as another element, nor any structure after so many."""

    def __init__(self, last: int = 10_000) -> None:
        super().__init__()
        self.left = last
        self.refused = 0

    def compute(self, system: System) -> Results:
        self.left -= 1
        if system.numbers[0] != 14 or self.left < 0:
            self.refused += 1
            raise NonFiniteError("the predicted Hamiltonian has elements of 1e+05 eV")
        return super().compute(system)


SWAP = """
pair_style zero 1.0
pair_coeff * *
fix move all nve
fix swap all {style}
thermo 1
thermo_style custom step pe
"""


@pytest.mark.parametrize("style", ["types 1 2", "semi-grand yes types 1 2 mu 0 0"])
def test_a_trial_move_that_cannot_be_computed_is_rejected(host: Atoms, style: str) -> None:
    write_data(host, "a.data")
    assert host.numbers[0] == 14
    setup = SETUP.format(units="metal", data="a.data")
    engine = Selective()
    run = "run 3\nwrite_data end.data\n"
    Path("in.test").write_text(setup + SWAP.format(style=f"atom/swap 1 40 1234 300.0 {style}") + run)
    run_script("in.test", engine, arguments=["-log", "test.log", "-screen", "none"])
    log = Path("test.log").read_text()
    assert engine.refused > 0
    assert re.search(r"step \d: a trial move is rejected, 1 so far: the predicted Hamiltonian", log)
    energies = np.array(re.findall(r"^ +\d+ +(-\S+) *$", log, re.M), dtype=float)
    assert len(energies) == 4 and np.ptp(energies) < 100.0
    assert re.search(r"^1 1 ", Path("end.data").read_text().split("Atoms # atomic")[1], re.M)


def test_a_step_that_cannot_be_computed_ends_the_run_beside_trial_moves_too(host: Atoms) -> None:
    """The first call of a step, with the elements of before; and a setup with other elements."""
    write_data(host, "a.data")
    swap = SWAP.format(style="atom/swap 2 3 1234 300.0 types 1 2")
    setup = SETUP.format(units="metal", data="a.data") + swap
    for calls in range(1, 12):
        with pytest.raises(NonFiniteError):
            run_text(setup + "run 6\n", Selective(calls))
    with pytest.raises(NonFiniteError):
        run_text(setup + "run 1\nset atom 1 type 2\nrun 1\n", Selective())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("units metal\nfoo bar\n", "Unknown command: foo bar"),
        ("units metal\nfix mlh all external pf/callback 1 1\n", "before simulation box"),
        ("units metal\nread_data nowhere.data\n", "nowhere.data"),
        ("include nowhere.in\n", "nowhere.in"),
    ],
)
def test_errors_of_lammps(text: str, message: str) -> None:
    with pytest.raises(LammpsError, match=message):
        run_text(text, FakeEngine())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("fix mlh all external pf/callback 10 1", "Ncall is 10, but must be 1"),
        ("fix mlh all external pf/callback 1 5", "Napply is 5, but must be 1"),
        ("group si type 1\nfix mlh si external pf/callback 1 1", "group is si, but must be all"),
        (
            "group si type 1\nvariable g string si\nfix mlh ${g} external pf/callback 1 1",
            "fix mlh si .*group is si",
        ),
        ("variable n equal 5\nfix mlh all external pf/callback $n 1", "Ncall is 5, but must be 1"),
        (
            "fix hold all setforce 0 0 0\nfix mlh all external pf/callback 1 1",
            r"fix hold \(setforce\) .* define fix hold after fix mlh",
        ),
        (
            "variable h string hold\nfix ${h} all setforce 0 0 0\nfix mlh all external pf/callback 1 1",
            r"fix hold \(setforce\) .* define fix hold after fix mlh",
        ),
        *(
            (f"fix a all {style}\nfix mlh all external pf/callback 1 1", rf"fix a \({style.split()[0]}\)")
            for style in ("flow/gauss 1 0 0", "rigid single", "ti/spring 1 10 10", "lineforce 1 0 0")
        ),
    ],
)
def test_fixes_that_cannot_be_served(host: Atoms, line: str, message: str) -> None:
    write_data(host, "a.data")
    with pytest.raises(InputError, match=message):
        run_text(f"units metal\nread_data a.data\n{line}\nrun 1\n", FakeEngine())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run_style respa 2 2", "use 'run_style verlet'"),
        ("compute s all stress/atom NULL", "the model has no local stress"),
        ("if '1 > 0' then 'compute s all centroid/stress/atom NULL'", "centroid/stress/atom would leave"),
        ("compute s all stress/mop z center total", "stress/mop would leave it out"),
        ("fix n all numdiff 1 1e-4", "numdiff differentiates pair and bonded terms"),
        ("compute b all born/matrix numdiff 1e-4 v", "born/matrix differentiates pair and bonded terms"),
        ("fix g all gcmc 1 9 0 2 4711 300 -1 0.1 full_energy", "gcmc tries deletions by excluding"),
        ("fix w all widom 1 9 2 4711 300 full_energy", "widom tries deletions .* not supported"),
        ("fix c all charge/regulation 1 2 pH 7", "charge/regulation tries deletions"),
        ("fix s all sgcmc 1 0.1 300 0.0", "sgcmc tries its moves after the forces .* fix atom/swap"),
        ("compute g all group/group all", "group/group adds up pair terms"),
        ("compute e all pe pair", "pe of pair alone leaves the model out"),
        ("compute e all pe/atom pair bond", "pe/atom of bond, pair alone leaves the model out"),
        ("compute p all pressure NULL pair", "pressure of pair alone leaves the model out"),
        ("compute t all pe/tally all", "pe/tally adds up pair terms"),
        ("compute t all force/tally all", "force/tally adds up pair terms"),
        ("compute t all heat/flux/tally all", "heat/flux/tally adds up pair terms"),
        ("compute t all heat/flux/virial/tally all", "heat/flux/virial/tally adds up pair terms"),
        ("compute f all fep 300 atom charge 1 v_d", "fep adds up pair terms"),
        ("compute f all ti 8 lj/cut v_l v_d", "ti adds up pair terms"),
    ],
)
def test_what_would_leave_the_model_out_is_refused(host: Atoms, line: str, message: str) -> None:
    write_data(host, "a.data")
    text = SETUP.format(units="metal", data="a.data") + "fix move all nve\n"
    with pytest.raises(InputError, match=message):
        run_text(f"{text}{line}\nrun 3\n", FakeEngine())
    fine = "compute s all stress/atom NULL ke\ncompute p all pressure NULL virial\n"
    fine += "compute e all pe/atom fix pair\n"
    assert run_text(f"{text}{fine}compute total all pe\nrun 3\n", FakeEngine()) == 4


def test_rerun_as_the_first_command_meets_every_frame(host: Atoms) -> None:
    write_data(host, "a.data")
    start = SETUP.format(units="metal", data="a.data")
    dump = "velocity all create 600 1\nfix move all nve\ndump d all custom 1 d.dump id type x y z\nrun 3\n"
    run_text(start + dump, FakeEngine())
    recorder = Recorder(FakeEngine())
    assert run_text(f"{start}rerun d.dump dump x y z box yes\n", recorder) == 4
    assert len({system.positions.tobytes() for system in recorder.systems}) == 4


def test_masses_and_explanations_are_read_as_lammps_reads_them(host: Atoms) -> None:
    """A mass that changes between runs counts; a text that is printed defines nothing."""
    write_data(host, "a.data")
    recorder = Recorder(FakeEngine())
    text = SETUP.format(units="metal", data="a.data") + "run 0\nmass 2 28.0855\nrun 0\n"
    run_text(text + 'print """\nfix mlh si external pf/callback 5 1\n"""\n', recorder)
    assert set(recorder.systems[0].numbers) == {8, 14}
    assert set(recorder.systems[-1].numbers) == {14}


def test_two_fixes_at_once_are_said_in_the_log(host: Atoms) -> None:
    write_data(host, "a.data")
    second = "fix second all external pf/callback 1 1\n"
    text = SETUP.format(units="metal", data="a.data") + f"run 0\nunfix mlh\n{second}run 0\n"
    for name, script in (("one.log", text), ("two.log", text.replace("unfix mlh\n", ""))):
        Path("in.test").write_text(script)
        run_script("in.test", FakeEngine(), arguments=["-log", name, "-screen", "none"])
    assert "count twice" not in Path("one.log").read_text()
    assert "fix mlh and fix second both add" in Path("two.log").read_text()


def test_hidden_or_missing_fix_is_explained(host: Atoms) -> None:
    write_data(host, "a.data")
    start = "units metal\nread_data a.data\n"
    with pytest.raises(LammpsError, match="where mlh-driver could not see it"):
        run_text(start + "variable s string external\nfix mlh all $s pf/callback 1 1\nrun 1\n", FakeEngine())
    with pytest.raises(InputError, match="without defining the model's fix"):
        run_text(start, FakeEngine())
    with pytest.raises(InputError, match=r"boundary p p p"):
        run_text("boundary p p f\n" + start + "fix mlh all external pf/callback 1 1\nrun 1\n", FakeEngine())
    with pytest.raises(InputError, match=r"'nowhere.in' does not exist"):
        run_script("nowhere.in", FakeEngine(), arguments=QUIET)


def test_bind_from_python_and_recover_after_an_error(host: Atoms, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(host, "a.data")
    lmp = open_lammps(QUIET)
    for command in (
        SETUP.format(units="metal", data="a.data") + "fix move all nve\nvelocity all create 300 1"
    ).splitlines():
        lmp.command(command)
    with monkeypatch.context() as patch, pytest.raises(InputError, match="on 2 MPI ranks"):
        patch.setattr(lmp, "extract_setting", lambda name: {"world_size": 2}[name])
        bind(lmp, "mlh", FakeEngine())
    callback = bind(lmp, "mlh", FakeEngine("fake,nan=3"))
    with pytest.raises(NonFiniteError), callback.errors_raised():
        lmp.command("run 10")
    with callback.errors_raised():
        lmp.command("run 5")
    with pytest.raises(LammpsError, match="Unknown command"), callback.errors_raised():
        lmp.command("foo")
    assert callback.calls == 2 + 6
    assert lmp.extract_fix("mlh", 0, 1, 0) == 5.5
    lmp.close()


@pytest.mark.parametrize("plugin", ["nowhere_to_be_found:folder", "broken_plugin:folder"])
def test_a_broken_plugin_is_not_taken_for_a_missing_mpi_library(plugin: str) -> None:
    """In a process of its own, with a package whose entry point leads nowhere, or fails when it is called."""
    info = Path("broken-9.9.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 9.9\n")
    (info / "entry_points.txt").write_text(f"[lammps.plugins]\nbroken = {plugin}\n")
    Path("broken_plugin.py").write_text("def folder():\n    raise KeyError('no folder')\n")
    code = "from mlh_driver.interfaces.lammps import open_lammps; open_lammps()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    message = done.stderr.splitlines()[-1]
    cause = "No module named 'nowhere_to_be_found'" if "nowhere" in plugin else "KeyError: 'no folder'"
    assert "LAMMPS cannot be imported" in message and cause in message
    assert re.search(r"plugins of .*\bbroken\b", message)
    assert "MPI" not in message

"""LAMMPS scripts with loops, includes and several runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from fake_engine import Engine as FakeEngine
from lammps_runs import (
    SETUP,
    Recorder,
    run_text,
    write_data,
)

from mlh_driver import Engine, System
from mlh_driver.errors import InputError
from mlh_driver.interfaces.lammps import run_script
from mlh_driver.interfaces.lammps.rewriting import logical_lines, strip_comment

pytestmark = pytest.mark.usefixtures("no_hang", "own_folder")


LOOPS = """
variable pass loop 3
label again  # fix comment all external pf/callback 7 7
clear
include setup_{file}.in
fix move all nve
if "${pass} == 2" then "fix second all external pf/callback 1 1" &
    "fix_modify second energy yes"
variable inner loop 2
label inside
run 2
next inner
jump in.test inside
unfix ${name}
fix    ${name} all external pf/callback 1 1
run 1
next pass
jump SELF again
print "passes done" file done.txt screen no
if "${name} == mlh" then "jump last.in"
print "not reached" file never.txt screen no
"""


def test_loops_clear_include_jump_if_and_refix(host: Atoms) -> None:
    write_data(host, "a.data")
    Path("setup_x.in").write_text(
        "units metal\nread_data a.data\nvariable name string mlh\n"
        "fix ${name} &\n all external pf/callback 1 1\n"
    )
    Path("last.in").write_text('minimize 0 1e-3 5 5\nprint "$(pe:%.10g)" file last.txt screen no\n')
    recorder = Recorder(FakeEngine())
    run_text(LOOPS.replace("{file}", "${x}"), recorder, "-var", "x", "x")
    assert Path("done.txt").exists()
    assert not Path("never.txt").exists()
    # each pass: two runs of 2 steps and one of 1, each with its setup; the second fix doubles pass 2
    pass_calls = 3 + 3 + 2
    assert len(recorder.systems) > 3 * pass_calls + pass_calls
    assert float(Path("last.txt").read_text()) == pytest.approx(-330.0 * len(host), abs=1e-3)


def test_run_every_and_quoted_include(host: Atoms) -> None:
    write_data(host, "a.data")
    Path("define.in").write_text("fix mlh all external pf/callback 1 1\n")
    text = 'units metal\nread_data a.data\nif "1 > 0" then "include define.in"\nfix move all nve\n'
    assert run_text(text + 'run 4 every 2 "print x"\n', FakeEngine()) >= 5


def test_files_are_read_as_they_are_when_lammps_comes_to_them(host: Atoms) -> None:
    """In quotes too: written by the script itself, in another folder, put in place of an older one."""
    write_data(host, "a.data")
    Path("gen.in").write_text("variable a string OLD\n")
    Path("par.in").write_text("variable b string TOP\n")
    Path("d").mkdir()
    Path("d/par.in").write_text("variable b string D\n")
    for k in (1, 2, 3):
        Path(f"p{k}.in").write_text(f"variable c{k} string {k}\n")
        os.utime(f"p{k}.in", (1e9, 1e9))
    text = (
        SETUP.format(units="metal", data="a.data")
        + """run 0
print "variable a string NEW" file gen.in screen no
if "1 > 0" then "include gen.in"
shell cd d
if "1 > 0" then "include par.in"
shell cd ..
variable k loop 3
label again
shell mv p$k.in current.in
include current.in
next k
jump SELF again
variable last string end.in
if "1 > 0" then "jump ${last} here"
print "not reached" file found.txt
"""
    )
    Path("end.in").write_text(
        'print "not here" file found.txt\nlabel here\nprint "$a $b ${c1}${c2}${c3}" file found.txt\n'
    )
    run_text(text, FakeEngine())
    assert Path("found.txt").read_text() == "NEW D 123\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("fix_modify mlh virial no", "without the virial of fix mlh the model is left out of the pressure"),
        ('if "1 > 0" then "fix_modify mlh energy off"', "left out of the energy"),
        ("fix own all mlh unix:x", "fix own all external pf/callback 1 1"),
        ("fix own all external pf/array 1", "no forces to pf/array; write: fix own all external pf/callback"),
    ],
)
def test_lines_that_leave_the_model_out_or_bring_another_are_refused(
    host: Atoms, line: str, message: str
) -> None:
    write_data(host, "a.data")
    with pytest.raises(InputError, match=message):
        run_text(SETUP.format(units="metal", data="a.data") + line + "\nrun 0\n", FakeEngine())


def test_styles_for_threads_come_before_the_model(host: Atoms) -> None:
    """``-suffix omp`` defines a fix of LAMMPS' own, before all others."""
    write_data(host, "a.data")
    Path("in.test").write_text(SETUP.format(units="metal", data="a.data") + "fix m all nve\nrun 1\n")
    arguments = ["-log", "none", "-screen", "none", "-suffix", "omp"]
    assert run_script("in.test", FakeEngine(), arguments=arguments) == 2


def test_other_fixes_may_be_left_out_of_the_energy(host: Atoms) -> None:
    write_data(host, "a.data")
    text = (
        SETUP.format(units="metal", data="a.data")
        + "fix w all spring/self 1.0\nfix_modify w energy no\nrun 0\n"
    )
    assert run_text(text, FakeEngine()) == 1


def test_a_comment_ends_where_lammps_ends_it(host: Atoms) -> None:
    write_data(host, "a.data")
    text = SETUP.format(units="metal", data="a.data") + "# old: \f run 3\u2028 run 4\nrun 0\n"
    assert run_text(text, FakeEngine()) == 1


def test_a_run_without_the_model_after_clear_is_warned_of(host: Atoms) -> None:
    write_data(host, "a.data")
    without = (
        "clear\nunits metal\nread_data a.data\npair_style zero 5\npair_coeff * *\nfix m all nve\nrun 2\n"
    )
    Path("in.test").write_text(SETUP.format(units="metal", data="a.data") + "run 0\n" + without)
    assert run_script("in.test", FakeEngine(), arguments=["-log", "test.log", "-screen", "none"]) == 1
    assert Path("test.log").read_text().count("WARNING: this run is without the model") == 1
    later = 'fix mlh all external pf/callback 1 1\nrun 0\nunfix mlh\nif "1 > 0" then "minimize 0 0 1 1"\n'
    Path("in.test").write_text(without.removeprefix("clear\n") + later)
    run_script("in.test", FakeEngine(), arguments=["-log", "test.log", "-screen", "none"])
    warnings = re.findall(
        r"WARNING: this run is without the model: define (.*)", Path("test.log").read_text()
    )
    assert [text.split(" 1 1 ")[1].split(" (")[0] for text in warnings] == [
        "before it",
        "again after clear or unfix",
    ]


def test_a_script_may_jump_to_itself_by_name_in_quotes(host: Atoms) -> None:
    write_data(host, "a.data")
    text = """units metal
read_data a.data
fix mlh all external pf/callback 1 1
fix move all nve
variable pass loop 3
label again
run 1
next pass
if "${pass} < 3" then "jump in.test again"
"""
    assert run_text(text, FakeEngine()) >= 4


def test_triple_quotes_comments_and_continuation_are_commands() -> None:
    text = 'run 1 # a "comment\nprint """a # b\nfix""" & \n  file x\nif "1" then &\n "fix a"\nlast'
    commands = [logical for _, logical in logical_lines(text)]
    assert commands == ["run 1 ", 'print """a # b\nfix"""    file x', 'if "1" then   "fix a"', "last"]
    assert "".join(physical for physical, _ in logical_lines(text)) == text + "\n"
    assert strip_comment("print 'a # b' # c") == "print 'a # b' "


def test_box_follows_the_stress(host: Atoms) -> None:
    """The stand-in is under tension (positive stress, ASE's sign), so that the box contracts."""
    write_data(host, "a.data")
    text = SETUP.format(units="metal", data="a.data") + "change_box all triclinic\n"
    text += "fix move all npt temp 300 300 0.1 tri 0 0 1.0\n"
    run_text(text + 'run 20\nprint "$(lx:%.12g) $(lz:%.12g) $(yz)" file box.txt screen no\n', FakeEngine())
    x, z, yz = map(float, Path("box.txt").read_text().split())
    assert z < x < host.cell[0, 0]
    assert yz != 0


@pytest.mark.slow
def test_box_relax_lowers_the_enthalpy(host: Atoms, engine64: Engine) -> None:
    write_data(host, "a.data")
    text = SETUP.format(units="metal", data="a.data") + "fix cell all box/relax aniso 0.0 vmax 0.002\n"
    run_text(
        text + 'thermo 1\nminimize 0 0 3 10\nprint "$(pe:%.12g) $(lx)" file box.txt screen no\n', engine64
    )
    energy, x = map(float, Path("box.txt").read_text().split())
    assert energy < engine64.compute(System.from_ase(host)).energy
    assert x != pytest.approx(host.cell[0, 0], rel=1e-6)


def test_restart(host: Atoms) -> None:
    write_data(host, "a.data")
    fixes = "fix mlh all external pf/callback 1 1\nfix move all nvt temp 300 300 0.1\n"
    state = 'print "$(pe:%.12g) $(etotal:%.12g) $(f_mlh[1])" append state.txt screen no\n'
    setup = "units metal\nread_data a.data\nvelocity all create 300 1\n" + fixes
    fake = FakeEngine()
    run_text(setup + "run 10\nwrite_restart a.restart\nrun 10\n" + state, fake)
    run_text("units metal\nread_restart a.restart\n" + fixes + "run 10\n" + state, fake)
    once, twice = (np.array(line.split(), dtype=float) for line in Path("state.txt").read_text().splitlines())
    assert np.allclose(once, twice, rtol=1e-10)

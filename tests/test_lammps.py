"""LAMMPS with the model as its force engine: real LAMMPS runs, in this process and from the command line."""

from __future__ import annotations

import faulthandler
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lammps import convert
from fake_engine import Engine as FakeEngine
from processes import DRIVER, ENVIRONMENT, FAKE, Launcher, Program, launching

from mlh_driver.cli.lammps import read_arguments
from mlh_driver.engine import Engine
from mlh_driver.errors import ConnectionLost, InputError, MLHError, NonFiniteError
from mlh_driver.interfaces.lammps import LammpsError, bind, open_lammps, run_script
from mlh_driver.interfaces.lammps_script import logical_lines, remove_leftovers, strip_comment
from mlh_driver.interfaces.remote import RemoteEngine
from mlh_driver.results import OBSERVABLES, Results
from mlh_driver.system import System

INPUTS = Path(__file__).parents[1] / "lammps_inputs"
SYMBOLS = ("Si", "O")
UNITS = ("metal", "real", "electron", "si", "cgs", "micro", "nano")
QUIET = ("-log", "none", "-screen", "none")


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """LAMMPS cannot be interrupted from Python: after three minutes the test process is ended."""
    faulthandler.dump_traceback_later(180, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Recorder:
    """An engine that remembers what it was asked and what it answered."""

    def __init__(self, engine: Engine | FakeEngine) -> None:
        self.engine = engine
        self.systems: list[System] = []

    def compute(self, system: System) -> Results:
        self.systems.append(system)
        return self.engine.compute(system)


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


def write_data(
    atoms: Atoms, path: Path | str, *, ids: np.ndarray | None = None, origin: np.ndarray | None = None,
    units: str = "metal", masses: tuple[float, float] = (28.085, 15.999),
) -> None:  # fmt: skip
    """A LAMMPS data file of Si and O; the cell must have LAMMPS' orientation."""
    length = convert(1.0, "distance", "ASE", units)
    mass = convert(1.0, "mass", "ASE", units)
    origin = np.zeros(3) if origin is None else origin
    ids = np.arange(1, len(atoms) + 1) if ids is None else ids
    cell = atoms.cell.array * length
    lines = ["test", f"{len(atoms)} atoms", "2 atom types"]
    lines += [
        f"{lo:.15g} {lo + cell[i, i]:.15g} {a}lo {a}hi"
        for i, (a, lo) in enumerate(zip("xyz", origin, strict=True))
    ]
    if abs(cell - np.diag(np.diag(cell))).max() > 0:
        lines += [f"{cell[1, 0]:.15g} {cell[2, 0]:.15g} {cell[2, 1]:.15g} xy xz yz"]
    lines += [
        "",
        "Masses",
        "",
        *(f"{i} {m * mass:.15g}" for i, m in enumerate(masses, 1)),
        "",
        "Atoms # atomic",
        "",
    ]
    for number, symbol, position in zip(ids, atoms.symbols, atoms.positions * length + origin, strict=True):
        x, y, z = position
        lines.append(f"{number} {SYMBOLS.index(symbol) + 1} {x:.15g} {y:.15g} {z:.15g}")
    Path(path).write_text("\n".join(lines) + "\n")


def sheared(atoms: Atoms) -> Atoms:
    """The glass in a triclinic cell of LAMMPS' orientation, a little strained."""
    cell = atoms.cell.array @ np.array([[1.01, 0.0, 0.0], [0.06, 0.99, 0.0], [-0.04, 0.05, 1.0]])
    atoms = atoms.copy()
    atoms.set_cell(cell, scale_atoms=True)
    return atoms


SETUP = """
units {units}
boundary p p p
read_data {data}
fix mlh all external pf/callback 1 1
"""

REPORT = """
compute parts all pe/atom
dump report all custom 1 report.dump id type x y z fx fy fz c_parts
dump_modify report sort id format float %.15g
compute sum all reduce sum c_parts
run {steps}
print "$(pe:%.15g) $(c_sum:%.15g) $(vol:%.15g)" file report.txt screen no
print "$(pxx:%.15g) $(pyy:%.15g) $(pzz:%.15g) {shear}" append report.txt screen no
print "{vector}" append report.txt screen no
""".replace("{vector}", " ".join(f"$(f_mlh[{i}]:%.15g)" for i in range(1, len(OBSERVABLES) + 1)))
REPORT = REPORT.replace("{shear}", "$(pyz:%.15g) $(pxz:%.15g) $(pxy:%.15g)")


def read_report() -> tuple[np.ndarray, list[np.ndarray]]:
    """The last frame of the dump (id type x y z fx fy fz energy), and the three lines of the report."""
    frame = Path("report.dump").read_text().split("ITEM: ATOMS")[-1].splitlines()[1:]
    rows = np.array([line.split() for line in frame], dtype=float)
    return rows, [np.array(line.split(), dtype=float) for line in Path("report.txt").read_text().splitlines()]


def run_text(text: str, engine: object, *arguments: str, elements: list[str] | None = None) -> int:
    Path("in.test").write_text(text)
    return run_script("in.test", engine, arguments=[*QUIET, *arguments], elements=elements)  # type: ignore[arg-type]


def assert_parity(
    expected: Results, volume: float, units: str, rows: np.ndarray, report: list[np.ndarray]
) -> None:
    """LAMMPS has the engine's energy, forces, stress, per-atom energies and observables."""
    n = len(rows)
    energy, parts = convert(report[0][:2], "energy", units, "ASE")
    assert abs(energy - expected.energy) < 1e-7 * n
    assert abs(parts - expected.energy) < 1e-7 * n
    assert np.abs(convert(rows[:, 8], "energy", units, "ASE") - expected.energies).max() < 1e-6
    assert abs(convert(report[0][2] ** (1 / 3), "distance", units, "ASE") ** 3 - volume) < 1e-6 * volume
    assert np.abs(convert(rows[:, 5:8], "force", units, "ASE") - expected.forces).max() < 1e-6
    stress = -convert(report[1], "pressure", units, "ASE")  # Voigt order xx yy zz yz xz xy
    assert np.abs(stress - expected.stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]).max() < 1e-7
    assert np.allclose(report[2], list(expected.observables().values()), rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------------------------------------------
# the numbers
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("units", ["metal", "real"])
def test_static_parity_triclinic_off_origin_shuffled(host: Atoms, engine64: Engine, units: str) -> None:
    atoms = sheared(host)
    atoms.positions += np.random.default_rng(1).normal(0.0, 0.05, atoms.positions.shape)
    shuffled = np.random.default_rng(2).permutation(len(atoms)) + 1
    write_data(atoms, "a.data", ids=shuffled, origin=np.array([-7.0, 3.0, 110.0]), units=units)
    run_text(SETUP.format(units=units, data="a.data") + REPORT.format(steps=0), engine64)
    rows, report = read_report()
    expected = engine64.compute(System.from_ase(atoms))
    rows = rows[shuffled - 1]  # back to the order of `atoms`
    assert_parity(expected, atoms.cell.volume, units, rows, report)


def test_parity_while_atoms_leave_the_box_and_are_reordered(host: Atoms, engine64: Engine) -> None:
    """No wrapping and no new order for 6 steps; then, with sorting in every step, again."""
    write_data(host, "a.data")
    move = "pair_style zero 2.0\npair_coeff * *\nfix move all nve\nvelocity all set 60.0 50.0 -55.0\n"
    for rule in (
        "neigh_modify once yes\n",
        "atom_modify sort 1 3.0\nneigh_modify every 1 delay 0 check no\n",
    ):
        recorder = Recorder(engine64)
        setup = SETUP.format(units="metal", data="a.data").replace(
            "read_data", "atom_modify map array\nread_data"
        )
        run_text(setup + move + rule + REPORT.format(steps=6), recorder)
        rows, report = read_report()
        drifted = System(recorder.systems[-1].numbers, rows[:, 2:5], host.cell.array)
        expected = engine64.compute(drifted)
        assert np.abs(rows[:, 5:8] - expected.forces).max() < 1e-6
        assert abs(report[0][0] - expected.energy) < 1e-7 * len(host)
        assert (recorder.systems[-1].numbers == host.numbers).all()
        outside = (rows[:, 2:5] < 0) | (rows[:, 2:5] > host.cell.lengths())
        assert outside.any() == ("once" in rule)


@pytest.mark.parametrize("units", UNITS)
def test_every_unit_system(host: Atoms, units: str) -> None:
    write_data(host, "a.data", units=units)
    run_text(SETUP.format(units=units, data="a.data") + REPORT.format(steps=0), FakeEngine())
    rows, report = read_report()
    expected = FakeEngine().compute(System.from_ase(host))
    assert abs(convert(report[0][0], "energy", units, "ASE") / expected.energy - 1) < 1e-7
    assert np.allclose(convert(rows[:, 5:8], "force", units, "ASE"), expected.forces, rtol=1e-6, atol=1e-8)
    assert np.allclose(convert(report[1], "pressure", units, "ASE")[:3], [-0.01, -0.02, -0.03], rtol=1e-5)
    assert np.allclose(report[2], list(expected.observables().values()))


def test_units_lj_are_refused(host: Atoms) -> None:
    write_data(host, "a.data")
    with pytest.raises(InputError, match=r"units lj.*metal"):
        run_text(SETUP.format(units="lj", data="a.data") + "run 0", FakeEngine())


# ---------------------------------------------------------------------------------------------------------
# which element a type is
# ---------------------------------------------------------------------------------------------------------


def numbers_seen(text: str, elements: list[str] | None = None) -> list[int]:
    recorder = Recorder(FakeEngine())
    run_text(text + "run 0\n", recorder, elements=elements)
    return recorder.systems[0].numbers.tolist()


def test_elements_from_masses_labels_and_option(host: Atoms) -> None:
    setup = SETUP.format(units="metal", data="a.data")
    expected = host.numbers.tolist()
    write_data(host, "a.data", masses=(28.0, 16.0))
    assert numbers_seen(setup) == expected
    assert numbers_seen(setup, ["C", "Ge"]) == [{14: 6, 8: 32}[z] for z in expected]
    assert numbers_seen(setup + "labelmap atom 1 Ge 2 oxygen\n") == [{14: 32, 8: 8}[z] for z in expected]
    write_data(host, "a.data", masses=(20.6, 1.0))  # neither is an element's
    assert numbers_seen(setup + "labelmap atom 1 Si 2 O\n") == expected


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        (None, r"type 2 has the mass 36\.5 amu.*Cl, 35\.45.*--elements"),
        (["Si"], r"names 1 elements.*2 atom types"),
        (["Si", "Ox"], r"'Ox' is not the symbol of an element"),
    ],
)
def test_unclear_elements_are_errors(host: Atoms, elements: list[str] | None, message: str) -> None:
    write_data(host, "a.data", masses=(28.085, 36.5))
    with pytest.raises(InputError, match=message):
        run_text(SETUP.format(units="metal", data="a.data") + "run 1\n", FakeEngine(), elements=elements)


def test_element_that_the_model_does_not_know(host: Atoms, engine64: Engine) -> None:
    write_data(host, "a.data", masses=(28.085, 14.007))
    with pytest.raises(MLHError, match="knows only O, Si"):
        run_text(SETUP.format(units="metal", data="a.data") + "run 1\n", engine64)


# ---------------------------------------------------------------------------------------------------------
# scripts
# ---------------------------------------------------------------------------------------------------------

LOOPS = """
variable pass loop 3
label again  # fix comment all external pf/callback 7 7
clear
include setup_{file}.in
fix move all nve
if "${pass} == 2" then "fix second all external pf/callback 1 1" &
    "fix_modify second energy no"
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


def test_a_run_without_the_model_after_clear_is_warned_of(host: Atoms) -> None:
    write_data(host, "a.data")
    without = (
        "clear\nunits metal\nread_data a.data\npair_style zero 5\npair_coeff * *\nfix m all nve\nrun 2\n"
    )
    Path("in.test").write_text(SETUP.format(units="metal", data="a.data") + "run 0\n" + without)
    assert run_script("in.test", FakeEngine(), arguments=["-log", "test.log", "-screen", "none"]) == 1
    assert Path("test.log").read_text().count("WARNING: this run is without the model") == 1


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


# ---------------------------------------------------------------------------------------------------------
# errors
# ---------------------------------------------------------------------------------------------------------

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


def test_leaving_the_training_data_is_said_in_the_log(host: Atoms) -> None:
    write_data(host, "a.data")
    Path("in.test").write_text(SETUP.format(units="metal", data="a.data") + "fix move all nve\nrun 5\n")
    run_script("in.test", FakeEngine("fake,strange=1"), arguments=["-log", "test.log", "-screen", "none"])
    warnings = re.findall(r"WARNING: step (\d) .*\(extrapolation ([\d.]+)", Path("test.log").read_text())
    assert warnings == [("1", "4.0"), ("3", "16.0"), ("5", "64.0")]


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
        ("fix g all gcmc 1 9 0 2 4711 300 -1 0.1", "gcmc takes the energy of pair terms alone"),
        ("fix w all widom 1 9 2 4711 300", "widom takes the energy .* add full_energy"),
    ],
)
def test_what_would_leave_the_model_out_is_refused(host: Atoms, line: str, message: str) -> None:
    write_data(host, "a.data")
    text = SETUP.format(units="metal", data="a.data") + "fix move all nve\n"
    with pytest.raises(InputError, match=message):
        run_text(f"{text}{line}\nrun 3\n", FakeEngine())
    assert run_text(f"{text}compute s all stress/atom NULL ke\nrun 3\n", FakeEngine()) == 4


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


# ---------------------------------------------------------------------------------------------------------
# the command, and the inputs to copy
# ---------------------------------------------------------------------------------------------------------


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


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Launcher]:
    with launching(tmp_path) as launcher:
        yield launcher


def serve(start: Launcher, model: str) -> tuple[Program, str]:
    """A server with the stand-in engine, and its address."""
    server = start(*FAKE, "serve", "--unix", f"{start.folder}/socket", "--model", model)
    server.wait_for("listening on unix socket")
    return server, f"unix:{start.folder}/socket"


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
    ]:
        done = command(*arguments, "-log", "none", "--server", address)
        assert done.returncode == status, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert ("all done" in done.stdout) == (status == 0)


def test_folders_of_dead_processes_are_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = subprocess.Popen(["true"])
    dead.wait()
    for owner in (dead.pid, os.getpid(), 1):
        (tmp_path / f"mlh-driver-lammps-{owner}-x").mkdir()
    remove_leftovers()
    left = {path.name.split("-")[3] for path in tmp_path.iterdir()}
    assert left == {str(os.getpid()), "1"}


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


def test_ctrl_c_ends_the_run(host: Atoms, start: Launcher) -> None:
    write_data(host, "a.data")
    Path("in.test").write_text(SETUP.format(units="metal", data="a.data") + "fix move all nve\nrun 1000000\n")
    _, address = serve(start, "fake")
    program = start(*DRIVER, "lammps", "-in", "in.test", "-log", "none", "--server", address)
    program.wait_for("Per MPI rank memory")
    program.process.send_signal(signal.SIGINT)
    assert program.status() == 130


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

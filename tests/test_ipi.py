"""The i-PI client, the PES file and the inputs, with real i-PI processes on real sockets."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from fake_engine import Engine as FakeEngine
from ipi.utils.units import unit_to_internal
from processes import DRIVER, ENVIRONMENT, FAKE, Launcher, copy_case, launching, sheared, write_ipi_xyz

from mlh_driver.errors import InputError, StructureError
from mlh_driver.interfaces.sockets.address import Address
from mlh_driver.interfaces.sockets.session import extras_for_ipi
from mlh_driver.interfaces.sockets.template import SystemBuilder, Template
from mlh_driver.interfaces.sockets.wire import ANGSTROM, ELECTRONVOLT
from mlh_driver.system import System


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """The nve inputs, writing every step, with their socket in the folder of the test."""
    folder = copy_case("nve", tmp_path)
    edit(folder / "input.xml", {r'stride="\d+"': 'stride="1"', r"<total_steps>\d+": "<total_steps>5"})
    return folder


@pytest.fixture
def start(case: Path) -> Iterator[Launcher]:
    with launching(case) as launcher:
        yield launcher


def edit(path: Path, changes: dict[str, str]) -> None:
    """Replace regular expressions in a file; each must be there."""
    text = path.read_text()
    for pattern, replacement in changes.items():
        text, count = re.subn(pattern, replacement, text, flags=re.DOTALL)
        assert count, f"{pattern} is not in {path}"
    path.write_text(text)


def i_pi(start: Launcher, file: str = "input.xml"):
    return start("i-pi", "-S", f"{start.folder}/", file)


def client(start: Launcher, model: str = "fake", *options: str, template: str = "init.xyz"):
    socket = str(start.folder / "asio2")
    return start(*FAKE, "ipi", "--unix", socket, "--template", template, "--model", model, *options)


def table(path: Path) -> np.ndarray:
    return np.loadtxt(path, ndmin=2)


def lines_of_steps(path: Path) -> int:
    """How many there are up to now in a file that i-PI may not have begun yet."""
    lines = path.read_text().splitlines() if path.exists() else []
    return sum(not line.startswith("#") for line in lines)


def test_units_are_those_of_ipi() -> None:
    assert unit_to_internal("length", "angstrom", 1.0) == ANGSTROM
    assert unit_to_internal("energy", "electronvolt", 1.0) == ELECTRONVOLT


def test_addresses() -> None:
    assert Address.parse("unix:abc").path == "/tmp/ipi_abc"
    assert Address.parse("unix:/run/abc").path == "/run/abc"
    assert Address.parse("node1:4000") == Address(host="node1", port=4000)
    assert Address.parse("[::1]:4000").host == "::1"
    for wrong in ("node1", "node1:", "node1:0", "node1:70000", ":4000", "unix:", "unix:" + 120 * "x"):
        with pytest.raises(InputError):
            Address.parse(wrong)
    with pytest.raises(InputError, match="--unix NAME or --port"):
        Address.from_options("localhost", 4000, "abc")


@pytest.mark.parametrize("bohr_in_A", [1.0, 1.8897261, 0.1], ids=["angstrom", "bohr", "nm"])
def test_template_finds_wrong_order_in_any_unit(case: Path, bohr_in_A: float) -> None:
    """i-PI's own files are in bohr unless their comment says otherwise."""
    template = Template.read(case / "init.xyz")
    atoms = ase.io.read(case / "init.xyz", format="xyz")
    cell = 11.32170312 * np.eye(3)
    in_unit = replace(template, positions=bohr_in_A * atoms.positions)
    in_unit.check_order(System(atoms.numbers, atoms.positions, cell))
    with pytest.raises(StructureError, match="the order of the elements differs"):
        in_unit.check_order(System(atoms.numbers, atoms.positions[::-1], cell))


def test_template_finds_wrong_order(case: Path) -> None:
    template = Template.read(case / "init.xyz")
    atoms = ase.io.read(case / "init.xyz", format="xyz")
    cell = 11.32170312 * np.eye(3)
    template.check_order(System(atoms.numbers, atoms.positions + cell[1], cell))
    swapped = atoms.positions[::-1]
    with pytest.raises(StructureError, match="the order of the elements differs: atom 0"):
        template.check_order(System(atoms.numbers, swapped, cell))
    moved = swapped + np.random.default_rng(0).normal(size=(96, 3))
    assert not template.check_order(System(atoms.numbers, moved, cell))
    said: list[str] = []
    builder = SystemBuilder(template, said.append)
    for _ in range(2):
        builder(cell * ANGSTROM, moved * ANGSTROM)
    assert len(said) == 1 and "the order of its elements could not be checked" in said[0]


def test_client_waits_for_ipi_and_ends_with_it(start: Launcher) -> None:
    """A client that is there first; all observables arrive in i-PI's output."""
    first = client(start)
    first.wait_for("does not exist yet")
    server = i_pi(start)
    assert (first.status(), server.status()) == (0, 0)
    assert "6 structures" in first.output
    values = np.array((start.folder / "nve.observables_0").read_text().split("\n", 2)[1].split(), float)
    assert values == pytest.approx([5.5, 0.1, 0.5] + 32 * [1.5] + 64 * [-0.75])


def test_no_server(start: Launcher) -> None:
    lonely = client(start, "fake", "--wait", "0.5")
    assert lonely.status() == 1
    assert "error: no server at unix socket" in lonely.output


def test_left_over_socket_file_is_named(start: Launcher) -> None:
    server = i_pi(start)
    server.wait_for("Starting the polling thread")
    server.process.kill()
    server.status()
    lonely = client(start, "fake", "--wait", "0.5")
    assert lonely.status() == 1
    assert f"rm {start.folder}/asio2" in lonely.output


def test_reconnect_serves_one_run_after_another(start: Launcher) -> None:
    patient = client(start, "fake", "--reconnect", "--wait", "8")
    assert i_pi(start).status() == 0
    assert i_pi(start).status() == 0
    assert patient.status() == 0
    assert patient.output.count("i-PI says that it is done") == 2


@pytest.mark.parametrize("mode", ["tcp", "separate messages", "batches"])
def test_every_way_of_transport_gives_the_same_trajectory(start: Launcher, mode: str) -> None:
    """Four beads, so that batches of three are filled up by i-PI with copies."""
    edit(start.folder / "input.xml", {r'nbeads="1"': 'nbeads="4"'})
    reference = client(start)
    assert (i_pi(start).status(), reference.status()) == (0, 0)
    expected = table(start.folder / "nve.out")
    port = str(20000 + os.getpid() % 40000)
    changes = {
        "tcp": {
            'mode="unix"': 'mode="inet"',
            "asio2": "localhost",
            "</address>": f"</address><port>{port}</port>",
        },
        "separate messages": {"<timeout>": "<consolidate_messages>False</consolidate_messages><timeout>"},
        "batches": {"<timeout>": "<batch_size>3</batch_size><timeout>"},
    }
    edit(start.folder / "input.xml", changes[mode])
    where = ["--port", port] if mode == "tcp" else ["--unix", str(start.folder / "asio2")]
    other = start(*FAKE, "ipi", *where, "--model", "fake")
    assert (i_pi(start).status(), other.status()) == (0, 0), other.output
    assert np.array_equal(table(start.folder / "nve.out"), expected)


def test_two_clients_share_the_beads(start: Launcher) -> None:
    edit(start.folder / "input.xml", {r'nbeads="1"': 'nbeads="4"', "<total_steps>5": "<total_steps>20"})
    server = i_pi(start)
    server.wait_for("Starting the polling thread")
    pair = [client(start, "fake,slow=0.05") for _ in range(2)]
    assert [program.status() for program in (server, *pair)] == [0, 0, 0]
    counts = [int(re.search(r"(\d+) structures in", p.output)[1]) for p in pair]
    assert sum(counts) == 4 * 21
    assert min(counts) > 10


def test_eight_beads_survive_one_of_three_clients(start: Launcher) -> None:
    """Where i-PI is not told to end with a client, the others compute what it was at."""
    changes = {
        r'nbeads="1"': 'nbeads="8"',
        "<total_steps>5": "<total_steps>12",
        "disconnect>True": "disconnect>False",
    }
    edit(start.folder / "input.xml", changes)
    server = i_pi(start)
    server.wait_for("Starting the polling thread")
    single = client(start, "fake")
    assert (server.status(), single.status()) == (0, 0)
    output = start.folder / "nve.out"
    expected = table(output)
    output.unlink()
    server = i_pi(start)
    server.wait_for("Starting the polling thread")
    victim, *others = [client(start, "fake,slow=0.05") for _ in range(3)]
    while lines_of_steps(output) < 3:
        assert server.process.poll() is None
        time.sleep(0.05)
    victim.process.kill()
    assert [program.status() for program in (server, *others)] == [0, 0, 0]
    assert "connected" in victim.output
    assert np.array_equal(table(start.folder / "nve.out"), expected)


def failing(start: Launcher, model: str, message: str, template: str = "init.xyz") -> None:
    """The client must say ``message`` and fail, and i-PI must end with a restart file."""
    server = i_pi(start)
    failed = client(start, model, template=template)
    assert failed.status() == 1
    assert message in " ".join(failed.output.split())
    server.status(20.0)
    assert (start.folder / "RESTART").is_file()
    checkpoint, first = (Template.read(start.folder / name) for name in ("RESTART", "init.xyz"))
    assert checkpoint.numbers.tolist() == first.numbers.tolist()
    assert len(checkpoint.positions) == len(first.positions)


def test_xml_that_is_no_checkpoint_is_refused_as_template(case: Path) -> None:
    with pytest.raises(InputError, match=r"input\.xml is XML, but no checkpoint of i-PI"):
        Template.read(case / "input.xml")


def test_nan_never_reaches_ipi(start: Launcher) -> None:
    failing(start, "fake,nan=3", "forces on 1 atoms, the first is atom 1 (not finite)")
    assert len(table(start.folder / "nve.out")) == 2
    assert "nan" not in (start.folder / "nve.out").read_text()


@pytest.mark.parametrize("batch", ["", "<batch_size>2</batch_size>"])
def test_shared_memory_is_refused(start: Launcher, batch: str) -> None:
    edit(start.folder / "input.xml", {'mode="unix"': 'mode="shm"', "<timeout>": batch + "<timeout>"})
    failing(start, "fake", 'make it mode="unix"')


def test_wrong_number_of_atoms(start: Launcher) -> None:
    lines = (start.folder / "init.xyz").read_text().splitlines()
    (start.folder / "short.xyz").write_text("\n".join(["95", *lines[1:-1]]) + "\n")
    failing(start, "fake", "sends 96 atoms, but short.xyz has 95", "short.xyz")


def test_wrong_order_of_elements(start: Launcher) -> None:
    lines = (start.folder / "init.xyz").read_text().splitlines()
    (start.folder / "sorted.xyz").write_text("\n".join(lines[:2] + lines[:1:-1]) + "\n")
    failing(start, "fake", "the order of the elements differs", "sorted.xyz")


def test_unknown_element_is_refused_before_connecting(start: Launcher) -> None:
    text = (start.folder / "init.xyz").read_text()
    (start.folder / "other.xyz").write_text(text.replace("Si", "Ge"))
    refused = client(start, template="other.xyz")
    assert refused.status() == 1
    assert "does not know the elements [32]" in refused.output


def test_warning_far_from_the_training_data(start: Launcher) -> None:
    server = i_pi(start)
    warned = client(start, "fake,strange=1")
    assert (warned.status(), server.status()) == (0, 0)
    assert warned.output.count("beyond the edge (1) of the training data") == 3  # at 4, 16 and 64
    assert "force call 2: extrapolation is 4.00, beyond the edge" in warned.output


@pytest.mark.parametrize("terminated_first", [False, True])
def test_killed_client_ends_ipi(start: Launcher, terminated_first: bool) -> None:
    """Also in a job whose processes all get a SIGTERM, as of a batch system, before they are killed."""
    server = i_pi(start)
    victim = client(start, "fake,slow=1")
    victim.wait_for("connected to")
    time.sleep(1.5)
    if terminated_first:
        pid = victim.process.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), signal.SIGTERM)
        time.sleep(0.5)
    victim.process.kill()
    assert server.status(20.0) == 0
    assert "Restartable as is: YES" in server.output


def test_new_client_takes_over_from_a_killed_one(start: Launcher) -> None:
    edit(start.folder / "input.xml", {"<exit_on_disconnect>True</exit_on_disconnect>": ""})
    server = i_pi(start)
    victim = client(start, "fake,slow=1")
    victim.wait_for("connected to")
    time.sleep(1.5)
    victim.process.kill()
    heir = client(start)
    assert (server.status(), heir.status()) == (0, 0)
    assert len(table(start.folder / "nve.out")) == 6


def test_silent_client_ends_ipi(start: Launcher) -> None:
    edit(start.folder / "input.xml", {"<timeout>600": "<timeout>2"})
    server = i_pi(start)
    silent = client(start, "fake,slow=0.5")
    silent.wait_for("connected to")
    time.sleep(1.2)  # i-PI's time limit holds for computations, not for the first handshake
    silent.process.send_signal(signal.SIGSTOP)
    assert server.status(20.0) == 0
    assert (start.folder / "RESTART").is_file()
    silent.process.send_signal(signal.SIGCONT)
    assert silent.status(20.0) in (0, 1)


def test_killed_ipi_fails_the_client(start: Launcher) -> None:
    server = i_pi(start)
    left = client(start, "fake,slow=0.5")
    left.wait_for("connected to")
    time.sleep(0.7)
    server.process.kill()
    assert left.status(20.0) == 1
    assert "before it said EXIT" in left.output
    found = FakeEngine().compute(System(np.array([8]), np.zeros((1, 3)), 9.0 * np.eye(3)))
    assert f"(there are {', '.join(json.loads(extras_for_ipi(found)))})" in left.output


# With the model that ships
# -------------------------


@pytest.fixture(scope="module")
def engine():
    from mlh_driver.engine import Engine

    return Engine("asio2-minimal", dtype="float64")


PROBE = """
  <output prefix="probe">
    <properties filename="out" stride="1">[potential{electronvolt}, virial_md{ev/ang3}]</properties>
    <trajectory filename="forces" stride="1" format="bin">forces{ev/ang}</trajectory>
  </output>"""


@pytest.mark.parametrize("way", ["socket", "ffdirect"])
def test_same_numbers_as_the_engine(start: Launcher, engine, host: ase.Atoms, way: str) -> None:
    """Triclinic, off the origin, float64: energy to 1e-7 eV/atom, forces and virial to 1e-7."""
    atoms = sheared(host)
    expected = engine.compute(System.from_ase(atoms))
    write_ipi_xyz(atoms, start.folder / "init.xyz")
    offset = round(expected.energy)
    changes = {
        r"<output.*</output>": PROBE,
        r"<total_steps>\d+": "<total_steps>1",
        r"-31479": str(offset),
        r"<velocities.*?</velocities>": "",
    }
    edit(start.folder / "input.xml", changes)
    if way == "ffdirect":
        pes = subprocess.run([*DRIVER, "ipi", "--pes-path"], capture_output=True, text=True, check=True)
        direct = (
            f'<ffdirect name="mlh"><offset units="electronvolt">{offset}</offset><pes>custom</pes>'
            f"<pes_path>{pes.stdout.strip()}</pes_path>"
            "<parameters>{template: init.xyz, model: asio2-minimal, dtype: float64}</parameters></ffdirect>"
        )
        edit(start.folder / "input.xml", {r"<ffsocket.*</ffsocket>": direct})
        assert i_pi(start).status() == 0
    else:
        server = i_pi(start)
        socket = str(start.folder / "asio2")
        real = start(*DRIVER, "ipi", "--unix", socket, "--dtype", "float64")
        assert (real.status(), server.status()) == (0, 0), real.output
    potential, *virial = table(start.folder / "probe.out")[0]
    binary = (start.folder / "probe.forces_0.bin").read_bytes()
    forces = np.frombuffer(binary, count=3 * len(atoms), offset=8 * 10).reshape(-1, 3)  # after h and N
    assert potential == pytest.approx(expected.energy - offset, abs=1e-7 * len(atoms))
    np.testing.assert_allclose(forces, expected.forces, atol=1e-7)
    xx_yy_zz_xy_xz_yz = ([0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2])
    np.testing.assert_allclose(virial, -expected.stress[xx_yy_zz_xy_xz_yz], atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nve", "npt", "pimd", "vacancy_relaxation", "melt_quench"])
def test_input_folder(tmp_path: Path, name: str) -> None:
    """Four steps each, with every step written; checkpoints as seldom as they are."""
    folder = copy_case(name, tmp_path)
    prefix = {"vacancy_relaxation": "relax", "melt_quench": "quench"}.get(name, name)
    for file in folder.glob("*.xml"):
        edit(file, {r'<(properties|trajectory) stride="\d+"': r'<\1 stride="1"'})
    result = subprocess.run(
        ["./run.sh", "4"], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stdout + result.stderr
    rows = table(folder / f"{prefix}.out")
    assert np.isfinite(rows).all()
    assert rows[:, 0].tolist() == [0, 1, 2, 3, 4]
    if name == "vacancy_relaxation":
        assert rows[-1, 1] < rows[0, 1] - 0.1
    else:
        meV_per_atom = 1e3 * np.ptp(rows[:, 2]) / 96  # of the conserved energy
        assert meV_per_atom < (0.02 if name == "nve" else 5.0)  # the melt at 4000 K has steps of 1 fs
    if name == "melt_quench":  # the quench starts where the melt ended
        assert rows[0, 3] == pytest.approx(table(folder / "melt.out")[-1, 3], abs=1e-3)
    gap = float((folder / f"{prefix}.observables_0").read_text().split("\n", 2)[1].split()[0])
    assert 0.0 < gap < 12.0


def test_run_script_fails_when_the_client_fails(tmp_path: Path) -> None:
    folder = copy_case("nve", tmp_path)
    command = ["./run.sh", "1", "--template", "missing.xyz"]  # the last one counts
    result = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "missing.xyz does not exist" in " ".join(result.stderr.split())


def test_fake_engine_is_like_the_real_one() -> None:
    """The stand-in of the tests has the real engine's methods."""
    from mlh_driver.engine import Engine

    assert {name for name in vars(FakeEngine) if name[0] != "_"} <= set(dir(Engine))

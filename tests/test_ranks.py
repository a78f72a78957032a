"""One structure over several processes: real ones, started by mpiexec."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from processes import DRIVER, ENVIRONMENT, Launcher, eventually
from rank_program import FEW, cases, cristobalite

from mlh_driver import Engine, MLHCalculator, System
from mlh_driver.distributed.partition import around, bisected
from mlh_driver.distributed.ranks import launcher
from mlh_driver.errors import ConnectionLost, InputError, MLHError
from mlh_driver.interfaces.sockets.remote import RemoteEngine
from mlh_driver.results import Results

pytest.importorskip("mpi4py")
PROGRAM = Path(__file__).with_name("rank_program.py")
OPTIONS = ("--solver", "foe", "--electronic-temperature", "3000", "--sampling", "gamma", "--dtype", "float64")


@pytest.fixture(scope="module")
def alone() -> dict[str, list[Results | Exception]]:
    """What one ordinary engine says of each case."""
    found = {}
    for name, (settings, systems) in cases().items():
        engine = Engine(**settings)
        found[name] = [_answer(engine, system) for system in systems]
    return found


def _answer(engine: Engine, system: System) -> Results | Exception:
    try:
        return engine.compute(system)
    except MLHError as error:
        return error


def together(count: int, folder: Path) -> dict[str, list[Results | Exception]]:
    command = [*launcher(count), sys.executable, str(PROGRAM), str(folder)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return pickle.loads((folder / f"{count}.pickle").read_bytes())


@pytest.mark.slow
def test_a_process_that_cannot_serve_ends_the_others(tmp_path: Path) -> None:
    """They would listen for ever."""
    worker = ["-m", "mlh_driver.interfaces.sockets.worker", str(tmp_path / ("d" * 120)), "2"]
    command = [*launcher(2), sys.executable, *worker]
    done = subprocess.run(
        command,
        env=ENVIRONMENT,
        input='{"model": "asio2-minimal"}\n',
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0 and "AF_UNIX path too long" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_any_number_of_processes_gives_the_results_of_one_engine(
    count: int, alone: dict[str, list[Results | Exception]], tmp_path: Path
) -> None:
    """Also where the halo is not all the rest, where cells are smaller than it, and with too few atoms.

    ``sp2`` purifies in single precision, in which the order of sums shows in the forces. Where more processes
    come to work than for the last structure, all start afresh, with another pattern than that of one engine,
    which truncates P in another way: by far less than the tolerated error of 0.1 meV/atom.
    """
    answers = together(count, tmp_path)
    assert answers.keys() == alone.keys()
    for name, expected in alone.items():
        assert len(answers[name]) == len(expected)
        for a, b in zip(expected, answers[name], strict=True):
            if isinstance(a, Exception):
                assert (type(b), str(b)) == (type(a), str(a)), name
                continue
            assert isinstance(b, Results), (name, b)
            tolerance = 1e-4 if name == FEW or cases()[name][0]["solver"] == "sp2" else 1e-5
            assert abs(b.energy - a.energy) / len(a.forces) < (1e-6 if name == FEW else 1e-7), name
            np.testing.assert_allclose(b.forces, a.forces, atol=tolerance, err_msg=name)
            np.testing.assert_allclose(b.stress, a.stress, atol=1e-6, err_msg=name)
            np.testing.assert_allclose(b.charges, a.charges, atol=1e-5, err_msg=name)
            np.testing.assert_allclose(b.extrapolations, a.extrapolations, rtol=1e-9, err_msg=name)
            np.testing.assert_allclose(b.charge_deviations, a.charge_deviations, atol=1e-5, err_msg=name)
            assert (b.homo, b.lumo) == pytest.approx((a.homo, a.lumo), abs=1e-3), name


@pytest.fixture
def row() -> System:
    return System.from_ase(cristobalite(6))


def test_parts_are_equal_and_cover_all_atoms(row: System) -> None:
    for count in (1, 2, 3, 5, 7, 72):
        sizes = np.bincount(bisected(row, count), minlength=count)
        assert sizes.sum() == len(row)
        assert sizes.max() - sizes.min() <= 2 or count == 1


@pytest.mark.parametrize("reach", [0.5, 3.0, 9.0])
def test_nothing_within_reach_is_missing_around_a_part(row: System, reach: float) -> None:
    for own in (np.arange(12), np.array([5]), np.flatnonzero(bisected(row, 3) == 1)):
        distances = row.to_ase().get_all_distances(mic=True)[own].min(axis=0)  # the row is 5 Å wide
        expected = np.setdiff1d(np.flatnonzero(distances < reach), own)
        assert np.isin(expected, around(row, own, reach)).all()
    assert len(around(row, own, 3.0)) < len(row) - len(own)


def children(pid: int) -> list[int]:
    """All processes below a process, whichever thread has started them."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    below = [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    return below + [p for child in below for p in children(child)]


def models(pid: int) -> list[int]:
    """The processes of MPI that have a model, under a process."""
    commands = {child: Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0") for child in children(pid)}
    return [child for child, words in commands.items() if b"python" in words[0] and b"-n" not in words]


@pytest.mark.slow
def test_a_killed_process_is_replaced_with_all_others(start: Launcher) -> None:
    """And none is left when the server ends."""
    system = System.from_ase(cristobalite(1))
    server = start(*DRIVER, "serve", "--unix", f"{start.folder}/socket", *OPTIONS, "--ranks", "2")
    server.wait_for("listening on")
    with RemoteEngine(f"unix:{start.folder}/socket") as remote:
        before = remote.compute(system)
        ranks = models(server.process.pid)
        assert len(ranks) == 2
        os.kill(ranks[1], signal.SIGKILL)
        assert remote.compute(system).energy == pytest.approx(before.energy, abs=1e-9)
        assert server.output.count("it is started again for the same structure (1/3)") == 1
        moved = System(system.numbers, system.positions + 0.1, system.cell)
        at_work = threading.Timer(0.3, os.kill, (models(server.process.pid)[1], signal.SIGKILL))
        at_work.start()
        assert remote.compute(moved).energy == pytest.approx(before.energy, abs=1e-6)
        at_work.join()
        remote.compute(system)
    assert server.output.count("it is started again for the same structure (1/3)") == 2
    ranks = models(server.process.pid)
    server.process.terminate()
    assert server.status(30.0) == 0
    assert eventually(lambda: not any(Path(f"/proc/{rank}").exists() for rank in ranks))


@pytest.mark.slow
def test_forces_of_two_processes_are_the_derivative_and_keep_the_energy(start: Launcher) -> None:
    server = start(*DRIVER, "serve", "--unix", f"{start.folder}/socket", *OPTIONS, "--ranks", "2")
    server.wait_for("listening on")
    atoms = cristobalite(1)
    atoms.calc = MLHCalculator(server=f"unix:{start.folder}/socket")
    forces, step_A = atoms.get_forces(), 1e-3
    for atom, axis in ((0, 0), (7, 2)):
        energies = []
        for shift in (step_A, -2.0 * step_A):
            atoms.positions[atom, axis] += shift
            energies.append(atoms.get_potential_energy())
        atoms.positions[atom, axis] += step_A
        slope = (energies[1] - energies[0]) / (2.0 * step_A)
        assert forces[atom, axis] == pytest.approx(slope, abs=1e-3)
    MaxwellBoltzmannDistribution(atoms, temperature_K=300.0, rng=np.random.default_rng(1))
    before = atoms.get_total_energy()
    VelocityVerlet(atoms, 0.5 * units.fs).run(20)
    assert abs(atoms.get_total_energy() - before) / len(atoms) < 1e-4
    atoms.calc.engine.close()


@pytest.mark.slow
def test_a_server_under_mpiexec_ends_with_its_killed_process(start: Launcher) -> None:
    system = System.from_ase(cristobalite(1))
    server = start(*launcher(2), *DRIVER, "serve", "--unix", f"{start.folder}/socket", *OPTIONS)
    server.wait_for("listening on")
    with RemoteEngine(f"unix:{start.folder}/socket") as remote:
        remote.compute(system)
        ranks = models(server.process.pid)
        assert len(ranks) == 2
        os.kill(ranks[1], signal.SIGINT)  # of a terminal, which all get: the first one judges
        assert remote.compute(System.from_ase(cristobalite(2))).energy < 0.0
        os.kill(ranks[1], signal.SIGKILL)
        assert server.status(60.0) != 0
        assert "(signal 9)" in server.output
        with pytest.raises(ConnectionLost):
            remote.compute(system)


@pytest.mark.slow
def test_only_the_process_that_listens_needs_the_secret(start: Launcher) -> None:
    """And without it all end, instead of waiting for each other."""
    with socket.create_server(("localhost", 0)) as probe:
        port = str(probe.getsockname()[1])
    serve = [*DRIVER, "serve", "--port", port, *OPTIONS, "--secret-file"]
    mpiexec, *_ = launcher(2)
    server = start(mpiexec, "-n", "1", *serve, "missing", ":", "-n", "1", *serve, "missing")
    assert server.status(100.0) != 0
    assert "the secret in missing cannot be read" in server.output


def test_what_cannot_be_shared_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlh_driver.distributed import ranks as module
    from mlh_driver.solvers import make_solver

    with pytest.raises(InputError, match="needs the whole matrix in one process"):
        make_solver("dense", 0.1, lambda system, radius, like: None)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs mpi4py.*pip install 'mlh-driver\[mpi\]'"):
        launcher(2)

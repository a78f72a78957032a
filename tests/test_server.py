"""The server and the remote engine, as separate processes on real sockets."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import resource
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import ase
import numpy as np
import pytest
from ipi.interfaces.sockets import Driver, Status
from processes import DRIVER, FAKE, Launcher, sheared, write_ipi_xyz

from mlh_driver.errors import ConnectionLost, InputError, MLHError, NonFiniteError, StructureError
from mlh_driver.interfaces.sockets.address import Address, connect, listen
from mlh_driver.interfaces.sockets.remote import RemoteEngine
from mlh_driver.interfaces.sockets.wire import ANGSTROM, ELECTRONVOLT, PROTOCOL, Channel
from mlh_driver.results import Results
from mlh_driver.system import System


@pytest.fixture
def system() -> System:
    """Forty atoms, triclinic, with positions outside the cell."""
    rng = np.random.default_rng(3)
    cell = 10.0 * np.eye(3) + np.tril(np.ones((3, 3)), -1)
    return System(rng.choice([8, 14], 40), rng.uniform(-20, 30, (40, 3)), cell)


def serve(start: Launcher, model: str = "fake", *options: str):
    """A server on a unix socket in the folder of the test, ready to be dialed."""
    program = start(*FAKE, "serve", "--unix", f"{start.folder}/socket", "--model", model, *options)
    program.wait_for("listening on unix socket")
    return program


def dial(start: Launcher) -> RemoteEngine:
    return RemoteEngine(f"unix:{start.folder}/socket")


def assert_same(a: Results, b: Results, tolerance: float = 1e-11) -> None:
    for name, value in vars(a).items():
        if name not in ("timings", "provenance"):
            np.testing.assert_allclose(getattr(b, name), value, rtol=1e-14, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("model", ["fake", "fake,full=1"])
def test_all_results_come_through(start: Launcher, system: System, model: str) -> None:
    from fake_engine import Engine

    serve(start, model)
    with dial(start) as remote:
        local = Engine(model)
        for step in range(3):
            moved = System(system.numbers, system.positions + 0.1 * step, system.cell)
            expected, got = local.compute(moved), remote.compute(moved)
            assert_same(expected, got)
            assert got.timings == {"model": 0.0}


def test_several_engines_take_turns(start: Launcher, system: System) -> None:
    program = serve(start, "fake,slow=0.05")
    answers: dict[int, list[int]] = {}

    def run(n_atoms: int) -> None:
        part = System(system.numbers[:n_atoms], system.positions[:n_atoms], system.cell)
        with dial(start) as remote:
            answers[n_atoms] = [len(remote.compute(part).forces) for _ in range(5)]

    threads = [threading.Thread(target=run, args=(n,)) for n in (10, 20, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert answers == {n: 5 * [n] for n in (10, 20, 40)}
    program.process.terminate()
    assert program.status(10.0) == 0
    assert program.output.count("5 structures in") == 3


def test_a_call_after_one_that_failed_is_answered_with_its_own_results(
    start: Launcher, system: System
) -> None:
    """Not with those of the one before, which may still come."""
    from fake_engine import Engine

    signal.signal(signal.SIGINT, signal.default_int_handler)  # also if the tests were started with it ignored
    serve(start, "fake,slow=0.5")
    stretched = System(system.numbers, 1.01 * system.positions, system.cell)
    golden = System(np.full_like(system.numbers, 79), system.positions, system.cell)
    with dial(start) as remote:
        remote.check_species(system.numbers)
        threading.Timer(0.2, signal.pthread_kill, [threading.get_ident(), signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            remote.compute(system)
        for local in (Engine(), Engine()):  # another connection each, where the stand-in has another origin
            for asked in (stretched, system):
                assert_same(local.compute(asked), remote.compute(asked))
            with pytest.raises(StructureError, match="does not know the elements"):
                remote.compute(golden)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are set as on Linux")
def test_connections_wait_while_there_are_no_descriptors(start: Launcher, system: System) -> None:
    program = serve(start)
    with dial(start) as remote:
        expected = remote.compute(system)
        pid = program.process.pid
        _, largest = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), largest))
        with dial(start) as late:
            program.wait_for("cannot accept a connection: Too many open files; trying again")
            assert_same(expected, remote.compute(system))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (largest, largest))
            assert_same(expected, late.compute(system))


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_stopped_server_removes_its_socket(start: Launcher, system: System, sign: int) -> None:
    program = serve(start)
    remote = dial(start)
    remote.compute(system)
    program.process.send_signal(sign)
    assert program.status(10.0) == 0
    assert not (start.folder / "socket").exists()
    with pytest.raises(ConnectionLost, match="lost the server at unix socket"):
        remote.compute(system)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_stops_waits_for_no_structure(start: Launcher, system: System, sign: int) -> None:
    program = serve(start, "fake,slow=60")
    with dial(start) as idle, dial(start) as remote:
        idle.check_species(system.numbers)

        def compute() -> None:
            with contextlib.suppress(ConnectionLost):
                remote.compute(system)

        computing = threading.Thread(target=compute)
        computing.start()
        time.sleep(1.0)
        program.process.send_signal(sign)
        assert program.status(20.0) == 0
        computing.join()
    assert program.output.count("disconnected: the server stops") == 2
    assert "started again" not in program.output and "Traceback" not in program.output


def test_killed_server_is_an_error_and_its_socket_is_taken_over(start: Launcher, system: System) -> None:
    program = serve(start, "fake,slow=1")
    remote = dial(start)
    remote.check_species(system.numbers)
    killer = threading.Timer(0.5, program.process.kill)
    killer.start()
    with pytest.raises(ConnectionLost, match="start `mlh-driver serve` again"):
        remote.compute(system)
    killer.join()
    program.status(10.0)
    assert (start.folder / "socket").exists()
    with pytest.raises(ConnectionLost, match="left over from a crashed run"):
        RemoteEngine(f"unix:{start.folder}/socket", wait_s=0.2)
    serve(start)
    with dial(start) as again:
        again.compute(system)


def test_killed_engine_leaves_the_server_up(start: Launcher, system: System) -> None:
    program = serve(start)
    gone = dial(start)
    gone._channel.abort()
    gone.close()
    program.wait_for("engine 1: left without saying EXIT")
    with dial(start) as remote:
        remote.compute(system)


def test_who_leaves_while_its_structure_is_computed_takes_no_model_along(
    start: Launcher, system: System
) -> None:
    program = serve(start, "fake,slow=6")
    gone = dial(start)

    def compute_and_forget() -> None:
        with contextlib.suppress(ConnectionLost):
            gone.compute(system)

    computing = threading.Thread(target=compute_and_forget)
    computing.start()
    computing.join(1.0)
    gone._channel.abort()
    with dial(start) as remote:
        remote.compute(system)
    assert "started again" not in program.output
    computing.join(30.0)


def test_a_script_that_ends_says_so(start: Launcher, system: System) -> None:
    """Also if nobody has closed its engine, as with ASE."""
    program = serve(start)
    forgotten = dial(start)
    forgotten.compute(system)
    del forgotten
    program.wait_for("engine 1: done")
    code = "from mlh_driver.interfaces.sockets.remote import RemoteEngine\n"
    code += f"engine = RemoteEngine('unix:{start.folder}/socket')"
    assert start(sys.executable, "-c", code).status() == 0
    program.wait_for("engine 2: done")


def test_errors_of_the_model_reach_the_engine(start: Launcher, system: System) -> None:
    serve(start, "fake,nan=2")
    with dial(start) as remote:
        remote.compute(system)
        with pytest.raises(NonFiniteError, match=r"the first is atom 1 .*reported by the server"):
            remote.compute(system)
    with dial(start) as remote, pytest.raises(StructureError, match=r"does not know the elements \[0, 1\]"):
        remote.check_species([0, 1, 8])


def test_another_version_of_the_protocol_is_refused(
    start: Launcher, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(start)
    monkeypatch.setattr("mlh_driver.interfaces.sockets.remote.PROTOCOL", 0)
    with (
        dial(start) as remote,
        pytest.raises(InputError, match=rf"version 0 .* server version {PROTOCOL}: use the same"),
    ):
        remote.compute(system)


def test_a_copy_has_a_connection_of_its_own(start: Launcher, system: System) -> None:
    serve(start)
    with dial(start) as remote:
        energy = remote.compute(system).energy
        with pickle.loads(pickle.dumps(remote)) as other, copy.deepcopy(remote) as third:
            assert other.compute(system).energy == third.compute(system).energy == energy
        assert remote.compute(system).energy == energy


def test_elements_that_change_in_their_array_are_told_anew(start: Launcher, system: System) -> None:
    serve(start)
    numbers = system.numbers.copy()
    with dial(start) as remote:
        remote.check_species(numbers)
        numbers[:] = 8
        results = remote.compute(System(numbers, system.positions, system.cell))
    assert (results.charges == -0.75).all()


def test_errors_that_are_not_ours_reach_the_engine_too(start: Launcher, system: System) -> None:
    program = serve(start, "fake,memory=2", "--no-supervisor")
    with dial(start) as remote:
        remote.compute(system)
        with pytest.raises(MLHError, match=r"RuntimeError: not enough memory .reported by the server"):
            remote.compute(system)
    program.wait_for("engine 1: disconnected: RuntimeError: not enough memory")
    assert "Traceback" not in program.output
    with dial(start) as remote:
        remote.compute(system)


def test_a_stopped_server_is_given_up(
    start: Launcher, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlh_driver.interfaces.sockets.remote.PATIENCE_S", 4.0)
    program = serve(start)
    remote = dial(start)
    remote.compute(system)
    program.process.send_signal(signal.SIGSTOP)
    with pytest.raises(ConnectionLost, match="nothing came from it for 4 s"):
        remote.compute(system)
    program.process.send_signal(signal.SIGCONT)
    program.wait_for(" structures in ")  # the end of the session, whether in reading or in writing


def test_a_server_may_take_its_time(start: Launcher, system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlh_driver.interfaces.sockets.remote.PATIENCE_S", 3.0)
    serve(start, "fake,slow=5")
    with dial(start) as remote:
        assert len(remote.compute(system).forces) == 40


def test_a_silent_network_is_noticed_in_minutes() -> None:
    """By the kernel, see tcp(7): its own patience is two hours."""
    with socket.socket() as sock:
        Channel(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        options = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT]
        idle, interval, count = (sock.getsockopt(socket.IPPROTO_TCP, option) for option in options)
        assert idle + count * interval <= 120
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 120_000  # ms


def test_a_socket_belongs_to_its_owner_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the umask is, and without a moment before a chmod."""
    monkeypatch.setattr(os, "chmod", None)
    before = os.umask(0)
    try:
        listener = listen(Address.unix(f"{tmp_path}/socket"))
        assert (tmp_path / "socket").stat().st_mode & 0o777 == 0o600
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    listener.close()


@pytest.mark.parametrize(
    ("host", "is_open"),
    [("localhost", False), ("127.0.0.1", False), ("::1", False), ("0.0.0.0", True), ("::", True), ("", True)],
)
def test_a_server_that_others_can_reach_is_known(host: str, is_open: bool) -> None:
    assert Address.tcp(host, 31415).is_open_to_others == is_open
    assert not Address.unix("asio2").is_open_to_others


def test_a_server_warns_of_others(start: Launcher) -> None:
    port = str(20000 + (os.getpid() + 7) % 40000)
    for host, warns in (("0.0.0.0", True), ("localhost", False)):
        program = start(*FAKE, "serve", "--port", port, "--address", host, "--model", "fake")
        program.wait_for(f"listening on {host}:{port}")
        if warns:
            program.wait_for("warning: other machines can connect")
        program.process.terminate()
        assert program.status(10.0) == 0
        assert ("warning" in program.output) == warns


def test_one_server_per_address(start: Launcher) -> None:
    serve(start)
    second = start(*FAKE, "serve", "--unix", f"{start.folder}/socket")
    assert second.status(30.0) == 1
    assert "another server listens at" in second.output
    (start.folder / "file").write_text("not a socket")
    with pytest.raises(InputError, match="is not a socket"):
        listen(Address.unix(f"{start.folder}/file"))


def test_who_listens_but_does_not_answer_is_given_up(tmp_path: Path) -> None:
    """A server that stands still, with as many engines waiting as the system lets wait."""
    with socket.socket(socket.AF_UNIX) as silent, contextlib.ExitStack() as engines:
        silent.bind(f"{tmp_path}/socket")
        silent.listen(0)
        address, notices = Address.unix(f"{tmp_path}/socket"), []
        engines.enter_context(connect(address))
        with pytest.raises(ConnectionLost, match="it does not answer"):
            connect(address, 0.5, notices.append)
        assert "it does not answer" in notices[0]


def test_something_else_at_the_address(tmp_path: Path) -> None:
    """A server of web pages is not taken for ours."""
    listener = listen(Address.unix(f"{tmp_path}/socket"))

    def answer() -> None:
        connection, _ = listener.socket.accept()
        connection.recv(12)
        connection.sendall(b"HTTP/1.1 400 Bad Request")
        connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(ConnectionLost, match="is it an mlh-driver server"):
        RemoteEngine(f"unix:{tmp_path}/socket")
    thread.join()
    listener.close()
    assert not (tmp_path / "socket").exists()


def test_plain_framing_with_a_template(start: Launcher, host: ase.Atoms) -> None:
    """i-PI's own implementation of the engine's side, dialing in by TCP without naming elements."""
    write_ipi_xyz(host, start.folder / "init.xyz")
    port = 20000 + os.getpid() % 40000
    program = start(*FAKE, "serve", "--port", str(port), "--template", "init.xyz", "--model", "fake")
    program.wait_for(f"listening on localhost:{port}")
    with socket.create_connection(("localhost", port)) as connection, Driver(connection) as driver:
        driver.get_status()
        driver.initialize(0, " ")
        driver.get_status()
        h = host.cell.array.T * ANGSTROM
        driver.sendpos(host.positions.ravel() * ANGSTROM, (h, np.linalg.inv(h)))
        driver.get_status()
        energy, forces, virial, extras = driver.getforce()
        driver.shutdown()
    assert energy / ELECTRONVOLT == pytest.approx(96 * -330, abs=1.0)
    assert forces.shape == (288,)
    assert virial[2, 2] / ELECTRONVOLT == pytest.approx(-0.03 * host.get_volume())
    assert extras["band_gap"] == 5.5
    program.wait_for("engine 1: done", 10.0)


def test_positions_without_elements_are_refused(start: Launcher, host: ase.Atoms) -> None:
    program = serve(start)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"{start.folder}/socket")
        with Driver(connection) as driver:
            driver.get_status()
            driver.initialize(0, " ")
            driver.get_status()
            driver.sendpos(host.positions.ravel(), (np.eye(3), np.eye(3)))
            program.wait_for("start with --template init.xyz", 10.0)
            driver.get_status()
            assert driver.status == Status.Disconnected


def test_same_numbers_as_the_engine(start: Launcher, host: ase.Atoms) -> None:
    """The model that ships, float64, triclinic and off the origin: the same to rounding."""
    from mlh_driver.engine import Engine

    options = ["--unix", f"{start.folder}/socket", "--dtype", "float64"]
    program = start(*DRIVER, "serve", *options)
    system = System.from_ase(sheared(host))
    expected = Engine("asio2-minimal", dtype="float64").compute(system)
    program.wait_for("listening")
    with dial(start) as remote:
        got = remote.compute(system)
    assert abs(got.energy - expected.energy) < 1e-8 * len(system)
    assert_same(expected, got, tolerance=1e-7)

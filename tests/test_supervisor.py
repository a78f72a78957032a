"""The process with the model dies in every way, and the run goes on."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from processes import DRIVER, FAKE, Launcher, Program, copy_case, eventually

from mlh_driver.engine_settings import EngineSettings
from mlh_driver.errors import ConnectionLost, EngineCrashed, InputError, ModelFileError, StructureError
from mlh_driver.interfaces.sockets import remote, supervisor
from mlh_driver.interfaces.sockets.supervisor import Supervisor
from mlh_driver.system import System

GLASS = System(np.array([14, 8, 8]), np.array([[0.0, 0, 0], [1.6, 0, 0], [0, 1.6, 0]]), 9.0 * np.eye(3))
GOLD = System(np.array([79, 8, 8]), GLASS.positions, GLASS.cell)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine of fake_engine.py instead of the model; no pauses."""
    monkeypatch.setattr(supervisor, "WORKER", [sys.executable, FAKE[1]])
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.0)


def test_a_folder_for_temporary_files_that_is_too_deep_for_a_socket_is_an_error(
    stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(InputError, match=r"the system allows 107: use a shorter .*TMPDIR"):
        owner([])
    assert not list(deep.iterdir())


def owner(said: list[str], model: str = "fake", restarts: int = 3) -> Supervisor:
    return Supervisor(EngineSettings(model), restarts=restarts, say=said.append)


def children(pid: int) -> list[int]:
    """Processes that a process has started and that have not ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(entry.parent.name))
    return found


def worker_of(pid: int) -> int:
    """The process with the model of a driver; it may have a guardian, too."""
    for child in children(pid):
        if "interfaces.sockets.worker" in Path(f"/proc/{child}/cmdline").read_text():
            return child
    return 0


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_killed_between_and_within_calls_is_replaced(said: list[str], sign: int) -> None:
    with owner(said, "fake,slow=0.3") as its_owner, closing(its_owner.engine()) as engine:
        expected = engine.compute(GLASS)
        os.kill(its_owner.process.pid, sign)
        assert engine.compute(GLASS).energy == expected.energy
        threading.Timer(0.15, lambda: os.kill(its_owner.process.pid, sign)).start()
        assert engine.compute(GLASS).energy == expected.energy
    assert len(said) == 2
    assert all(f"was killed by {signal.Signals(sign).name}" in line for line in said)
    assert "it is started again for the same structure (1/3)" in said[1]


@pytest.mark.usefixtures("stand_in")
def test_a_structure_that_kills_every_process_ends_the_run(said: list[str]) -> None:
    with (
        owner(said, "fake,memory=1", restarts=2) as its_owner,
        closing(its_owner.engine()) as engine,
        pytest.raises(EngineCrashed, match=r"not enough memory. It was started 3 times"),
    ):
        engine.compute(GLASS)
    assert [line[-5:] for line in said] == ["(1/2)", "(2/2)"]


@pytest.mark.usefixtures("stand_in")
def test_what_the_model_refuses_is_not_tried_again(said: list[str]) -> None:
    with owner(said) as its_owner, closing(its_owner.engine()) as engine:
        with pytest.raises(StructureError, match="does not know the elements"):
            engine.compute(GOLD)
        engine.compute(GLASS)
    assert not said


@pytest.mark.usefixtures("stand_in")
def test_a_stopped_process_is_replaced(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE_S", 4.0)
    with owner(said) as its_owner, closing(its_owner.engine()) as engine:
        os.kill(its_owner.process.pid, signal.SIGSTOP)
        engine.compute(GLASS)
    assert "did not answer: nothing came from it for 4 s" in said[0]


@pytest.mark.usefixtures("stand_in")
def test_a_solve_that_does_not_end_is_given_up(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LEAST_S", 1.0)
    with (
        owner(said, "fake,slow=1000", restarts=0) as its_owner,
        closing(its_owner.engine()) as engine,
        pytest.raises(EngineCrashed, match="it has worked on one structure for 1 s"),
    ):
        engine.compute(GLASS)


@pytest.mark.usefixtures("stand_in")
def test_engines_share_one_process_and_one_restart(said: list[str]) -> None:
    with owner(said) as its_owner:
        engines = [its_owner.engine() for _ in range(4)]
        os.kill(its_owner.process.pid, signal.SIGKILL)
        threads = [threading.Thread(target=engine.compute, args=(GLASS,)) for engine in engines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30.0)
        assert not any(thread.is_alive() for thread in threads)
        for engine in engines:
            engine.close()
    assert len(said) == 1


@pytest.mark.usefixtures("stand_in")
def test_the_structure_of_one_engine_ends_no_run_of_another(said: list[str]) -> None:
    """The second structure is too much for a process: that of the first engine, not that of the other."""
    with (
        owner(said, "fake,memory=2", restarts=0) as its_owner,
        closing(its_owner.engine()) as engine,
        closing(its_owner.engine()) as other,
    ):
        other.check_species(GLASS.numbers)
        engine.compute(GLASS)
        with pytest.raises(EngineCrashed):
            engine.compute(GLASS)
        other.compute(GLASS)


@pytest.mark.usefixtures("stand_in")
def test_nothing_is_left_behind(said: list[str]) -> None:
    with owner(said) as its_owner:
        its_owner.engine().close()
        pid, folder = its_owner.process.pid, its_owner._folder
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not Path(f"/proc/{pid}").exists()
    assert not folder.exists()


def serving(start: Launcher) -> tuple[Program, int, Path]:
    """A server, the process with its model, and the folder of their socket."""
    program = start(*FAKE, "serve", "--unix", f"{start.folder}/socket", "--model", "fake")
    program.wait_for("listening")
    (worker,) = children(program.process.pid)
    command = Path(f"/proc/{worker}/cmdline").read_text().split("\0")
    folder = Path(next(word for word in command if "/mlh-" in word)).parent
    return program, worker, folder


def test_a_killed_owner_takes_the_process_along(start: Launcher) -> None:
    program, worker, folder = serving(start)
    assert folder.exists()
    program.process.kill()
    program.status()
    assert eventually(lambda: not Path(f"/proc/{worker}").exists())
    assert not folder.exists()


def test_a_killed_owner_leaves_nothing_of_a_process_killed_before(start: Launcher) -> None:
    program, worker, folder = serving(start)
    os.kill(worker, signal.SIGKILL)
    with remote.RemoteEngine(f"unix:{start.folder}/socket") as engine:
        engine.compute(GLASS)
    program.wait_for("started again")
    program.process.kill()
    program.status()
    assert eventually(lambda: not folder.exists())


def test_an_owner_that_cannot_start_leaves_no_folder(
    said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("mlh_driver.distributed.ranks.find_spec", lambda name: None)
    with pytest.raises(InputError, match="which is not installed"):
        Supervisor(EngineSettings("fake"), restarts=3, say=said.append, ranks=2)
    assert not list(tmp_path.iterdir())


def test_no_pause_between_two_starts_is_longer_than_a_minute(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "WORKER", [sys.executable, FAKE[1]])
    pauses: list[float] = []
    with owner(said, restarts=30) as its_owner:
        monkeypatch.setattr(its_owner._closed, "wait", pauses.append)
        for failures in (1, 2, 30):
            its_owner.replace(its_owner.process, failures, ConnectionLost("gone"))
    assert pauses == [0.0, 1.0, 60.0]


def test_a_model_that_does_not_exist_is_said_at_once(said: list[str]) -> None:
    with owner(said, "nowhere.pt") as its_owner, pytest.raises(ModelFileError, match=r"nowhere\.pt"):
        its_owner.engine()
    assert not said


def test_i_pi_does_not_notice_that_the_model_was_killed(start: Launcher) -> None:
    """Twice, with the shipped model, in i-PI's default mode; the trajectory is that of an undisturbed run."""
    trajectories = []
    for kills in (0, 2):
        name = f"kills{kills}_{os.getpid()}"
        folder = copy_case("nve", start.folder / name)
        text = (folder / "input.xml").read_text()
        for old, new in (
            ("<address>asio2", f"<address>{name}"),
            ("<total_steps>4000", "<total_steps>16"),
            (' stride="10" filename="out"', ' stride="1" filename="out"'),
            ("<exit_on_disconnect>True</exit_on_disconnect>", ""),
        ):
            assert old in text
            text = text.replace(old, new)
        (folder / "input.xml").write_text(text)
        server = start("i-pi", "input.xml", folder=folder)
        client = start(*DRIVER, "ipi", "--unix", name, folder=folder)
        client.wait_for("connected")
        for lines in (4, 8)[:kills]:
            assert eventually(lambda folder=folder, lines=lines: steps_done(folder) > lines)
            os.kill(worker_of(client.process.pid), signal.SIGKILL)
        assert server.status() == 0
        assert client.status() == 0
        assert client.output.count("it is started again") == kills
        trajectories.append(np.loadtxt(folder / "nve.out"))
    assert trajectories[0].shape == (17, 6)
    np.testing.assert_allclose(*trajectories, rtol=0.0, atol=2e-4)


def steps_done(folder: Path) -> int:
    output = folder / "nve.out"
    return len(np.loadtxt(output, ndmin=2)) if output.exists() and output.stat().st_size > 1000 else 0

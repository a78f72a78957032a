"""Keeps the model in a process of its own, and starts that again when it dies.

The process that LAMMPS, i-PI or other MD engines talk to stays small and loads no model. What may fail in a
large calculation takes only the :mod:`~mlh_driver.interfaces.sockets.worker` with it: too little memory, an
error of the GPU, a crash in a library, kill -9, a solve that never ends. A structure's energy and forces do
not depend on what was computed before, but for the repeats of a narrow cell that breathes
(:mod:`~mlh_driver.small_cells`), so a new process computes the same structure again and the run goes on as if
nothing had happened.

::

    MD engine --(i-PI's protocol, or a callback)-- owner --(private socket)-- worker with the model

An error that the model reports, such as an unknown element, is no death, and is not tried again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

from numpy.typing import ArrayLike

from mlh_driver.distributed.ranks import launcher
from mlh_driver.engine_settings import EngineSettings
from mlh_driver.errors import ConnectionLost, EngineCrashed
from mlh_driver.interfaces.sockets.address import Address, connect
from mlh_driver.interfaces.sockets.remote import SocketEngine
from mlh_driver.results import Results
from mlh_driver.system import System

WORKER = [sys.executable, "-m", "mlh_driver.interfaces.sockets.worker"]
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Before the second start for the same structure; doubles each time, so that memory may become free."""
START_S = 600.0
"""Longest wait for a process that has not opened its socket: a cold disk of a cluster may need minutes."""
LEAST_S, TIMES_LONGEST = 600.0, 100.0
"""A call that takes longer than this, and so many times the longest so far, is stuck."""
POLL_S = 0.02
REAPING_S = 0.2
"""The socket of a dying process closes a little before it is gone."""
ENDED = "the process with the model was ended"
Answer = TypeVar("Answer")


class Process:
    """One process with the model, and the address at which it serves. Made by a :class:`Supervisor`."""

    def __init__(self, address: Address, settings: str, folder: str, ranks: int) -> None:
        self._address = address
        command = [*WORKER, address.path]
        if ranks > 1:
            command = [*launcher(ranks), *command, str(ranks)]
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            cwd=folder,
            text=True,
            env=_environment(ranks),
            start_new_session=ranks > 1,  # mpiexec would end at Ctrl-C, which is the owner's to judge
        )
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead already, as dial() will find
            self._popen.stdin.write(settings + "\n")
            self._popen.stdin.flush()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def dial(self) -> socket.socket:
        """A connection to the process as soon as it listens. Raises ConnectionLost if it ends before."""
        deadline = time.monotonic() + START_S
        while self._popen.poll() is None:
            with contextlib.suppress(ConnectionLost):
                return connect(self._address)
            if time.monotonic() > deadline:
                raise ConnectionLost(f"it opened no socket within {START_S:g} s")
            time.sleep(POLL_S)
        raise ConnectionLost("it ended before it could answer")

    def end(self) -> str:
        """Make sure that the process is gone, and its socket; says how it ended."""
        try:
            status = self._popen.wait(REAPING_S)
        except subprocess.TimeoutExpired:
            status = None
            self._popen.kill()
            self._popen.wait()
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.close()
        Path(self._address.path).unlink(missing_ok=True)  # or the next process could not remove the folder
        if status is None:
            return "did not answer"
        return (
            f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        )


def _environment(ranks: int) -> dict[str, str]:
    """Of the processes with the model: on this machine, also within a job that has others, with equal shares
    of its cores unless the user has divided them."""
    if ranks == 1:
        return dict(os.environ)
    share = str(max(1, (os.cpu_count() or 1) // ranks))
    return {"OMP_NUM_THREADS": share, **os.environ, "HYDRA_LAUNCHER": "fork"}


class Supervisor:
    """Owner of the process with the model. Gives :class:`SupervisedEngine` objects, one per MD engine.

    settings: of the engine; the model by name or path
    restarts: how often the process may die over one structure before the run is given up; the next one counts
              anew, since a run of days may lose its process now and then
    say:      told of each death
    ranks:    processes of MPI that share each structure, all of which die when one does

    Close it, or use it as a context manager, when the engines are not needed any more.
    """

    def __init__(
        self,
        settings: EngineSettings,
        *,
        restarts: int,
        say: Callable[[str], None],
        ranks: int = 1,
    ) -> None:
        self._settings = json.dumps(vars(settings) | {"model": str(settings.model)})
        self._restarts, self._say, self._ranks = restarts, say, ranks
        self._home = os.getcwd()  # LAMMPS scripts may change it, and the path of a model may be relative
        self._folder = Path(tempfile.mkdtemp(prefix="mlh-"))  # for this user alone
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._started = 0
        try:
            self.process = self._start()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def engine(self) -> SupervisedEngine:
        """An engine for one MD engine; raises what is wrong with model or settings."""
        engine = SupervisedEngine(self)
        engine.check_species([])
        return engine

    def replace(self, process: Process, failures: int, error: Exception) -> bool:
        """Start another process in place of this one; False if it was replaced already, for another engine.

        Raises EngineCrashed when there have been too many failures over the structure at hand, and
        ConnectionLost after :meth:`close`.
        """
        with self._lock:
            if self._closed.is_set():
                raise ConnectionLost(ENDED)
            if process is not self.process:
                return False
            problem = f"the process with the model {process.end()}: {error}"
            if failures > self._restarts:
                self.process = self._start()  # for other engines
                raise EngineCrashed(
                    f"{problem}. It was started {failures} times for this structure, without success; does "
                    "it have enough memory? --no-supervisor shows what happens inside"
                )
            self._say(f"{problem}; it is started again for the same structure ({failures}/{self._restarts})")
            if self._closed.wait(min(FIRST_PAUSE_S * (2 ** (failures - 1) - 1), LONGEST_PAUSE_S)):
                raise ConnectionLost(ENDED)
            self.process = self._start()
            return True

    def close(self) -> None:
        """End the process, also within a computation. To be called once or more, by any thread."""
        self._closed.set()
        self.process.end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start(self) -> Process:
        self._started += 1
        address = Address.unix(str(self._folder / f"socket{self._started}"))
        return Process(address, self._settings, self._home, self._ranks)


class SupervisedEngine:
    """A :class:`~mlh_driver.force_engine.ForceEngine` whose process is started again when it dies."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._process = supervisor.process
        self._longest_s = 0.0
        self._remote = SocketEngine(self._dial, self._patience_s)

    def check_species(self, numbers: ArrayLike) -> None:
        """Raise StructureError if the model does not know one of these (N,) atomic numbers."""
        self._until_answered(lambda: self._remote.check_species(numbers))

    def compute(self, system: System) -> Results:
        """Energy, forces, stress and observables, computed again if the process dies over them.

        Raises what the engine raises, and EngineCrashed when the process dies time and again.
        """
        start = time.monotonic()
        results = self._until_answered(lambda: self._remote.compute(system))
        self._longest_s = max(self._longest_s, time.monotonic() - start)
        return results

    def close(self) -> None:
        """Leave the process, which is the supervisor's to end."""
        self._remote.close()

    def _dial(self) -> socket.socket:
        self._process = self._supervisor.process
        return self._process.dial()

    def _patience_s(self) -> float:
        return max(LEAST_S, TIMES_LONGEST * self._longest_s)

    def _until_answered(self, ask: Callable[[], Answer]) -> Answer:
        failures = 0
        while True:
            try:
                return ask()
            except (ConnectionLost, EngineCrashed) as error:
                failures += self._supervisor.replace(self._process, failures + 1, error)

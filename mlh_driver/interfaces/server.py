"""A server that keeps one model warm for several MD engines at once."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from mlh_driver.errors import ConnectionLost, MLHError
from mlh_driver.interfaces.address import Listener
from mlh_driver.interfaces.progress import Progress
from mlh_driver.interfaces.session import DriverSession
from mlh_driver.interfaces.template import Template
from mlh_driver.interfaces.wire import Channel
from mlh_driver.results import Results
from mlh_driver.runtime import sigterm_interrupts
from mlh_driver.system import System

if TYPE_CHECKING:
    from mlh_driver.engine import Engine

SIGN_OF_LIFE_S = 2.0
"""Time between two messages that say that the server still computes."""


class Server:
    """One thread per MD engine for the socket, and one thread for all computations.

    make_engine: gives every connection its own engine (they may share a model), so that neighbor lists
                 are kept from step to step; structures of all connections are computed in turn
    template:    the elements for MD engines that do not name them, or None
    """

    def __init__(
        self, make_engine: Callable[[], Engine], template: Template | None, console: Console
    ) -> None:
        self._make_engine = make_engine
        self._template = template
        self._console = console
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._sessions: dict[threading.Thread, Channel] = {}

    def serve(self, listener: Listener) -> None:
        """Accept and serve until SIGTERM or Ctrl-C; then close every connection and remove the socket."""
        with sigterm_interrupts():
            try:
                self._say(f"listening on {listener.address}")
                for number in itertools.count(1):
                    sock, _ = listener.socket.accept()
                    self._start_session(sock, Progress(self._console, f"engine {number}: "))
            except KeyboardInterrupt:
                self._say("stopping")
            finally:
                listener.close()
                self._stop()

    def _say(self, message: str) -> None:
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def _start_session(self, sock: socket.socket, progress: Progress) -> None:
        channel = Channel(sock)
        thread = threading.Thread(target=self._run_session, args=(channel, progress), daemon=True)
        for ended in [t for t in self._sessions if not t.is_alive()]:
            del self._sessions[ended]
        self._sessions[thread] = channel
        thread.start()

    def _run_session(self, channel: Channel, progress: Progress) -> None:
        """Serve one MD engine; whatever goes wrong with it, the others go on."""
        progress.say("connected")
        try:
            engine = self._make_engine()

            def compute(system: System) -> Results:
                job = partial(_compute_if_wanted, channel, engine, system)
                return self._result_of(job, session.say_working)

            session = DriverSession(channel, compute, engine.check_species, self._template, progress)
            session.run()
            progress.say("done")
        except MLHError as error:
            progress.say(f"disconnected: {error}")
        finally:
            channel.close()
            if progress.evaluations:
                progress.report()

    def _result_of(self, job: Callable[[], Results], say_working: Callable[[], None]) -> Results:
        """Wait for the thread that computes; raises ConnectionLost when the server stops meanwhile."""
        try:
            future = self._worker.submit(job)
        except RuntimeError:  # the worker takes no more jobs
            raise ConnectionLost("the server stops") from None
        while not wait([future], timeout=SIGN_OF_LIFE_S).done:
            say_working()
        try:
            return future.result()
        except CancelledError:
            raise ConnectionLost("the server stops") from None

    def _stop(self) -> None:
        self._worker.shutdown(wait=True, cancel_futures=True)
        for thread, channel in self._sessions.items():
            channel.abort()
            thread.join(timeout=5.0)


def _compute_if_wanted(channel: Channel, engine: Engine, system: System) -> Results:
    if channel.peer_is_gone():
        raise ConnectionLost("it left before its turn came")
    return engine.compute(system)

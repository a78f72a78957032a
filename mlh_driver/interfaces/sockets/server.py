"""A server that keeps one model warm for several MD engines at once."""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mlh_driver.errors import ConnectionLost, MLHError, PeerLeft
from mlh_driver.force_engine import ForceEngine
from mlh_driver.interfaces.sockets.address import Listener
from mlh_driver.interfaces.sockets.secret import admit
from mlh_driver.interfaces.sockets.session import DriverSession
from mlh_driver.interfaces.sockets.session_log import SessionLog
from mlh_driver.interfaces.sockets.template import Template
from mlh_driver.interfaces.sockets.wire import Channel
from mlh_driver.results import Results
from mlh_driver.runtime import sigterm_interrupts
from mlh_driver.system import System

Answer = TypeVar("Answer")
ACCEPT_AGAIN_S = 1.0
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED)
SIGN_OF_LIFE_S = 2.0
"""Time between two messages that say that the server still computes."""


class Server:
    """One thread per MD engine for the socket, and one thread for all computations.

    make_engine: gives every connection its own engine (they may share a model), so that neighbor lists
                 are kept from step to step; structures of all connections are computed in turn
    template:    the elements for MD engines that do not name them, or None
    secret:      that MD engines have to know, or None
    abandon:     ends the computation at hand when the server stops; without it, the server waits for its end
    """

    def __init__(
        self,
        make_engine: Callable[[], ForceEngine],
        template: Template | None,
        console: Console,
        secret: bytes | None = None,
        abandon: Callable[[], None] = lambda: None,
    ) -> None:
        self._make_engine = make_engine
        self._abandon = abandon
        self._stops = False
        self._secret = secret
        self._template = template
        self._console = console
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._sessions: dict[threading.Thread, Channel] = {}

    def serve(self, listener: Listener) -> None:
        """Accept and serve until SIGTERM or Ctrl-C; then close every connection and remove the socket."""
        with sigterm_interrupts():
            try:
                self._say(f"listening on {listener.address}")
                if self._secret is not None:
                    self._say("MD engines need the secret; what they send and get is not encrypted")
                elif listener.address.is_open_to_others:
                    self._say(
                        "warning: other machines can connect, and whoever does uses the model; give "
                        "--secret-file, or listen on localhost and let them come by ssh -L"
                    )
                for number in itertools.count(1):
                    log = SessionLog(self._console, f"MD engine {number}: ")
                    self._start_session(self._accept(listener), log)
            except KeyboardInterrupt:
                self._say("stopping")
            finally:
                listener.close()
                self._stop()

    def _accept(self, listener: Listener) -> socket.socket:
        """The next connection; those that come while the system has no room for one wait until it has."""
        waiting = False
        while True:
            try:
                return listener.socket.accept()[0]
            except OSError as error:
                if error.errno not in _PASSING:
                    raise
                if not waiting:
                    self._say(f"cannot accept a connection: {error.strerror}; trying again")
                waiting = True
                time.sleep(ACCEPT_AGAIN_S)

    def _say(self, message: str) -> None:
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def _start_session(self, sock: socket.socket, log: SessionLog) -> None:
        channel = Channel(sock)
        thread = threading.Thread(target=self._run_session, args=(channel, log), daemon=True)
        for ended in [t for t in self._sessions if not t.is_alive()]:
            del self._sessions[ended]
        self._sessions[thread] = channel
        thread.start()

    def _run_session(self, channel: Channel, log: SessionLog) -> None:
        """Serve one MD engine; whatever goes wrong with it, the others go on."""
        log.say("connected")
        try:
            if self._secret is not None:
                admit(channel, self._secret)
            with contextlib.closing(_QueuedEngine(self._make_engine, self._worker, channel)) as queued:
                session = DriverSession(channel, queued, self._template, log)
                queued.say_working = session.say_working
                session.run()
            log.say("done")
        except MLHError as error:
            if self._stops:
                log.say("disconnected: the server stops")
            elif isinstance(error, PeerLeft):
                log.say("left without saying EXIT: it has ended, or was killed")
            else:
                log.say(f"disconnected: {error}")
        finally:
            channel.close()
            if log.evaluations:
                log.report()

    def _stop(self) -> None:
        self._stops = True
        self._abandon()
        self._worker.shutdown(wait=True, cancel_futures=True)
        for thread, channel in self._sessions.items():
            channel.abort()
            thread.join(timeout=5.0)


class _QueuedEngine:
    """The engine of one connection, whose structures are computed in the thread of the server that computes.

    say_working: called every few seconds until a structure has had its turn

    It is made when it is first asked something, within the session, which reports what is wrong.
    """

    def __init__(
        self, make_engine: Callable[[], ForceEngine], worker: ThreadPoolExecutor, channel: Channel
    ) -> None:
        self._make_engine, self._worker, self._channel = make_engine, worker, channel
        self._made: ForceEngine | None = None
        self.say_working: Callable[[], None] = lambda: None

    def check_species(self, numbers: NDArray[np.int64]) -> None:
        self._in_turn(lambda: self._engine.check_species(numbers))

    def compute(self, system: System) -> Results:
        """What the engine computes; raises ConnectionLost when the server stops meanwhile."""
        return self._in_turn(lambda: self._engine.compute(system))

    def close(self) -> None:
        if self._made is not None:
            self._made.close()

    @property
    def _engine(self) -> ForceEngine:
        if self._made is None:
            self._made = self._make_engine()
        return self._made

    def _in_turn(self, ask: Callable[[], Answer]) -> Answer:
        try:
            future = self._worker.submit(self._if_wanted, ask)
        except RuntimeError:  # the worker takes no more jobs
            raise ConnectionLost("the server stops") from None
        try:
            while not wait([future], timeout=SIGN_OF_LIFE_S).done:
                self.say_working()
        except ConnectionLost:  # what comes next closes the engine, which must not be at work then
            if not future.cancel():
                wait([future])
            raise
        try:
            return future.result()
        except CancelledError:
            raise ConnectionLost("the server stops") from None

    def _if_wanted(self, ask: Callable[[], Answer]) -> Answer:
        if self._channel.peer_is_gone():
            raise ConnectionLost("it left before its turn came")
        return ask()

"""The process with the model: a server for its owner alone, at a socket in a private folder.

:mod:`~mlh_driver.interfaces.sockets.supervisor` starts it as ``python -m ... PATH_OF_SOCKET``, writes the
settings of the engine into the first line of its standard input, as JSON, and keeps that open: its end, in
whichever way the owner ended, is the end of this process. Signals that stop a run reach every process of a
terminal or a batch job; what they mean is the owner's to decide.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from mlh_driver.engine_settings import EngineSettings
from mlh_driver.interfaces.sockets.address import Address, Listener, listen
from mlh_driver.interfaces.sockets.server import Server

if TYPE_CHECKING:
    from mlh_driver.engine import Engine


class EngineMaker:
    """Engines that share one model, which the first of them loads. For any thread."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()

    def __call__(self) -> Engine:
        from mlh_driver.engine import Engine
        from mlh_driver.runtime import configure

        with self._lock:
            configure(self._settings.threads)
            engine = Engine(**vars(self._settings))
            self._settings = replace(self._settings, model=engine.model)
            return engine


def main() -> None:
    """Serve the owner until its end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    make_engine = EngineMaker(EngineSettings(**json.loads(sys.stdin.readline())))
    listener = listen(Address(path=sys.argv[1]))
    threading.Thread(target=_end_with_owner, args=(listener,), daemon=True).start()
    Server(make_engine, None, Console(quiet=True)).serve(listener)


def _end_with_owner(listener: Listener) -> None:
    sys.stdin.read()
    listener.close()
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(listener.address.path))
    os._exit(0)  # whatever is being computed, nobody waits for it


if __name__ == "__main__":
    main()

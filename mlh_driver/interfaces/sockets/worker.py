"""The process with the model: a server for its owner alone, at a socket in a private folder.

:mod:`~mlh_driver.interfaces.sockets.supervisor` starts it as ``python -m ... PATH_OF_SOCKET``, writes the
settings of the engine into the first line of its standard input, as JSON, and keeps that open: its end, in
whichever way the owner ended, is the end of this process. Signals that stop a run reach every process of a
terminal or a batch job; what they mean is the owner's to decide.

As ``mpiexec -n N python -m ... PATH_OF_SOCKET N`` it is N processes that share each structure. The first one,
whose standard input is that of ``mpiexec``, serves.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from mlh_driver.engine_settings import EngineSettings
from mlh_driver.force_engine import ForceEngine
from mlh_driver.interfaces.sockets.address import Address, listen
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
    path, *ranks = sys.argv[1:]
    if ranks:
        _share(path, int(ranks[0]))
    else:
        _serve(EngineMaker(_settings(sys.stdin.readline())), path, lambda: os._exit(0))


def _settings(line: str) -> EngineSettings:
    return EngineSettings(**json.loads(line))


def _share(path: str, n_ranks: int) -> None:
    from mlh_driver.distributed.ranks import world
    from mlh_driver.distributed.team import Team

    ranks = world(n_ranks)
    if ranks.rank:
        Team(_settings(ranks.listen()), ranks).follow()
        return
    try:
        line = sys.stdin.readline()
        ranks.tell(line)
        _serve(Team(_settings(line), ranks).engine, path, ranks.comm.Abort)
    except BaseException:
        traceback.print_exc()
        ranks.comm.Abort(1)  # the others would listen for ever


def _serve(make_engine: Callable[[], ForceEngine], path: str, end: Callable[[], None]) -> None:
    listener = listen(Address(path=path))
    threading.Thread(target=_end_with_owner, args=(path, end), daemon=True).start()
    Server(make_engine, None, Console(quiet=True)).serve(listener)


def _end_with_owner(path: str, end: Callable[[], None]) -> None:
    sys.stdin.read()
    with contextlib.suppress(OSError):
        os.unlink(path)
        os.rmdir(os.path.dirname(path))
    end()  # whatever is being computed, nobody waits for it


if __name__ == "__main__":
    main()

"""The i-PI client: connects to a running i-PI and computes what it asks for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mlh_driver.errors import ConnectionLost
from mlh_driver.interfaces.address import Address, connect
from mlh_driver.interfaces.guardian import guarded
from mlh_driver.interfaces.progress import Progress
from mlh_driver.interfaces.session import DriverSession
from mlh_driver.interfaces.template import Template
from mlh_driver.interfaces.wire import Channel

if TYPE_CHECKING:
    from mlh_driver.engine import Engine

RECONNECT_PAUSE_S = 1.0
"""A server that ends still accepts connections for a moment, and drops them."""


def run_client(
    engine: Engine,
    template: Template,
    address: Address,
    *,
    wait_s: float,
    reconnect: bool,
    progress: Progress,
) -> None:
    """Serve i-PI at ``address`` until it says that it is done.

    wait_s:    how long to wait for a server that is not up
    reconnect: after the end of a server, wait for the next one at the same address; the client ends
               when none comes within ``wait_s`` seconds

    Raises ConnectionLost when i-PI cannot be reached or ends without saying so, and every error of the
    structure or the model; the connection is closed first, in the way that i-PI recovers from.
    """
    engine.check_species(template.numbers)
    finished = False
    while True:
        try:
            sock = connect(address, wait_s, progress.say)
        except ConnectionLost:
            if finished:
                return
            raise
        progress.say(f"connected to {address}, {len(template.numbers)} atoms")
        before = progress.evaluations
        try:
            with guarded(sock):
                _serve(Channel(sock), engine, template, progress)
            finished = True
            progress.say("i-PI says that it is done")
        except ConnectionLost as error:
            if not reconnect:
                raise ConnectionLost(
                    f"lost i-PI at {address} before it said EXIT: {error}. If it was killed or crashed, the "
                    "end of its output says why; restart it from its RESTART file"
                ) from None
            finished = finished and progress.evaluations == before
            progress.say(f"lost i-PI before it said EXIT: {error}")
        finally:
            if progress.evaluations > before:
                progress.report()
        if not reconnect:
            return
        time.sleep(RECONNECT_PAUSE_S)


def _serve(channel: Channel, engine: Engine, template: Template, progress: Progress) -> None:
    try:
        DriverSession(channel, engine.compute, engine.check_species, template, progress).run()
    finally:
        channel.close()

"""The i-PI client: connects to a running i-PI and computes what it asks for."""

from __future__ import annotations

import time

from mlh_driver.errors import ConnectionLost, MLHError
from mlh_driver.force_engine import ForceEngine
from mlh_driver.interfaces.sockets.address import Address, connect
from mlh_driver.interfaces.sockets.guardian import guarded
from mlh_driver.interfaces.sockets.session import DriverSession
from mlh_driver.interfaces.sockets.session_log import SessionLog
from mlh_driver.interfaces.sockets.template import Template
from mlh_driver.interfaces.sockets.wire import Channel
from mlh_driver.results import OBSERVABLES

RECONNECT_PAUSE_S = 1.0
"""A server that ends still accepts connections for a moment, and drops them."""
EXTRAS = (*OBSERVABLES, "charges")
"""What i-PI may write to <trajectory extra_type=...>; another name ends it."""


def run_client(
    engine: ForceEngine,
    template: Template,
    address: Address,
    *,
    wait_s: float,
    reconnect: bool,
    log: SessionLog,
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
            sock = connect(address, wait_s, log.say)
        except ConnectionLost:
            if finished:
                return
            raise
        log.say(f"connected to {address}, {len(template.numbers)} atoms")
        before = log.evaluations
        try:
            with guarded(sock):
                _serve(Channel(sock), engine, template, log)
            finished = True
            log.say("i-PI says that it is done")
        except ConnectionLost as error:
            if not reconnect:
                raise ConnectionLost(
                    f"lost i-PI at {address} before it said EXIT: {error}. If it was killed or crashed, the "
                    "end of its output says why, such as an extra_type that does not exist (there are "
                    f"{', '.join(EXTRAS)}); restart it from its RESTART file"
                ) from None
            finished = finished and log.evaluations == before
            log.say(f"lost i-PI before it said EXIT: {error}")
        except MLHError:
            log.say("this client ends; i-PI waits for another, unless its input has <exit_on_disconnect>")
            raise
        finally:
            if log.evaluations > before:
                log.report()
        if not reconnect:
            return
        time.sleep(RECONNECT_PAUSE_S)


def _serve(channel: Channel, engine: ForceEngine, template: Template, log: SessionLog) -> None:
    try:
        DriverSession(channel, engine, template, log).run()
    finally:
        channel.close()

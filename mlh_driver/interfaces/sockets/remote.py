"""The MD engine's side: an engine whose model runs in another process, such as ``mlh-driver serve``."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import socket
import struct
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlh_driver import errors
from mlh_driver.errors import ConnectionLost, MLHError, reason
from mlh_driver.interfaces.sockets.address import Address, connect
from mlh_driver.interfaces.sockets.secret import introduce, secret_for
from mlh_driver.interfaces.sockets.wire import (
    ANGSTROM,
    ELECTRONVOLT,
    PROTOCOL,
    Channel,
    header,
    pack_system,
)
from mlh_driver.results import OBSERVABLES, PER_ATOM, Results
from mlh_driver.system import Array, System

PATIENCE_S = 60.0
"""Who is silent for so long is stuck or stopped; one that computes says WORKING every few seconds."""
CONNECT_S = 10.0
"""How long to wait for a server that is not up yet, if nothing else is said."""


class SocketEngine:
    """An engine at the other end of a socket, which answers as :class:`DriverSession` does.

    dial:      makes a connection
    longest_s: one that says WORKING for so long is stuck, and given up; asked anew at each call

    A call that failed, or was interrupted, ends the connection, and the next one makes another. An engine
    that nobody has closed says EXIT when it is forgotten, or when Python ends.
    """

    def __init__(
        self,
        dial: Callable[[], socket.socket],
        longest_s: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._dial, self._longest_s = dial, longest_s
        self._channel: Channel | None = None
        self._numbers: NDArray[np.int64] | None = None

    def connect(self) -> None:
        """Make sure that somebody is there."""
        with self._conversation():
            pass

    def check_species(self, numbers: ArrayLike) -> None:
        """Tell the other end the elements; raises StructureError for those that its model does not know."""
        numbers = np.array(numbers, dtype=np.int64)  # a copy: the caller's may change, as ASE's do
        text = json.dumps({"protocol": PROTOCOL, "numbers": numbers.tolist()}).encode()
        with self._conversation() as channel:
            channel.send(header("INIT"), struct.pack("=ii", 0, len(text)), text, header("STATUS"))
            self._expect("READY", channel)
        self._numbers = numbers

    def compute(self, system: System) -> Results:
        """Energy, forces, stress and all observables of ``system``.

        Raises what the engine at the other end raised, and ConnectionLost when it is gone.
        """
        if self._numbers is None or not np.array_equal(self._numbers, system.numbers):
            self.check_species(system.numbers)
        with self._conversation() as channel:
            channel.send(pack_system(system), header("GETFORCE"))
            self._expect("FORCEREADY", channel)
            return _read_results(system, channel)

    def close(self) -> None:
        """Say EXIT to the other end, which stays up for others."""
        if self._channel is not None:
            self._farewell()
            self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _conversation(self) -> Iterator[Channel]:
        """The connection, made anew if need be; whatever fails ends it, since an answer may be on its way."""
        known = self._channel
        channel = known or Channel(self._dial())
        self._channel = channel
        try:
            if known is None:
                self._farewell = weakref.finalize(self, _leave, channel)
                channel.set_timeout(PATIENCE_S)
                channel.send(header("STATUS"))
                self._expect("NEEDINIT", channel)
            yield channel
        except MLHError as error:
            self._drop()
            raise self._explained(error) from None
        except BaseException:
            self._drop()
            raise

    def _explained(self, error: MLHError) -> MLHError:
        """An error of a conversation, for the user."""
        return error

    def _drop(self) -> None:
        """Close the connection; the next call makes another one."""
        if self._channel is not None:
            self._farewell.detach()
            self._channel.close()
        self._channel = self._numbers = None

    def _expect(self, name: str, channel: Channel) -> None:
        """Read the header ``name``; raise the error of the other end if it reports one instead."""
        deadline = time.monotonic() + (longest := self._longest_s())
        while (message := channel.read_header()) == "WORKING":
            if time.monotonic() > deadline:
                raise ConnectionLost(f"it has worked on one structure for {longest:.0f} s")
        if message == "FAILED":
            with _understood():
                report = json.loads(channel.read_text())
                error, text = str(report["error"]), str(report["message"])
            raise _error_class(error)(text)
        if message != name:
            raise ConnectionLost(f"it answers {message!r} where {name} was due; is it an mlh-driver server?")


class RemoteEngine(SocketEngine):
    """Computes like :class:`~mlh_driver.engine.Engine`, with the model in a server.

    address: ``HOST:PORT`` or ``unix:NAME``, as given to ``mlh-driver serve``
    wait_s:  how long to wait for a server that is not up yet
    secret_file: with the secret of a TCP server that asks for one; by default, the file that the environment
             variable MLH_DRIVER_SECRET_FILE names

    Energies, forces and stress are those of the server's engine to the last digits of float64.
    Raises ConnectionLost when there is no server, when it dies or says nothing for a minute, or when it is
    something else.
    """

    def __init__(
        self,
        address: str,
        *,
        wait_s: float = CONNECT_S,
        secret_file: Path | None = None,
    ) -> None:
        target = self.address = Address.parse(address)
        secret = secret_for(target, secret_file)

        def dial() -> socket.socket:  # a reference to self would keep it from being forgotten
            sock = connect(target, wait_s)
            if secret is not None:
                introduce(sock, secret, target)
            return sock

        super().__init__(dial)
        self.connect()
        self._again = partial(RemoteEngine, address, wait_s=wait_s, secret_file=secret_file)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy has a connection of its own, as a calculator that is copied or sent to a process needs."""
        return self._again, ()

    def _explained(self, error: MLHError) -> MLHError:
        """Which server reported it, or what to do when the server is lost."""
        if isinstance(error, ConnectionLost):
            return ConnectionLost(
                f"lost the server at {self.address}: {error}. Was it stopped or killed? Its output says "
                "why; start `mlh-driver serve` again and continue from the last restart"
            )
        return type(error)(f"{error} (reported by the server at {self.address})")


def _read_results(system: System, channel: Channel) -> Results:
    energy = float(channel.read_reals(1)[0]) / ELECTRONVOLT
    n_atoms = channel.read_int()
    if n_atoms != len(system):
        raise ConnectionLost(f"it returned forces on {n_atoms} atoms instead of {len(system)}")
    forces = channel.read_reals(n_atoms, 3) * (ANGSTROM / ELECTRONVOLT)
    virial = channel.read_reals(3, 3) / ELECTRONVOLT
    with _understood():
        extras = json.loads(channel.read_text())
        observables = _array(extras["observables"], len(OBSERVABLES)).tolist()
        others: dict[str, Any] = dict(zip(OBSERVABLES, observables, strict=True))
        others |= {name: _array(extras[name], n_atoms) for name in PER_ATOM}
        a, b, c = map(int, extras["repeats"])
        return Results(
            energy=energy,
            forces=forces,
            stress=-virial / system.volume,
            timings={str(stage): float(seconds) for stage, seconds in extras["timings"].items()},
            provenance=dict(extras["provenance"]),
            repeats=(a, b, c),
            **others,
        )


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    """Around what reads an answer: what cannot be read comes from something else than our server."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ConnectionLost(f"its answer cannot be read ({reason(error)})") from error


def _array(text: str, size: int) -> Array:
    """(size,) float64 from base64; raises ValueError for another number of them."""
    values = np.frombuffer(base64.b64decode(text)).copy()
    if values.shape != (size,):
        raise ValueError(f"{values.size} numbers where {size} were due")
    return values


def _leave(channel: Channel) -> None:
    with contextlib.suppress(ConnectionLost):
        channel.send(header("EXIT"))
    channel.close()


def _error_class(name: str) -> type[MLHError]:
    """The class of this package's exceptions with that name."""
    found = getattr(errors, name, MLHError)
    return found if isinstance(found, type) and issubclass(found, MLHError) else MLHError

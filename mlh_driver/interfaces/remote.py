"""The MD engine's side: an engine whose model runs in another process, ``mlh-driver serve``."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlh_driver import errors
from mlh_driver.errors import ConnectionLost, MLHError
from mlh_driver.interfaces.address import Address, connect
from mlh_driver.interfaces.session import PER_ATOM
from mlh_driver.interfaces.wire import ANGSTROM, ELECTRONVOLT, Channel, header, pack_system
from mlh_driver.results import OBSERVABLES, Results
from mlh_driver.system import System

PATIENCE_S = 60.0
"""A server silent for so long is stuck or stopped; one that computes says WORKING every few seconds."""


class RemoteEngine:
    """Computes like :class:`~mlh_driver.engine.Engine`, with the model in a server.

    address: ``HOST:PORT`` or ``unix:NAME``, as given to ``mlh-driver serve``
    wait_s:  how long to wait for a server that is not up yet
    notify:  told why it waits

    Energies, forces and stress are those of the server's engine to the last digits of float64.
    Raises ConnectionLost when there is no server, when it dies or says nothing for a minute, or when it is
    something else.
    """

    def __init__(
        self,
        address: str,
        *,
        wait_s: float = 10.0,
        notify: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.address = Address.parse(address)
        self._numbers: NDArray[np.int64] | None = None
        self._channel = Channel(connect(self.address, wait_s, notify))
        self._channel.set_timeout(PATIENCE_S)
        with self._conversation():
            self._channel.send(header("STATUS"))
            self._expect("NEEDINIT")

    def check_species(self, numbers: ArrayLike) -> None:
        """Tell the server the elements; raises StructureError for those that its model does not know."""
        numbers = np.asarray(numbers, dtype=np.int64)
        text = json.dumps({"numbers": numbers.tolist()}).encode()
        with self._conversation():
            self._channel.send(header("INIT"), struct.pack("=ii", 0, len(text)), text, header("STATUS"))
            self._expect("READY")
        self._numbers = numbers

    def compute(self, system: System) -> Results:
        """Energy, forces, stress and all observables of ``system``.

        Raises what the server's engine raised, and ConnectionLost when the server is gone.
        """
        if self._numbers is None or not np.array_equal(self._numbers, system.numbers):
            self.check_species(system.numbers)
        with self._conversation():
            self._channel.send(pack_system(system), header("GETFORCE"))
            self._expect("FORCEREADY")
            return self._read_results(system)

    def close(self) -> None:
        """Say EXIT to the server, which stays up for others."""
        with contextlib.suppress(ConnectionLost):
            self._channel.send(header("EXIT"))
        self._channel.close()

    def __enter__(self) -> RemoteEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _conversation(self) -> Iterator[None]:
        """Whatever fails in here ends the connection; a loss of the server is said in full."""
        try:
            yield
        except ConnectionLost as error:
            self._channel.close()
            raise ConnectionLost(
                f"lost the server at {self.address}: {error}. Was it stopped or killed? Its output says "
                "why; start `mlh-driver serve` again and continue from the last restart"
            ) from None
        except MLHError:
            self._channel.close()
            raise

    def _expect(self, name: str) -> None:
        """Read the header ``name``; raise the server's error if it reports one instead."""
        while (message := self._channel.read_header()) == "WORKING":
            pass
        if message == "FAILED":
            report = json.loads(self._channel.read_text())
            text = f"{report['message']} (reported by the server at {self.address})"
            raise _error_class(report["error"])(text)
        if message != name:
            raise ConnectionLost(f"it answers {message!r} where {name} was due; is it an mlh-driver server?")

    def _read_results(self, system: System) -> Results:
        channel = self._channel
        energy = float(channel.read_reals(1)[0]) / ELECTRONVOLT
        n_atoms = channel.read_int()
        if n_atoms != len(system):
            raise ConnectionLost(f"it returned forces on {n_atoms} atoms instead of {len(system)}")
        forces = channel.read_reals(n_atoms, 3) * (ANGSTROM / ELECTRONVOLT)
        virial = channel.read_reals(3, 3) / ELECTRONVOLT
        extras: dict[str, Any] = json.loads(channel.read_text())
        extras |= {name: np.frombuffer(base64.b64decode(extras[name])).copy() for name in PER_ATOM}
        return Results(
            energy=energy,
            forces=forces,
            stress=-virial / system.volume,
            timings=extras["timings"],
            **{name: extras[name] for name in (*OBSERVABLES, *PER_ATOM)},
        )


def _error_class(name: str) -> type[MLHError]:
    """The class of this package's exceptions with that name."""
    found = getattr(errors, name, MLHError)
    return found if isinstance(found, type) and issubclass(found, MLHError) else MLHError

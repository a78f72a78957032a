"""The driver's side of one connection: answer an MD engine that speaks the i-PI protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from mlh_driver.errors import (
    ConnectionLost,
    EngineCrashed,
    InputError,
    MLHError,
    PeerLeft,
    StructureError,
)
from mlh_driver.force_engine import ForceEngine
from mlh_driver.interfaces.sockets.session_log import SessionLog
from mlh_driver.interfaces.sockets.template import SystemBuilder, Template
from mlh_driver.interfaces.sockets.wire import (
    PROTOCOL,
    Channel,
    header,
    pack_failure,
    pack_forces,
    to_atomic_units,
)
from mlh_driver.results import PER_ATOM, Results
from mlh_driver.system import Array, System

QUIET_S = 60.0
"""Time without any message after which the log says so; then twice as long, and so on."""


def extras_for_ipi(results: Results) -> str:
    """The observables as i-PI writes them to <trajectory extra_type=...>: a JSON object of fixed keys."""
    return json.dumps(results.observables() | {"charges": results.charges.tolist()})


def extras_for_remote(results: Results) -> str:
    """Everything of :class:`Results` that the binary part of FORCEREADY does not carry.

    Arrays are base64 of their float64 bytes: ten times faster than numbers as text, exact, and able to
    hold the infinite ``lumo`` of a structure without empty levels. Observables are in the order of
    :data:`~mlh_driver.results.OBSERVABLES`.
    """
    arrays = {name: _base64(getattr(results, name)) for name in PER_ATOM}
    observables = _base64(np.array(list(results.observables().values())))
    others = {name: getattr(results, name) for name in ("timings", "provenance", "repeats")}
    return json.dumps(arrays | {"observables": observables} | others)


@dataclass(frozen=True)
class Peer:
    """What an MD engine understands.

    extras:  the text that goes with forces
    reports: whether it takes FAILED and WORKING, which are not part of i-PI's protocol
    """

    extras: Callable[[Results], str]
    reports: bool


class _Identity(BaseModel):
    """What a RemoteEngine says of itself in INIT; without numbers it asks whether there is a model."""

    protocol: int
    numbers: list[Annotated[int, Field(strict=True, ge=0, le=118)]]


IPI = Peer(extras_for_ipi, reports=False)
REMOTE_ENGINE = Peer(extras_for_remote, reports=True)


class DriverSession:
    """Answers one MD engine until it says EXIT.

    ``engine.compute`` is called as soon as positions are complete, before GETFORCE is looked at: i-PI drops
    a driver that pauses within its answer. ``engine.check_species`` gets the numbers that a RemoteEngine
    names in INIT; an MD engine that names none needs ``template``.
    """

    def __init__(
        self,
        channel: Channel,
        engine: ForceEngine,
        template: Template | None,
        log: SessionLog,
    ) -> None:
        self._channel = channel
        self._engine = engine
        self._log = log
        self._use_template(template)
        self._initialized = False
        self._batch_size = 1
        self._reply: bytes | None = None
        self._peer = IPI
        self._answers = {
            "STATUS": self._answer_status,
            "INIT": self._take_init,
            "POSDATA": self._take_positions,
            "GETFORCE": self._answer_forces,
        }

    def run(self) -> None:
        """Return after EXIT.

        Raises ConnectionLost when the peer leaves without it or breaks the protocol, StructureError
        when its structure does not fit, and what the engine raises (as EngineCrashed if it is no error of
        this package). A RemoteEngine is told why.
        """
        try:
            while (message := self._next_message()) != "EXIT":
                self._answers[message]()
        except MLHError as error:
            self._report(error)
            raise
        except Exception as error:  # of torch, say, for want of memory
            failure = EngineCrashed(f"{type(error).__name__}: {error}")
            self._report(failure)
            raise failure from error

    def _report(self, error: MLHError) -> None:
        """Tell a RemoteEngine why the session ends; i-PI has no message for that."""
        if self._peer.reports and not isinstance(error, ConnectionLost):
            with contextlib.suppress(ConnectionLost):
                self._channel.send(pack_failure(error))

    def say_working(self) -> None:
        """While the engine takes its time: a sign of life for a RemoteEngine; i-PI waits without."""
        if self._peer.reports:
            self._channel.send(header("WORKING"))

    def _next_message(self) -> str:
        start = time.perf_counter()
        patience = QUIET_S
        while not self._channel.has_data_within(patience):
            self._log.say(f"connected, but nothing was asked for {patience:g} s")
            patience *= 2
        if self._channel.peer_is_gone():
            raise PeerLeft("the other end closed the connection")
        message = self._channel.read_header()
        self._log.waited(time.perf_counter() - start)
        if message != "EXIT" and message not in self._answers:
            raise ConnectionLost(f"unknown message {message!r}: the other end does not speak i-PI's protocol")
        return message

    def _answer_status(self) -> None:
        if not self._initialized:
            self._channel.send(header("NEEDINIT"))
        else:
            self._channel.send(header("HAVEDATA" if self._reply else "READY"))

    def _take_init(self) -> None:
        self._channel.read_int()  # the bead; every bead is treated alike
        text = self._channel.read_text()
        if text.lstrip().startswith("{"):
            self._take_identity(text)
        else:
            self._batch_size = _batch_size(text)
        self._initialized = True

    def _take_identity(self, text: str) -> None:
        """INIT of a RemoteEngine: the elements, as JSON."""
        self._peer = REMOTE_ENGINE
        try:
            identity = _Identity.model_validate_json(text)
        except ValidationError:
            example = json.dumps({"protocol": PROTOCOL, "numbers": [14, 8]})
            raise InputError(f"INIT must be like {example}, got {text[:80]!r}") from None
        if identity.protocol != PROTOCOL:
            raise InputError(
                f"the MD engine's side speaks version {identity.protocol} of the protocol, and this server "
                f"version {PROTOCOL}: use the same release of mlh-driver on both sides"
            )
        numbers = np.array(identity.numbers, dtype=np.int64)
        self._engine.check_species(numbers)
        self._use_template(Template.from_numbers(numbers.tolist(), "the list of elements in INIT"))

    def _use_template(self, template: Template | None) -> None:
        self._template = template
        self._assemble = SystemBuilder(template, self._log.say) if template else None

    def _take_positions(self) -> None:
        systems = self._read_systems()
        results: list[Results] = []
        for i, system in enumerate(systems):
            if i and system.key == systems[i - 1].key:  # i-PI fills up a batch with copies of the last
                results.append(results[-1])
                continue
            results.append(self._engine.compute(system).check_finite())
            self._log.computed(results[-1])
        energies, forces, virials = zip(
            *(to_atomic_units(r, s.volume) for r, s in zip(results, systems, strict=True)), strict=True
        )
        self._reply = pack_forces(energies, forces, virials, [self._peer.extras(r) for r in results])

    def _read_systems(self) -> list[System]:
        """Read one structure, or a whole batch; an atom count that does not fit ends the session."""
        if self._template is None or self._assemble is None:
            raise StructureError(
                "the MD engine sends positions but no elements: start with --template init.xyz, "
                "or let it name them in INIT, as a RemoteEngine does"
            )
        channel, n_structures = self._channel, self._batch_size
        if n_structures > 1:
            self._template.check_count(n_atoms := channel.read_int())
            cells = self._read_cells(n_structures)
        else:
            cells = self._read_cells(1)
            self._template.check_count(n_atoms := channel.read_int())
        positions = channel.read_reals(n_structures, 3 * n_atoms)
        return [self._assemble(h[0], x) for h, x in zip(cells, positions, strict=True)]

    def _read_cells(self, n_structures: int) -> Array:
        """(B, 2, 9): h and its inverse per structure; the first number is judged before waiting for more."""
        first = self._channel.read_reals(1)
        if first[0] and not 1e-100 < abs(first[0]) < 1e100:
            raise InputError(
                "the positions do not come in the socket's layout. If i-PI's input has <ffsocket "
                'mode="shm">, make it mode="unix"'
            )
        return np.concatenate((first, self._channel.read_reals(18 * n_structures - 1))).reshape(-1, 2, 9)

    def _answer_forces(self) -> None:
        if self._reply is None:
            raise ConnectionLost("the MD engine asked for forces before it sent positions")
        start = time.perf_counter()
        with contextlib.suppress(ConnectionLost):  # it may have said EXIT meanwhile: the next message tells
            self._channel.send(self._reply)
        self._reply = None
        self._log.sent(time.perf_counter() - start)


def _base64(values: Array) -> str:
    return base64.b64encode(np.asarray(values, dtype=np.float64).tobytes()).decode()


def _batch_size(text: str) -> int:
    """The batch size that i-PI announces among the parameters of INIT, as ``batch_size:N``."""
    for item in text.split(","):
        key, _, value = item.partition(":")
        if key.strip() == "batch_size" and re.fullmatch(r"[0-9]{1,9}", value.strip()):
            return max(1, int(value))
    return 1

"""The i-PI framing: units, whole messages on a socket, and the layout of positions and forces.

Everything that speaks the protocol goes through this file: the i-PI client, the server and
:class:`~mlh_driver.interfaces.sockets.remote.RemoteEngine`.

=============  ==========  =====================================================================
message        from        what follows the 12-byte header (int32, float64, atomic units)
=============  ==========  =====================================================================
STATUS         MD engine   nothing; answered by NEEDINIT, READY or HAVEDATA
INIT           MD engine   bead index, length, text; that of a RemoteEngine is
                           JSON {"protocol": PROTOCOL, "numbers": [atomic numbers]}
POSDATA        MD engine   h[9], inverse h[9], N, positions[3N]
POSDATA        MD engine   for a batch of B > 1: N, B x (h[9], inverse h[9]), B x positions[3N]
GETFORCE       MD engine   nothing; answered by FORCEREADY
FORCEREADY     driver      E[B], N, forces[B x 3N], virial[B x 9], B x (length, extras)
EXIT           MD engine   nothing; the session is over
FAILED         driver      length, JSON {"error": class, "message": text}; only to a
                           RemoteEngine, instead of FORCEREADY or READY (not part of i-PI)
WORKING        driver      nothing; only to a RemoteEngine, every few seconds before FORCEREADY
=============  ==========  =====================================================================

What comes before, where a server asks for a secret, is in :mod:`~mlh_driver.interfaces.sockets.secret`.
Lattice vectors are the columns of h on the wire and rows inside the package. The virial is
W = -V * stress (ASE's sign).
"""

from __future__ import annotations

import contextlib
import json
import math
import select
import socket
import struct
from collections.abc import Sequence

import numpy as np

from mlh_driver.errors import ConnectionLost, MLHError
from mlh_driver.results import Results
from mlh_driver.system import Array, System

ANGSTROM = 1.8897261
"""One Å in bohr as i-PI rounds it (CODATA 2022: 1.88972612...).

i-PI reads and writes files with its own two rounded constants. With the same numbers here the engine
sees exactly the Å of the input file, and energies that i-PI prints in eV are exactly the engine's.
With CODATA's they would differ by 1e-7 relative, which is 3e-5 eV/atom at -330 eV/atom.
"""
ELECTRONVOLT = 0.036749326
"""One eV in hartree as i-PI rounds it (CODATA 2022: 0.0367493222)."""

PROTOCOL = 2
"""Version of what a RemoteEngine and ``fix mlh`` say and are told beyond i-PI's protocol; named in INIT."""

HEADER_BYTES = 12
"""Fixed by i-PI's protocol."""
CHUNK_BYTES = 1 << 17
"""Read at once when a connection is emptied; any size does."""
LARGEST_PART_BYTES = 1 << 28
"""Of anything that has a size of its own: the positions of ten million atoms. No memory is taken for more."""
LINGER_S = 0.5
"""Longest wait for what a peer still sends before its socket is closed."""
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6, "TCP_USER_TIMEOUT": 90_000}
"""A machine that has gone, or a cut cable, is noticed after a minute and a half instead of two hours."""


def header(name: str) -> bytes:
    """The 12-byte header of a message."""
    return name.ljust(HEADER_BYTES).encode()


class Channel:
    """A connected stream socket on which messages are read whole and sent in one piece.

    Raises :class:`~mlh_driver.errors.ConnectionLost` from every method when the peer is gone.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                if hasattr(socket, option):  # Linux has all of them
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def send(self, *parts: bytes) -> None:
        """Send all parts with one call, so that they leave as one packet if they fit in one."""
        try:
            self._sock.sendall(b"".join(parts))
        except OSError as error:
            raise ConnectionLost(f"the connection broke while sending ({error})") from None

    def read(self, n_bytes: int) -> bytes:
        """Read exactly ``n_bytes``, at most :data:`LARGEST_PART_BYTES`."""
        if not 0 <= n_bytes <= LARGEST_PART_BYTES:
            raise ConnectionLost(
                f"it announces {n_bytes} bytes, and between 0 and {LARGEST_PART_BYTES} are possible: it does "
                "not speak i-PI's protocol"
            )
        buffer = bytearray(n_bytes)
        view = memoryview(buffer)
        filled = 0
        while filled < n_bytes:
            try:
                count = self._sock.recv_into(view[filled:])
            except TimeoutError:
                raise ConnectionLost(f"nothing came from it for {self._sock.gettimeout():g} s") from None
            except OSError as error:
                raise ConnectionLost(f"the connection broke while reading ({error})") from None
            if count == 0:
                raise ConnectionLost("the other end closed the connection")
            filled += count
        return bytes(buffer)

    def read_header(self) -> str:
        """Read the name of the next message."""
        raw = self.read(HEADER_BYTES)
        try:
            return raw.decode("ascii").rstrip()
        except UnicodeDecodeError:
            raise ConnectionLost(f"received {raw!r} where the name of a message was due") from None

    def read_int(self) -> int:
        return int(struct.unpack("=i", self.read(4))[0])

    def read_reals(self, *shape: int) -> Array:
        return np.frombuffer(self.read(8 * math.prod(shape))).reshape(shape)

    def read_text(self) -> str:
        """Read an int32 length and as many bytes of UTF-8."""
        return self.read(self.read_int()).decode(errors="replace")

    def set_timeout(self, seconds: float | None) -> None:
        """Limit how long one read or send may block; None for no limit."""
        self._sock.settimeout(seconds)

    def has_data_within(self, seconds: float) -> bool:
        """Wait for the next message; False if nothing came in time. The end of the connection counts."""
        poll = select.poll()  # unlike select.select also for the many files of a large server
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(1e3 * seconds))

    def peer_is_gone(self) -> bool:
        """True when the other end has closed the connection and nothing is left to read."""
        try:
            return not self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Say that nothing more will come, read what is still under way, then close.

        Unread data would reach the peer as a connection reset, which i-PI takes badly (see guardian.py).
        """
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            self._sock.settimeout(LINGER_S)
            while self._sock.recv(CHUNK_BYTES):
                pass
        self._sock.close()

    def abort(self) -> None:
        """End a conversation that another thread is in: its reads and sends fail from now on."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)


def pack_failure(error: MLHError) -> bytes:
    """FAILED with its payload."""
    report = json.dumps({"error": type(error).__name__, "message": str(error)}).encode()
    return header("FAILED") + struct.pack("=i", len(report)) + report


def pack_system(system: System) -> bytes:
    """POSDATA with its payload for one structure."""
    h = system.cell.T * ANGSTROM
    return b"".join(
        (
            header("POSDATA"),
            h.tobytes(),
            np.linalg.inv(h).tobytes(),
            struct.pack("=i", len(system)),
            (system.positions * ANGSTROM).tobytes(),
        )
    )


def to_angstrom(h: Array, positions: Array) -> tuple[Array, Array]:
    """Cell (3, 3) with rows in Å, positions (N, 3) in Å, from i-PI's h (columns) and positions in bohr."""
    return h.reshape(3, 3).T / ANGSTROM, positions.reshape(-1, 3) / ANGSTROM


def to_atomic_units(results: Results, volume: float) -> tuple[float, Array, Array]:
    """Energy, forces (N, 3) and virial (3, 3) in hartree and bohr; ``volume`` in Å^3."""
    return (
        results.energy * ELECTRONVOLT,
        results.forces * (ELECTRONVOLT / ANGSTROM),
        results.virial(volume) * ELECTRONVOLT,
    )


def pack_forces(
    energies: Sequence[float], forces: Sequence[Array], virials: Sequence[Array], extras: Sequence[str]
) -> bytes:
    """FORCEREADY with its payload for a batch (of one, as a rule); all in atomic units."""
    texts = [extra.encode() for extra in extras]
    return b"".join(
        (
            header("FORCEREADY"),
            np.asarray(energies, dtype=np.float64).tobytes(),
            struct.pack("=i", len(forces[0])),
            *(np.asarray(force, dtype=np.float64).tobytes() for force in forces),
            *(np.asarray(virial, dtype=np.float64).tobytes() for virial in virials),
            *(struct.pack("=i", len(text)) + text for text in texts),
        )
    )

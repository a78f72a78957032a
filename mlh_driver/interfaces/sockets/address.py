"""Where a socket is: parse addresses, connect with patience, listen without leaving files behind."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mlh_driver.errors import ConnectionLost, InputError

UNIX_PREFIX = "/tmp/ipi_"
"""i-PI puts its unix sockets at this prefix followed by <address>."""
UNIX_PATH_LIMIT = 107
"""Bytes in the path of a unix socket on Linux (108 with the closing zero)."""
FIRST_PAUSE_S = 0.05
"""Before the second try; each pause is half as long again, and none is longer than the next constant."""
LONGEST_PAUSE_S = 2.0
SHORTEST_TRY_S = 2.0
"""One attempt may take this long even where nothing was said of waiting."""
REMIND_S = 30.0
"""Time between two notices that it still waits."""


@dataclass(frozen=True)
class Address:
    """A unix socket (``path``) or a TCP port (``host``, ``port``)."""

    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def from_options(cls, host: str, port: int | None, unix: str | None) -> Address:
        """Build from the command line: either a port or the name of a unix socket."""
        if (port is None) == (unix is None):
            raise InputError(
                "give either --unix NAME or --port PORT (and --address HOST for another machine)"
            )
        return cls.unix(unix) if unix is not None else cls.tcp(host, port or 0)

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``HOST:PORT`` or ``unix:NAME``."""
        kind, colon, rest = text.rpartition(":")
        if text.startswith("unix:"):
            return cls.unix(text.removeprefix("unix:"))
        if not colon or not kind or not rest.isdigit():
            raise InputError(f"address {text!r} is neither HOST:PORT nor unix:NAME")
        return cls.tcp(kind.strip("[]"), int(rest))

    @classmethod
    def unix(cls, name: str) -> Address:
        """``name`` as in i-PI's <address>, meaning /tmp/ipi_NAME; or a path, with a slash in it."""
        if not name:
            raise InputError("the name of the unix socket is empty")
        path = name if "/" in name else UNIX_PREFIX + name
        n_bytes = len(os.fsencode(path))
        if n_bytes > UNIX_PATH_LIMIT:
            raise InputError(
                f"the path of the unix socket, {path}, has {n_bytes} bytes; the system allows "
                f"{UNIX_PATH_LIMIT}: use a shorter name or directory (TMPDIR is that of temporary files)"
            )
        return cls(path=path)

    @classmethod
    def tcp(cls, host: str, port: int) -> Address:
        if not 0 < port < 65536:
            raise InputError(f"port {port} is outside 1-65535")
        return cls(host=host, port=port)

    @property
    def is_open_to_others(self) -> bool:
        """Whether other machines can connect to a server that listens there."""
        if self.path:
            return False
        try:
            found = socket.getaddrinfo(
                self.host or None, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except socket.gaierror:  # listening says so, too
            return False
        return not all(ipaddress.ip_address(str(where[0]).split("%")[0]).is_loopback for *_, where in found)

    def __str__(self) -> str:
        return f"unix socket {self.path}" if self.path else f"{self.host}:{self.port}"


def connect(
    address: Address, wait_s: float = 0.0, notify: Callable[[str], None] = lambda message: None
) -> socket.socket:
    """Connect, retrying with growing pauses for up to ``wait_s`` seconds.

    ``notify`` is told why it has to wait, at once and then every half minute. Raises ConnectionLost
    when the time is over, and InputError at once when waiting cannot help.
    """
    start = time.monotonic()
    pause, next_notice = FIRST_PAUSE_S, 0.0
    while True:
        try:
            left = start + wait_s - time.monotonic()
            return _connect_once(address, min(REMIND_S, max(SHORTEST_TRY_S, left)))
        except OSError as error:
            problem = _explain(address, error)
        waited = time.monotonic() - start
        if waited + pause > wait_s:
            raise ConnectionLost(f"no server at {address} after {waited:.0f} s: {problem}")
        if waited >= next_notice:
            notify(f"waiting for the server at {address} (up to {wait_s:g} s): {problem}")
            next_notice = waited + REMIND_S
        time.sleep(pause)
        pause = min(1.5 * pause, LONGEST_PAUSE_S)


def _connect_once(address: Address, timeout_s: float) -> socket.socket:
    """A blocking socket; raises TimeoutError if whoever listens there does not answer in time."""
    if not address.path:
        sock = socket.create_connection((address.host, address.port), timeout_s)
    else:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout_s)
        try:
            sock.connect(address.path)
        except OSError:
            sock.close()
            raise
    sock.settimeout(None)
    return sock


def _explain(address: Address, error: OSError) -> str:
    """Say why no connection came about; raises InputError when waiting cannot help."""
    if isinstance(error, socket.gaierror):
        raise InputError(f"the host name {address.host!r} is not known ({error.strerror})") from None
    if isinstance(error, PermissionError):
        raise InputError(f"no permission to connect to {address}: it belongs to another user") from None
    if error.errno == errno.ENOENT:
        return "the socket does not exist yet; is the server started, and with this name?"
    if error.errno == errno.ECONNREFUSED and address.path:
        return (
            "the file exists but nobody listens: left over from a crashed run? i-PI refuses to start "
            f"while it is there; if no server uses it: rm {address.path}"
        )
    if error.errno == errno.ECONNREFUSED:
        return "nobody listens on this port yet"
    if isinstance(error, (TimeoutError, BlockingIOError)):
        return "it does not answer; is the server stopped, stuck, or behind a firewall?"
    return str(error)


@dataclass(frozen=True)
class Listener:
    """A listening socket, and the identity of its file so that only this one is ever removed."""

    socket: socket.socket
    address: Address
    inode: int = 0

    def close(self) -> None:
        """Stop listening and remove the socket's file, unless another server has replaced it."""
        self.socket.close()
        if self.address.path:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self.address.path).st_ino == self.inode:
                    os.unlink(self.address.path)


def listen(address: Address) -> Listener:
    """Listen at ``address``; a left-over socket file that nobody serves is replaced.

    Raises InputError when somebody else listens there, or when it cannot be opened.
    """
    if address.path:
        _remove_stale(address)
    family = socket.AF_UNIX if address.path else socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if not address.path:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.path:
            with _own_files():
                sock.bind(address.path)
        else:
            sock.bind((address.host, address.port))
        sock.listen()
    except OSError as error:
        sock.close()
        reason = "another program uses it" if error.errno == errno.EADDRINUSE else error.strerror or error
        raise InputError(f"cannot listen at {address}: {reason}; choose another --port or --unix") from None
    return Listener(sock, address, os.stat(address.path).st_ino if address.path else 0)


@contextlib.contextmanager
def _own_files() -> Iterator[None]:
    """New files belong to their owner alone from the start; a chmod would come a moment too late."""
    before = os.umask(stat.S_IRWXG | stat.S_IRWXO | stat.S_IXUSR)
    try:
        yield
    finally:
        os.umask(before)


def _remove_stale(address: Address) -> None:
    """Remove the file of a socket that nobody listens on; anything else in its place is an error."""
    try:
        mode = os.stat(address.path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InputError(f"{address.path} exists and is not a socket: choose another name")
    try:
        _connect_once(address, SHORTEST_TRY_S).close()
    except ConnectionRefusedError:
        os.unlink(address.path)
    except OSError as error:
        raise InputError(f"cannot use {address}: {error.strerror}; choose another name") from None
    else:
        raise InputError(f"another server listens at {address}: stop it or choose another name")

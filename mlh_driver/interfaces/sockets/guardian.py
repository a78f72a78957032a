"""A tiny process that closes the socket to i-PI properly when its owner is killed.

The kernel answers unread data on the socket of a dying process with a connection reset. i-PI (3.3)
recovers from an end of file, but a reset ends its polling thread, and i-PI waits for ever. i-PI sends
GETFORCE together with the positions, so there is unread data nearly all the time that the model computes.

The guardian shares the socket and does nothing while its owner lives. When the owner is gone, in
whichever way (kill -9, a crash in a library, out of memory), it reads what is left and then closes.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

DRAIN_S = 5.0
"""Longest wait for what is still under way: i-PI closes its end within a step."""


@contextlib.contextmanager
def guarded(sock: socket.socket) -> Iterator[None]:
    """Keep a guardian for ``sock`` within this block."""
    # isolated and without site-packages: it starts in some 20 ms and depends on nothing
    command = [sys.executable, "-I", "-S", __file__, str(sock.fileno())]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, pass_fds=[sock.fileno()], start_new_session=True
    ) as guardian:
        try:
            yield
        finally:
            guardian.kill()


def stand_by(fd: int) -> None:
    """Wait for the end of the owner (the end of standard input), then empty and close the socket."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # batch systems signal every process of a job
    sock = socket.socket(fileno=fd)
    sys.stdin.buffer.read()
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(DRAIN_S)
        while sock.recv(1 << 16):
            pass
    sock.close()


if __name__ == "__main__":
    stand_by(int(sys.argv[1]))

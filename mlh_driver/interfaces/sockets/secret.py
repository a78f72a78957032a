"""A secret that server and client share: both prove that they know it before anything else is said on TCP.

=============  ==========  =====================================================================
message        from        what follows the header
=============  ==========  =====================================================================
SECRET         client      32 random bytes
CHALLENGE      server      32 random bytes
PROOF          client      HMAC-SHA256 of "client" and both; it is checked before the next goes out
PROOF          server      HMAC-SHA256 of "server" and both
=============  ==========  =====================================================================

A server that refuses says FAILED with the reason, which ``RemoteEngine`` and ``fix mlh`` show. What comes
after is neither encrypted nor signed. i-PI's protocol has no place for a secret.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import stat
from pathlib import Path
from typing import NoReturn

from mlh_driver.errors import ConnectionLost, InputError
from mlh_driver.interfaces.sockets.address import Address
from mlh_driver.interfaces.sockets.wire import Channel, header, pack_failure

VARIABLE = "MLH_DRIVER_SECRET_FILE"
LEAST_BYTES, MOST_BYTES = 16, 4096
"""Of a secret. A short one could be guessed from one exchange."""
RANDOM_BYTES = 32
"""As many as a proof has."""
SILENCE_S = 10.0
"""Longest wait for each part of the exchange."""


def secret_for(address: Address, file: Path | None) -> bytes | None:
    """The secret in ``file``, or in the file that the environment variable names; None without either.

    A unix socket has none: the system lets only its owner in. Raises InputError for a file that is given for
    one, cannot be read, is open to other users, or holds fewer than 16 bytes.
    """
    if address.path:
        if file is not None:
            raise InputError(f"{address} needs no --secret-file: only its owner can open it")
        return None
    if file is None:
        if not os.environ.get(VARIABLE):
            return None
        file = Path(os.environ[VARIABLE])
    try:
        with open(file, "rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            secret = opened.read(MOST_BYTES + 1).strip()
    except OSError as error:
        raise InputError(f"the secret in {file} cannot be read: {error.strerror}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(f"other users may open the secret in {file}: chmod 600 {file}")
    if not LEAST_BYTES <= len(secret) <= MOST_BYTES:
        raise InputError(
            f"the secret in {file} has {len(secret)} bytes, and needs {LEAST_BYTES} to {MOST_BYTES}; make "
            f"one: (umask 077; head -c 32 /dev/urandom | base64 > {file})"
        )
    return secret


def introduce(sock: socket.socket, secret: bytes, address: Address) -> None:
    """The client's side: prove that it knows the secret, and see that the server does.

    Raises InputError if their secrets differ, ConnectionLost if the server asks for none; the connection is
    closed then.
    """
    channel, ours = Channel(sock), secrets.token_bytes(RANDOM_BYTES)
    channel.set_timeout(SILENCE_S)
    try:
        channel.send(header("SECRET"), ours)
        theirs = _read("CHALLENGE", channel)
        channel.send(header("PROOF"), _proof(secret, "client", ours, theirs))
        proof = _read("PROOF", channel)
        if not hmac.compare_digest(proof, _proof(secret, "server", ours, theirs)):
            raise _Refused
    except ConnectionLost as error:
        channel.close()
        raise ConnectionLost(
            f"the server at {address} does not answer to a secret: {error}. Was it started with "
            "--secret-file?"
        ) from None
    except _Refused:
        channel.close()
        raise InputError(f"the server at {address} has another secret; copy its --secret-file") from None
    channel.set_timeout(None)


def admit(channel: Channel, secret: bytes) -> None:
    """The server's side. Raises InputError for a client without the secret, once it has been told."""
    channel.set_timeout(SILENCE_S)
    if (message := channel.read_header()) != "SECRET":
        _refuse(
            channel,
            InputError(
                f"this server asks for a secret, and got {message!r}: give its --secret-file, or set "
                f"{VARIABLE}. 'fix mlh' of plain LAMMPS, and what speaks i-PI's own protocol, cannot tell "
                "one: start a server with --unix for them, which other machines reach by ssh -L"
            ),
        )
    theirs, ours = channel.read(RANDOM_BYTES), secrets.token_bytes(RANDOM_BYTES)
    channel.send(header("CHALLENGE"), ours)
    if not hmac.compare_digest(_read("PROOF", channel), _proof(secret, "client", theirs, ours)):
        _refuse(channel, InputError("the secret is another one than the server's"))
    channel.send(header("PROOF"), _proof(secret, "server", theirs, ours))
    channel.set_timeout(None)


class _Refused(Exception):
    """By the other end."""


def _read(name: str, channel: Channel) -> bytes:
    """What comes with this message; raises ConnectionLost where another one comes."""
    if (message := channel.read_header()) == "FAILED":
        raise _Refused
    if message != name:
        raise ConnectionLost(f"it sent {message!r} where {name} was due")
    return channel.read(RANDOM_BYTES)


def _refuse(channel: Channel, error: InputError) -> NoReturn:
    channel.send(pack_failure(error))
    raise error


def _proof(secret: bytes, of: str, first: bytes, second: bytes) -> bytes:
    return hmac.digest(secret, of.encode() + first + second, "sha256")

"""Servers on TCP that ask for a secret."""

from __future__ import annotations

import hmac
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from processes import FAKE, Launcher

from mlh_driver.errors import ConnectionLost, InputError, MLHError
from mlh_driver.interfaces.sockets.address import Address
from mlh_driver.interfaces.sockets.remote import RemoteEngine
from mlh_driver.interfaces.sockets.secret import RANDOM_BYTES, VARIABLE, admit, introduce, secret_for
from mlh_driver.interfaces.sockets.wire import Channel, header
from mlh_driver.system import System

PORT = 20000 + (os.getpid() + 13) % 40000
SERVER = Address.tcp("localhost", PORT)
SECRET = b"of the tests, and of nobody else"
SYSTEM = System(np.array([14, 8, 8]), np.array([[0.0, 0, 0], [1.6, 0, 0], [0, 1.6, 0]]), 9.0 * np.eye(3))


@pytest.fixture(autouse=True)
def no_secret_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def kept(folder: Path, name: str = "secret", content: bytes = SECRET, mode: int = 0o600) -> Path:
    file = folder / name
    file.write_bytes(content)
    file.chmod(mode)
    return file


def test_a_server_computes_for_those_who_know_its_secret(
    start: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others, with another secret or none, are told why not; a silent one does not hold anybody up."""
    known = str(kept(tmp_path))
    program = start(*FAKE, "serve", "--port", str(PORT), "--model", "fake", "--secret-file", known)
    program.wait_for("MD engines need the secret")
    with socket.create_connection(("localhost", PORT)):  # and says nothing
        with RemoteEngine(f"localhost:{PORT}", secret_file=Path(known)) as remote:
            assert len(remote.compute(SYSTEM).forces) == 3
        with pytest.raises(InputError, match=f"asks for a secret, and got 'STATUS': .*{VARIABLE}"):
            RemoteEngine(f"localhost:{PORT}")
        other = kept(tmp_path, "other", b"of somebody else, who may guess")
        with pytest.raises(InputError, match="has another secret"):
            RemoteEngine(f"localhost:{PORT}", secret_file=other)
        monkeypatch.setenv(VARIABLE, known)
        with RemoteEngine(f"localhost:{PORT}") as remote:
            assert len(remote.compute(SYSTEM).forces) == 3
    program.wait_for("disconnected: this server asks for a secret")
    program.wait_for("disconnected: the secret is another one")


def test_a_server_reads_the_secret_before_it_listens(start: Launcher, tmp_path: Path) -> None:
    open_to_all = str(kept(tmp_path, mode=0o644))
    program = start(*FAKE, "serve", "--port", str(PORT), "--model", "fake", "--secret-file", open_to_all)
    assert program.status() == 1
    assert "other users may open" in program.output
    assert "listening" not in program.output


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (SECRET, 0o640, "other users may open .*chmod 600"),
        (SECRET, 0o602, "other users may open .*chmod 600"),
        (b"short\n", 0o600, "has 5 bytes, and needs 16 to 4096"),
        (b"x" * 10_000_000, 0o600, "has 4097 bytes"),
    ],
)
def test_files_that_hold_no_secret_are_refused(
    tmp_path: Path, content: bytes, mode: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        secret_for(SERVER, kept(tmp_path, content=content, mode=mode))


def test_where_the_secret_is_read_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert secret_for(SERVER, None) is None
    monkeypatch.setenv(VARIABLE, str(kept(tmp_path, "from_variable", SECRET + b" too")))
    assert secret_for(SERVER, None) == SECRET + b" too"
    assert secret_for(SERVER, kept(tmp_path, content=SECRET + b"\n")) == SECRET  # as editors end it
    local = Address.unix(f"{tmp_path}/socket")
    assert secret_for(local, None) is None
    with pytest.raises(InputError, match="needs no --secret-file"):
        secret_for(local, tmp_path / "secret")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        secret_for(SERVER, tmp_path / "nowhere")


@contextmanager
def peer(act: Callable[[Channel], None]) -> Iterator[socket.socket]:
    """The near end of a connection; ``act`` has the far one, in a thread, and closes it at its end."""
    near, far = socket.socketpair()

    def run() -> None:
        channel = Channel(far)
        with suppress(MLHError):
            act(channel)
        channel.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield near
    finally:
        near.close()
        thread.join(10.0)
        assert not thread.is_alive()


def echo(channel: Channel) -> None:
    """A server without the secret, which hopes that what a client says will do as an answer."""
    channel.read_header()
    ours = channel.read(RANDOM_BYTES)
    channel.send(header("CHALLENGE"), ours)
    channel.read_header()
    channel.send(header("PROOF"), channel.read(RANDOM_BYTES))


def close(channel: Channel) -> None:
    """A server that asks for no secret: it knows no such message."""
    channel.read_header()


def wait(channel: Channel) -> None:
    channel.set_timeout(5.0)
    channel.read(1000)


@pytest.mark.parametrize(
    ("server", "error", "message"),
    [
        (lambda channel: admit(channel, b"another secret"), InputError, "has another secret"),
        (echo, InputError, "has another secret"),
        (close, ConnectionLost, "closed the connection. Was it started with --secret-file"),
        (wait, ConnectionLost, "nothing came from it for 0.3 s. Was it started"),
        (lambda channel: channel.send(b"HTTP/1.1 400 Bad Request"), ConnectionLost, "'HTTP/1.1 400' where"),
    ],
)
def test_a_client_trusts_no_server_without_the_secret(
    server: Callable[[Channel], None],
    error: type[MLHError],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mlh_driver.interfaces.sockets.secret.SILENCE_S", 0.3)
    with peer(server) as near, pytest.raises(error, match=message):
        introduce(near, SECRET, SERVER)


def replay(channel: Channel) -> None:
    """A client that has seen another exchange."""
    ours = bytes(RANDOM_BYTES)
    channel.send(header("SECRET"), ours)
    channel.read(12 + RANDOM_BYTES)
    proof = hmac.digest(SECRET, b"client" + ours + bytes(RANDOM_BYTES), "sha256")
    channel.send(header("PROOF"), proof)
    channel.read(1000)


@pytest.mark.parametrize(
    ("client", "message"),
    [
        (lambda channel: introduce(channel._sock, b"another secret", SERVER), "is another one"),
        (replay, "is another one"),
        (lambda channel: channel.send(header("STATUS")), "asks for a secret, and got 'STATUS'"),
        (wait, "nothing came from it for 0.3 s"),
        (lambda channel: channel.send(header("SECRET"), b"x"), "closed the connection"),
    ],
)
def test_a_server_admits_no_client_without_the_secret(
    client: Callable[[Channel], None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlh_driver.interfaces.sockets.secret.SILENCE_S", 0.3)
    with peer(client) as near, pytest.raises(MLHError, match=message):
        channel = Channel(near)
        try:
            admit(channel, SECRET)
        finally:
            channel.close()

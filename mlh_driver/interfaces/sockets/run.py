"""A real i-PI in a process of its own, and the client that answers it in this one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console

from mlh_driver.errors import InputError
from mlh_driver.force_engine import ForceEngine
from mlh_driver.interfaces.sockets.address import Address
from mlh_driver.interfaces.sockets.client import run_client
from mlh_driver.interfaces.sockets.session_log import SessionLog
from mlh_driver.interfaces.sockets.template import Template

START_S = 60.0
"""Time for i-PI to open its socket."""
END_S = 30.0
"""Time for i-PI to end by itself when its client has ended."""


def run_input(file: Path, engine: ForceEngine, template: Template) -> None:
    """Run an input or a checkpoint of i-PI, with one <ffsocket mode="unix">, in the folder where it lies.

    i-PI's messages go to ``i-pi.log``, those of the client to ``client.log``; the socket is private. Raises
    InputError if i-PI does not start, and what the client raises.
    """
    name = read_ipi_input(file).findtext("ffsocket/address", "").strip()
    with tempfile.TemporaryDirectory(prefix="mlh-") as sockets, open(file.parent / "client.log", "a") as log:
        socket = Path(sockets) / name
        with _i_pi(file, socket):
            run_client(
                engine,
                template,
                Address.unix(str(socket)),
                wait_s=START_S,
                reconnect=False,
                log=SessionLog(Console(file=log)),
            )


def read_ipi_input(file: Path) -> ElementTree.ElementTree[ElementTree.Element]:
    """Raises InputError for what is no input of i-PI with one <ffsocket>."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    try:
        xml = ElementTree.parse(file, parser)
    except ElementTree.ParseError as error:
        raise InputError(f"{file} is not valid XML: {error}") from error
    sockets = xml.findall("ffsocket")
    if len(sockets) != 1:
        raise InputError(
            f"{file} has {len(sockets)} elements <ffsocket>, and needs one, for the model's client"
        )
    return xml


@contextmanager
def _i_pi(file: Path, socket: Path) -> Iterator[None]:
    """i-PI, listening at ``socket``; it ends with this block. Raises InputError if it does not start."""
    program = shutil.which("i-pi", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        raise InputError("i-PI is not installed; pip install ipi")
    log = file.with_name("i-pi.log")
    command = [program, "-S", f"{socket.parent}/", file.name]
    with (
        open(log, "a") as output,
        subprocess.Popen(command, cwd=file.parent, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            _wait_for(socket, process, log)
            yield
        finally:
            _end(process)
    if process.returncode:
        raise InputError(f"i-PI ended with status {process.returncode}; {log} says why")


def _wait_for(socket: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not socket.exists():
        if process.poll() is not None:
            raise InputError(f"i-PI ended before it opened its socket; {log} says why")
        if time.monotonic() > deadline:
            raise InputError(f"i-PI opened no socket within {START_S:g} s; {log} says what it does")
        time.sleep(0.05)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Give i-PI the time to end by itself, as it does without a client; then ask it to; then end it."""
    for end in (process.terminate, process.kill):
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            end()
    process.wait()

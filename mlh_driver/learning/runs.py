"""Runs of MD engines on a watched model: LAMMPS and i-PI as in ``mlh-driver lammps`` and ``ipi``, or ASE.

Each goes on until its end, or until the watch ends it with LimitReached.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from rich.console import Console

from mlh_driver.errors import InputError
from mlh_driver.interfaces.ase import MLHCalculator
from mlh_driver.interfaces.lammps import run_script
from mlh_driver.interfaces.sockets.address import Address
from mlh_driver.interfaces.sockets.client import run_client
from mlh_driver.interfaces.sockets.session_log import SessionLog
from mlh_driver.interfaces.sockets.template import Template
from mlh_driver.learning.settings import SEED, ExploreSettings
from mlh_driver.learning.watch import Watch

FRICTION_PER_FS = 0.02
LARGEST_SEED = 900_000_000
"""The largest that every random number generator of LAMMPS takes."""

SOCKET = "mlh"
START_S = 60.0
"""Time for i-PI to open its socket."""
END_S = 30.0
"""Time for i-PI to end by itself when its client has ended."""

_QUIT = re.compile(r"^[^#]*\bquit\b", re.MULTILINE)


def check_inputs(settings: ExploreSettings) -> None:
    """Raise InputError for a script or input that cannot be run."""
    for path in (settings.script, settings.ipi):
        if path and not path.is_file():
            raise InputError(
                f"[explore] names {path}, which does not exist; name a LAMMPS script or i-PI input"
            )
    if settings.script and _QUIT.search(settings.script.read_text(errors="replace")):
        raise InputError(
            f"{settings.script} has the command quit, which would end the learning too; use 'jump' to the end"
        )
    if settings.ipi:
        read_ipi_input(settings.ipi)


def run_langevin(
    watch: Watch, atoms: Atoms, temperature_K: float, settings: ExploreSettings, seed: int
) -> None:
    """Dynamics of ASE from rest: velocities of twice the temperature, half becomes potential energy."""
    rng = np.random.default_rng(seed)
    atoms.calc = MLHCalculator(engine=watch)
    MaxwellBoltzmannDistribution(atoms, temperature_K=2 * temperature_K, rng=rng)
    dynamics = Langevin(
        atoms,
        settings.timestep_fs * units.fs,
        temperature_K=temperature_K,
        friction=FRICTION_PER_FS / units.fs,
        fixcm=False,
        rng=rng,
    )
    dynamics.run(settings.steps)


def run_lammps(watch: Watch, script: Path, variables: dict[str, str | int | float], seed: int) -> None:
    """A LAMMPS script in the folder that it lies in, where it leaves its log and whatever else it writes."""
    arguments = ["-screen", "none"]
    for name, value in variables.items():
        arguments += ["-var", name, str(value).replace(SEED, str(seed))]
    with chdir(script.parent):
        run_script(script.name, watch, arguments=arguments)


def run_ipi(watch: Watch, file: Path, seed: int) -> None:
    """A real i-PI in the folder of its input, which is changed, and a client for it in this process.

    i-PI's messages go to ``i-pi.log``, those of the client to ``client.log``; the socket is private.
    """
    xml = read_ipi_input(file)
    template = Template.read(file.parent / _start_file(xml, file))
    _prepare(xml, seed)
    xml.write(file)
    with tempfile.TemporaryDirectory(prefix="mlh-") as sockets, open(file.parent / "client.log", "w") as log:
        socket = Path(sockets) / SOCKET
        with _i_pi(file, socket):
            run_client(
                watch,
                template,
                Address.unix(str(socket)),
                wait_s=START_S,
                reconnect=False,
                log=SessionLog(Console(file=log)),
            )


def read_ipi_input(file: Path) -> ElementTree.ElementTree[ElementTree.Element]:
    """Raises InputError for what is no input of i-PI with one <ffsocket> and a file to start from."""
    try:
        xml = ElementTree.parse(file)
    except ElementTree.ParseError as error:
        raise InputError(f"{file} is not valid XML: {error}") from error
    sockets = xml.findall("ffsocket")
    if len(sockets) != 1:
        raise InputError(
            f"{file} has {len(sockets)} elements <ffsocket>, and needs one, for the model's client"
        )
    _start_file(xml, file)
    return xml


def _start_file(xml: ElementTree.ElementTree[ElementTree.Element], file: Path) -> str:
    """Name of the structure that i-PI starts from, whose elements the client needs."""
    name = xml.findtext(".//initialize/file", "").strip()
    if not name:
        raise InputError(f"{file} has no <file> in <initialize>; name the structure to start from there")
    return name


def _prepare(xml: ElementTree.ElementTree[ElementTree.Element], seed: int) -> None:
    """The seed, a unix socket of our name, and that i-PI ends with its client."""
    root = xml.getroot()
    _set_text(_child(root, "prng"), "seed", str(seed))
    socket = _child(root, "ffsocket")
    socket.set("mode", "unix")
    _set_text(socket, "address", SOCKET)
    _set_text(socket, "exit_on_disconnect", "True")


def _child(parent: ElementTree.Element, tag: str) -> ElementTree.Element:
    """The child of this tag, made where there is none."""
    found = parent.find(tag)
    return ElementTree.SubElement(parent, tag) if found is None else found


def _set_text(parent: ElementTree.Element, tag: str, text: str) -> None:
    _child(parent, tag).text = text


@contextmanager
def _i_pi(file: Path, socket: Path) -> Iterator[None]:
    """i-PI, listening at ``socket``; it ends with this block. Raises InputError if it does not start."""
    program = shutil.which("i-pi", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        raise InputError("i-PI is not installed; pip install ipi")
    log = file.with_name("i-pi.log")
    command = [program, "-S", f"{socket.parent}/", file.name]
    with (
        open(log, "w") as output,
        subprocess.Popen(command, cwd=file.parent, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            _wait_for(socket, process, log)
            yield
            process.wait(END_S)
        finally:
            _end(process)


def _wait_for(socket: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    while not socket.exists():
        if process.poll() is not None:
            raise InputError(f"i-PI ended before it opened its socket; {log} says why")
        time.sleep(0.05)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Give i-PI the time to end by itself, as it does without a client, and then end it."""
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()

"""Runs of MD engines on a watched model: LAMMPS and i-PI as in ``mlh-driver lammps`` and ``ipi``, or ASE.

Each goes on until its end, or until the watch ends it with LimitReached.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import TextIO
from xml.etree import ElementTree

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from mlh_driver.errors import InputError
from mlh_driver.interfaces.ase import MLHCalculator
from mlh_driver.interfaces.lammps import run_script
from mlh_driver.interfaces.sockets.run import read_ipi_input, run_input
from mlh_driver.interfaces.sockets.template import Template
from mlh_driver.learning.settings import SEED, ExploreSettings
from mlh_driver.learning.watch import WatchedEngine

#: The velocity is forgotten in 50 fs: strong enough for a run of some hundred steps to reach its temperature.
FRICTION_PER_FS = 0.02
LANGEVIN_LOG = "langevin.log"

SOCKET = "mlh"

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
        _start_file(read_ipi_input(settings.ipi), settings.ipi)


def run_langevin(
    watch: WatchedEngine, atoms: Atoms, temperature_K: float, settings: ExploreSettings, seed: int, log: Path
) -> None:
    """Dynamics of ASE from rest: velocities of twice the temperature, half becomes potential energy.

    ``log`` gets a line for each step, and the doubts about the model on the way.
    """
    rng = np.random.default_rng(seed)
    atoms.calc = MLHCalculator(engine=watch)
    MaxwellBoltzmannDistribution(atoms, temperature_K=2 * temperature_K, rng=rng)
    with open(log, "w") as file, _warnings_to(file):
        dynamics = Langevin(
            atoms,
            settings.timestep_fs * units.fs,
            temperature_K=temperature_K,
            friction=FRICTION_PER_FS / units.fs,
            fixcm=False,
            rng=rng,
            logfile=file,
        )
        dynamics.run(settings.steps)


@contextmanager
def _warnings_to(file: TextIO) -> Iterator[None]:
    """Each Python warning is a line of the file, not of the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=file)
        yield


def run_lammps(
    watch: WatchedEngine, script: Path, variables: dict[str, str | int | float], seed: int
) -> None:
    """A LAMMPS script in the folder that it lies in, where it leaves its log and whatever else it writes."""
    arguments = ["-screen", "none"]
    for name, value in variables.items():
        arguments += ["-var", name, str(value).replace(SEED, str(seed))]
    with chdir(script.parent):
        run_script(script.name, watch, arguments=arguments)


def run_ipi(watch: WatchedEngine, file: Path, seed: int) -> None:
    """A real i-PI in the folder of its input, which is changed, and a client for it in this process."""
    xml = read_ipi_input(file)
    template = Template.read(file.parent / _start_file(xml, file))
    _prepare(xml, seed)
    xml.write(file)
    run_input(file, watch, template)


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

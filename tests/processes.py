"""Start the programs under test, and never wait for them for ever."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ase
import numpy as np

REPOSITORY = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "OMP_NUM_THREADS": "1",  # several programs run at once; their threads would fight for the cores
    "PYTHONUNBUFFERED": "1",  # what they print is waited for, and i-PI does not flush it
}
FAKE = [sys.executable, str(Path(__file__).with_name("fake_engine.py"))]
DRIVER = [sys.executable, "-m", "mlh_driver"]
PATIENCE_S = 90.0


def heed_interrupts() -> None:
    """In the new process: SIGINT acts, also where the tests themselves were started with it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def eventually(condition: Callable[[], bool], seconds: float = PATIENCE_S) -> bool:
    """Whether it comes true within the time that anything here may take."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


class Program:
    """A running process whose output (both streams) goes to a file."""

    def __init__(self, command: Sequence[str], folder: Path, name: str) -> None:
        self.log = folder / f"{name}.log"
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=ENVIRONMENT,
                stdout=stream,
                stderr=subprocess.STDOUT,
                preexec_fn=heed_interrupts,
            )

    @property
    def output(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str, seconds: float = PATIENCE_S) -> None:
        """Return when ``text`` has been printed."""
        deadline = time.monotonic() + seconds
        while text not in self.output:
            assert self.process.poll() is None, f"ended before it printed {text!r}:\n{self.output}"
            assert time.monotonic() < deadline, f"{text!r} was not printed in {seconds} s:\n{self.output}"
            time.sleep(0.02)

    def status(self, seconds: float = PATIENCE_S) -> int:
        """Exit status; a program that does not end fails the test."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.output}") from None


class Launcher:
    """Starts programs in one folder and ends those that are left over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs: list[Program] = []

    def __call__(self, *command: str, folder: Path | None = None) -> Program:
        name = f"program{len(self.programs)}"
        self.programs.append(Program(command, folder or self.folder, name))
        return self.programs[-1]

    def end_all(self) -> None:
        for program in self.programs:
            program.process.kill()
            program.process.wait(PATIENCE_S)


@contextmanager
def launching(folder: Path) -> Iterator[Launcher]:
    launcher = Launcher(folder)
    try:
        yield launcher
    finally:
        launcher.end_all()


def serve(start: Launcher, model: str) -> tuple[Program, str]:
    """A server with the stand-in engine, and its address."""
    server = start(*FAKE, "serve", "--unix", f"{start.folder}/socket", "--model", model)
    server.wait_for("listening on unix socket")
    return server, f"unix:{start.folder}/socket"


def copy_case(name: str, folder: Path) -> Path:
    """Copy one folder of ipi_inputs."""
    return Path(shutil.copytree(REPOSITORY / "ipi_inputs" / name, folder / name))


def write_ipi_xyz(atoms: ase.Atoms, path: Path) -> None:
    """Write i-PI's xyz with all digits; the cell must have its first vector along x, the second in xy."""
    lines = [str(len(atoms)), "# CELL(abcABC): " + " ".join(f"{x:.14f}" for x in atoms.cell.cellpar())]
    lines[1] += " cell{angstrom} positions{angstrom}"
    for symbol, position in zip(atoms.symbols, atoms.positions, strict=True):
        lines.append(f"{symbol} " + " ".join(f"{x:.14f}" for x in position))
    path.write_text("\n".join(lines) + "\n")


def sheared(atoms: ase.Atoms) -> ase.Atoms:
    """The structure in a triclinic cell, shaken, and moved out of the cell by several lattice vectors."""
    atoms = atoms.copy()
    a, b, c = atoms.cell.lengths()
    atoms.set_cell(ase.cell.Cell.fromcellpar([a, b, c, 84.0, 95.0, 99.0]), scale_atoms=True)
    atoms.positions += np.random.default_rng(7).normal(scale=0.03, size=atoms.positions.shape)
    atoms.positions[::3] += atoms.cell.array[0] - 2 * atoms.cell.array[2]
    atoms.positions += [3.1, -4.7, 12.9]
    return atoms

"""Kill, or stop for a while, one of the processes of a real run at a random moment, many times.

    python examples/faults.py --trials 200 [--seed 1]

Each trial is a short run of real i-PI or LAMMPS with the shipped model, whose steps are compared with those
of an undisturbed run. A trial is as it should be if the run finishes, or ends where the process was killed
that the MD engine itself depends on. It is a hang if it does neither, and wrong if a step differs. Ctrl-C or
SIGTERM ends it early, with a table of the trials so far.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mlh_driver.runtime import sigterm_interrupts

INPUTS = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
DRIVER = [sys.executable, "-m", "mlh_driver"]
#: Longer than the minute after which a silent process is replaced.
HANG_S = 300.0
STOPPED_S = 2.0
STEPS = 10
#: In eV and K; float32 sums in another order after a restart.
TOLERANCE = 5e-3


@dataclass(frozen=True)
class Fault:
    """What happens to one process of a run, and whether the run is to finish all the same."""

    engine: str
    victim: str
    sign: signal.Signals
    finishes: bool

    def __str__(self) -> str:
        return f"{self.engine}: {self.sign.name} of the {self.victim}"


FAULTS = (
    Fault("i-PI", "model", signal.SIGKILL, True),
    Fault("i-PI", "model", signal.SIGSEGV, True),
    Fault("i-PI", "guardian", signal.SIGKILL, True),
    Fault("i-PI", "client", signal.SIGSTOP, True),
    Fault("i-PI", "client", signal.SIGKILL, False),
    Fault("LAMMPS", "model", signal.SIGKILL, True),
    Fault("LAMMPS", "model", signal.SIGSTOP, True),
    Fault("LAMMPS", "client", signal.SIGSTOP, True),
    Fault("LAMMPS", "client", signal.SIGKILL, False),
    Fault("server", "model", signal.SIGKILL, True),
    Fault("server", "server", signal.SIGSTOP, True),
    Fault("server", "server", signal.SIGKILL, False),
)


class Trial:
    """The processes of one run in a folder of its own: what serves, what the MD engine is, what it writes."""

    def __init__(self, engine: str, folder: Path, n_steps: int = STEPS) -> None:
        self.folder = folder
        self.n_steps = n_steps
        self._programs: dict[str, subprocess.Popen[bytes]] = {}
        if engine == "i-PI":
            self._start_ipi()
        else:
            self._start_lammps(with_server=engine == "server")

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("w") as log:
            self._programs[name] = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT
            )

    def _start_ipi(self) -> None:
        shutil.copytree(INPUTS / "ipi_inputs" / "nve", self.folder, dirs_exist_ok=True)
        address = f"faults{os.getpid()}_{self.folder.name}"
        text = (self.folder / "input.xml").read_text()
        changes = (
            ("<total_steps>4000", f"<total_steps>{self.n_steps}"),
            (' stride="10" filename="out"', ' stride="1" filename="out"'),
            ("<address>asio2", f"<address>{address}"),
        )
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (self.folder / "input.xml").write_text(text)
        self._start("engine", str(BIN / "i-pi"), "input.xml")
        self._start("client", *DRIVER, "ipi", "--unix", address)

    def _start_lammps(self, with_server: bool) -> None:
        shutil.copytree(INPUTS / "lammps_inputs" / "nve", self.folder, dirs_exist_ok=True)
        options = ["-in", "in.nve", "-var", "settle", "1", "-var", "steps", str(self.n_steps)]
        options += ["-var", "every", "1"]
        if with_server:
            self._start("server", *DRIVER, "serve", "--unix", f"{self.folder}/socket")
            while "listening" not in (self.folder / "server.log").read_text():
                time.sleep(0.1)
            options += ["--server", f"unix:{self.folder}/socket"]
        self._start("engine", *DRIVER, "lammps", *options)

    def victim(self, name: str) -> int:
        """The process that is to suffer; 0 while it does not run, or i-PI does not know it yet.

        For the first client i-PI waits for ever, as it should: another one may be started.
        """
        if "client" in self._programs and "connected" not in (self.folder / "client.log").read_text():
            return 0
        owner = self._programs.get("server") or self._programs.get("client") or self._programs["engine"]
        if name in ("client", "server"):
            return owner.pid
        module = {"model": "sockets.worker", "guardian": "guardian.py"}[name]
        return next((pid for pid in children(owner.pid) if module in command_line(pid)), 0)

    def is_running(self) -> bool:
        return self._programs["engine"].poll() is None

    def processes(self) -> dict[str, int]:
        """All of the run that live, by name."""
        found = {name: program.pid for name, program in self._programs.items() if program.poll() is None}
        for name in ("model", "guardian"):
            if pid := self.victim(name):
                found[name] = pid
        return found

    def finished(self) -> bool:
        """Wait for the MD engine; whether it came to its end. Raises TimeoutExpired if it hangs."""
        return self._programs["engine"].wait(HANG_S) == 0 and len(self.steps()) == self.n_steps + 1

    def steps(self) -> NDArray[np.float64]:
        """Potential energy and temperature as the MD engine wrote them, a row for each step."""
        columns = [2, 1]
        if (self.folder / "input.xml").exists():
            columns = [3, 4]
            output = self.folder / "nve.out"
            lines = output.read_text().splitlines(keepends=True) if output.exists() else []
        else:
            lines = re.split(r"^ +Step.*\n", (self.folder / "engine.log").read_text(), flags=re.MULTILINE)
            lines = lines[-1].splitlines(keepends=True) if len(lines) > 2 else []  # of the second run
        rows = [line.split() for line in lines if re.match(r" *[-+\de.]+ .*\n", line)]
        whole = [row for row in rows if len(row) == len(rows[0])]
        return np.array([[row[column] for column in columns] for row in whole], dtype=float)

    def end(self) -> None:
        for program in self._programs.values():
            program.send_signal(signal.SIGCONT)
            program.kill()
            program.wait()


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for task in tasks for word in task.read_text().split()]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def outcome(fault: Fault, folder: Path, undisturbed: NDArray[np.float64], moment_s: float) -> str:
    """Run one trial."""
    trial = Trial(fault.engine, folder)
    try:
        time.sleep(moment_s)
        pid = trial.victim(fault.victim)
        while not pid and trial.is_running():
            time.sleep(0.05)
            pid = trial.victim(fault.victim)
        with contextlib.suppress(ProcessLookupError):  # it has ended before
            if pid:
                os.kill(pid, fault.sign)
                if fault.sign == signal.SIGSTOP:
                    time.sleep(STOPPED_S)
                    os.kill(pid, signal.SIGCONT)
        finished = trial.finished()
    except subprocess.TimeoutExpired:
        return "hangs"
    finally:
        trial.end()
    steps = trial.steps()
    if len(steps) and not np.allclose(steps, undisturbed[: len(steps)], rtol=0.0, atol=TOLERANCE):
        return "wrong"
    if finished:
        return "finished"
    return "ended" if not fault.finishes else "ended too soon"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=len(FAULTS))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    results: dict[Fault, Counter[str]] = {fault: Counter() for fault in FAULTS}
    with tempfile.TemporaryDirectory() as parent:
        undisturbed, seconds = {}, {}
        for engine in ("i-PI", "LAMMPS", "server"):
            folder = Path(parent) / engine
            folder.mkdir()
            start = time.monotonic()
            trial = Trial(engine, folder)
            assert trial.finished(), (folder / "engine.log").read_text()
            undisturbed[engine], seconds[engine] = trial.steps(), time.monotonic() - start
            trial.end()
        with contextlib.suppress(KeyboardInterrupt), sigterm_interrupts():
            for number in track(range(options.trials), console=Console(stderr=True)):
                fault = FAULTS[number % len(FAULTS)]
                folder = Path(parent) / str(number)
                folder.mkdir()
                moment = rng.uniform(0.0, seconds[fault.engine])
                results[fault][outcome(fault, folder, undisturbed[fault.engine], moment)] += 1
    columns = ("finished", "ended", "ended too soon", "wrong", "hangs")
    table = Table("fault", *columns)
    for fault, counts in results.items():
        table.add_row(str(fault), *(str(counts[name]) for name in columns))
    Console().print(table)


if __name__ == "__main__":
    main()

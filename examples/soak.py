"""Whether memory, open files and threads stay what they are while a run goes on.

    python examples/soak.py [--minutes 60]

Real i-PI with a client, LAMMPS with the model, and LAMMPS with a server run at once, and each of their
processes is looked at through /proc (Linux). A table compares the second quarter of the time, when everything
is warm, with the last. The exit status is 1 where a process holds more at the end: descriptors, threads, or
more than TOLERATED_MB of memory; or where a run has ended before its time, or a process was started again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from faults import Trial
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mlh_driver.runtime import sigterm_interrupts

ENDLESS = 10**8
SAMPLES = 60
#: Of the median; an allocator needs some room.
TOLERATED_MB = 10.0


@dataclass(frozen=True)
class Usage:
    """What a process holds: resident memory in MB, open descriptors, threads."""

    pid: int
    memory_MB: float
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        process = Path(f"/proc/{pid}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        memory = float(status["VmRSS"].split()[0]) / 1024
        return cls(pid, memory, len(list((process / "fd").iterdir())), int(status["Threads"]))


def watched(trials: dict[str, Trial], minutes: float) -> dict[str, list[Usage]]:
    """Samples of every process, by run and name; raises SystemExit where a run ends."""
    found: dict[str, list[Usage]] = defaultdict(list)
    for _ in track(range(SAMPLES), "soaking", console=Console(stderr=True)):
        time.sleep(60.0 * minutes / SAMPLES)
        for run, trial in trials.items():
            if not trial.is_running():
                raise SystemExit(f"the run '{run}' has ended; see {trial.folder}/engine.log")
            for name, pid in trial.processes().items():
                found[f"{run}: {name}"].append(Usage.of(pid))
    return found


def row(samples: list[Usage]) -> tuple[list[str], bool]:
    """Medians of the second and the last quarter, and whether they say that nothing grows."""
    quarter = len(samples) // 4
    columns, flat = [], len({sample.pid for sample in samples}) == 1
    for quantity, tolerated in (("memory_MB", TOLERATED_MB), ("descriptors", 0), ("threads", 0)):
        values = np.array([getattr(sample, quantity) for sample in samples])
        before, after = np.median(values[quarter : 2 * quarter]), np.median(values[-quarter:])
        columns += [f"{before:.0f}", f"{after:.0f}"]
        flat &= bool(after <= before + tolerated)
    return columns, flat


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    table = Table("process", "memory (MB)", "then", "descriptors", "then", "threads", "then", "flat")
    all_flat = True
    with sigterm_interrupts(), tempfile.TemporaryDirectory() as parent:
        trials = {}
        try:
            for engine in ("i-PI", "LAMMPS", "server"):
                folder = Path(parent) / engine
                folder.mkdir()
                trials[engine] = Trial(engine, folder, ENDLESS)
            usages = watched(trials, options.minutes)
            steps = {run: len(trial.steps()) for run, trial in trials.items()}
        finally:
            for trial in trials.values():
                trial.end()
    for name, samples in usages.items():
        columns, flat = row(samples)
        all_flat &= flat
        table.add_row(name, *columns, "yes" if flat else "NO")
    Console(width=110).print(table)
    print(f"{options.minutes:g} minutes; steps: " + ", ".join(f"{run} {n}" for run, n in steps.items()))
    raise SystemExit(not all_flat)


if __name__ == "__main__":
    main()

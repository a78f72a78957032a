"""Thermo output in logs of LAMMPS."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from mlh_driver.errors import InputError
from mlh_driver.system import Array


def read_log(log: str | Path) -> dict[str, Array]:
    """The thermo columns of all runs in a log of LAMMPS, one run after the other, by their names in the log.

    Columns that not all runs have are left out. A line cut off by the end of the program is, too.
    Raises InputError for a log without thermo output.
    """
    runs: list[dict[str, list[float]]] = []
    names: list[str] = []
    for line in Path(log).read_text(errors="replace").splitlines(keepends=True):
        words = line.split() if line.endswith("\n") else []  # the last number may lack digits
        if words[:1] == ["Step"]:
            names = words
            runs.append({name: [] for name in names})
        elif words[:2] == ["Loop", "time"]:
            names = []
        elif names and len(words) == len(names):
            with contextlib.suppress(ValueError):  # a message with as many words
                for name, number in zip(names, [float(word) for word in words], strict=True):
                    runs[-1][name].append(number)
    if not runs:
        raise InputError(
            f"{log} has no thermo output (no line that starts with 'Step'); is it a log of LAMMPS?"
        )
    common = [name for name in runs[0] if all(name in run for run in runs)]
    return {name: np.concatenate([run[name] for run in runs]) for name in common}

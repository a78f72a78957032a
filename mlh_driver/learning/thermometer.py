"""Temperatures that an MD engine has written beside its other output."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlh_driver.errors import InputError
from mlh_driver.interfaces.lammps.log import read_log
from mlh_driver.interfaces.sockets.output import read_properties
from mlh_driver.system import Array


def temperature_K(folder: Path, step: int, steps: int) -> float | None:
    """The temperature at a step of a run of ``steps``, between the lines written; None if there is none.

    Lines of another number of steps than those of the run, as after a restart, are not believed.
    """
    steps_K = [*_lammps_rows(folder / "log.lammps"), *_ipi_rows(folder)]
    if not steps_K or max(steps_K)[0] > steps:
        return None
    table = np.array(sorted(steps_K))
    return float(np.interp(step, table[:, 0], table[:, 1]))


def _lammps_rows(log: Path) -> list[tuple[float, float]]:
    """Step and Temp of a log, none where it has not both."""
    try:
        columns = read_log(log)
    except (FileNotFoundError, InputError):
        return []
    return _rows(columns, "Step", "Temp")


def _ipi_rows(folder: Path) -> list[tuple[float, float]]:
    """The same of the files of properties."""
    files = map(read_properties, sorted(folder.glob("*.out")))
    return [row for columns in files for row in _rows(columns, "step", "temperature")]


def _rows(columns: dict[str, Array], step: str, temperature: str) -> list[tuple[float, float]]:
    if not {step, temperature} <= columns.keys():
        return []
    return list(zip(columns[step].tolist(), columns[temperature].tolist(), strict=True))

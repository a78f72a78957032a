"""Temperatures that an MD engine has written beside its other output."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mlh_driver.system import Array

_IPI_COLUMN = re.compile(r"# column\s+(\d+)\s+--> (\w+)")


def temperature_K(folder: Path, step: int, steps: int) -> float | None:
    """The temperature at a step of a run of ``steps``, between the lines written; None if there is none.

    Lines of another number of steps than those of the run, as after a restart, are not believed.
    """
    rows = [*_lammps_rows(folder / "log.lammps"), *_ipi_rows(folder)]
    if not rows or max(row[0] for row in rows) > steps:
        return None
    table = np.array(sorted(rows))
    return float(np.interp(step, table[:, 0], table[:, 1]))


def _lammps_rows(log: Path) -> list[tuple[float, float]]:
    """Step and Temp of all tables of a log, the last of which may be incomplete."""
    rows: list[tuple[float, float]] = []
    columns: list[str] = []
    for line in log.read_text(errors="replace").splitlines() if log.exists() else []:
        words = line.split()
        if words[:1] == ["Step"]:
            columns = words
        elif columns and len(words) == len(columns) and words[0].isdigit() and "Temp" in columns:
            rows.append((float(words[0]), float(words[columns.index("Temp")])))
        elif words[:1] == ["Loop"]:
            columns = []
    return rows


def _ipi_rows(folder: Path) -> list[tuple[float, float]]:
    """The same of the first file of properties with ``step`` and ``temperature``."""
    for path in sorted(folder.glob("*.out")):
        lines = path.read_text(errors="replace").splitlines()
        columns = {name: int(k) - 1 for k, name in _IPI_COLUMN.findall("\n".join(lines))}
        if {"step", "temperature"} <= columns.keys():
            table: Array = np.loadtxt(path, ndmin=2)
            return [(float(row[columns["step"]]), float(row[columns["temperature"]])) for row in table]
    return []

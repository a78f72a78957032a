"""Temperatures that i-PI has written beside its other output."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlh_driver.interfaces.sockets.output import read_properties


def temperature_K(folder: Path, step: int, steps: int) -> float | None:
    """The temperature at a step of a run of ``steps``, between the lines written; None if there is none.

    Lines of another number of steps than those of the run, as after a restart, are not believed.
    """
    steps_K = _rows(folder)
    if not steps_K or max(steps_K)[0] > steps:
        return None
    table = np.array(sorted(steps_K))
    return float(np.interp(step, table[:, 0], table[:, 1]))


def _rows(folder: Path) -> list[tuple[float, float]]:
    """Step and temperature of the files of properties that have both."""
    return [
        row
        for columns in map(read_properties, sorted(folder.glob("*.out")))
        if {"step", "temperature"} <= columns.keys()
        for row in zip(columns["step"].tolist(), columns["temperature"].tolist(), strict=True)
    ]

"""Errors of a model on labelled frames of melt-quench runs, by temperature.

    python examples/melt_quench/errors.py labels.h5

Names end in the temperature, as those of frames.py do: ``lammps-11_step1500_T4321``; glasses relaxed by
analyze.py have T0. Energy errors are signed; force errors are root mean squares over all components.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mlh_driver import Engine
from mlh_driver.data import read_splits, read_structure
from mlh_driver.evaluation import StructureErrors, evaluate_structures

#: Lower bound of each class in K, hottest first.
CLASSES = {"above 3000 K": 3000.0, "1500 to 3000 K": 1500.0, "below 1500 K": 1.0, "relaxed": 0.0}


def temperature(name: str) -> float:
    """In K, from the end of the name."""
    found = re.search(r"_T(\d+)$", name)
    if found is None:
        raise SystemExit(f"{name} does not end in a temperature such as _T3000; see frames.py")
    return float(found[1])


def class_of(name: str) -> str:
    return next(title for title, lowest in CLASSES.items() if temperature(name) >= lowest)


def add_row(table: Table, title: str, errors: list[StructureErrors]) -> None:
    """Mean signed energy error, RMSE of all forces, and the largest extrapolation."""
    energy = 1e3 * np.mean([error.energy_eV_atom for error in errors])
    squares = np.concatenate([error.forces_eV_A.ravel() for error in errors]) ** 2
    extrapolation = max(error.extrapolation for error in errors)
    table.add_row(title, f"{energy:+.2f}", f"{1e3 * np.sqrt(squares.mean()):.0f}", f"{extrapolation:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("labels", type=Path)
    parser.add_argument("--model", default="asio2-minimal")
    options = parser.parse_args()
    names = sorted(
        (name for split in read_splits(options.labels).values() for name in split), key=temperature
    )
    structures = (read_structure(options.labels, name) for name in reversed(names))
    errors, failures = evaluate_structures(Engine(options.model), structures)
    table = Table("structure")
    for title in ("energy (meV/atom)", "forces RMSE (meV/Å)", "extrapolation"):
        table.add_column(title, justify="right")
    for error in errors:
        add_row(table, error.name, [error])
    table.add_section()
    for title in CLASSES:
        members = [error for error in errors if class_of(error.name) == title]
        if members:
            add_row(table, f"{title}: {len(members)}", members)
    Console(width=100).print(table)
    for failure in failures:
        print(f"left out: {failure}")
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()

"""``mlh-driver predict``"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from mlh_driver.cli.options import JsonOption, build_engine, with_engine_options
from mlh_driver.engine_settings import EngineSettings

if TYPE_CHECKING:
    from mlh_driver.results import Results
    from mlh_driver.system import System

UNITS = {"extrapolation": "", "charge_deviation": "e"}
"""Of the observables that are no energies."""


@with_engine_options
def predict(
    structure: Annotated[Path, typer.Argument(help="Any periodic structure that ASE reads.")],
    settings: EngineSettings,
    as_json: JsonOption = False,
) -> None:
    """Energy, forces, stress, gap, charges and timings of one structure.

    Example: [bold]mlh-driver predict glass.cif --model asio2-minimal[/]
    """
    system = read_system(structure)
    engine = build_engine(settings)
    results = engine.compute(system)
    if as_json:
        typer.echo(json.dumps(_report(system, results), indent=2))
    else:
        _print(system, results)


def read_system(path: Path) -> System:
    """Read a structure with ASE; raises InputError when the file is missing or unreadable."""
    import ase.io
    from ase import Atoms

    from mlh_driver.errors import InputError, reason
    from mlh_driver.system import System

    try:
        atoms = ase.io.read(path, index=-1)
    except Exception as error:  # ASE raises anything, depending on the format
        raise InputError(f"cannot read a structure from {path}: {reason(error)}") from error
    if not isinstance(atoms, Atoms):
        raise InputError(f"{path} names several structures; name one of them, such as FILE@0")
    return System.from_ase(atoms)


def _report(system: System, results: Results) -> dict[str, Any]:
    return {
        "n_atoms": len(system),
        "energy": results.energy,
        "free_energy": results.free_energy,
        "forces_norm": float(np.linalg.norm(results.forces)),
        "forces_max": float(np.linalg.norm(results.forces, axis=1).max()),
        "forces": results.forces.tolist(),
        "stress": results.stress.tolist(),
        "energies": results.energies.tolist(),
        "charges": results.charges.tolist(),
        **results.observables(),
        "repeats": results.repeats,
        "doubts": results.doubts(),
        "timings": results.timings,
    }


def _print(system: System, results: Results) -> None:
    from ase.data import chemical_symbols

    from mlh_driver.constants import GPA_eV_A3

    rows = [
        ("atoms", f"{len(system)}", ""),
        ("energy", f"{results.energy:.6f}", "eV"),
        ("energy per atom", f"{results.energy / len(system):.6f}", "eV"),
        ("forces, norm", f"{np.linalg.norm(results.forces):.4f}", "eV/Å"),
        ("forces, largest", f"{np.linalg.norm(results.forces, axis=1).max():.4f}", "eV/Å"),
        ("pressure", f"{-np.trace(results.stress) / 3 / GPA_eV_A3:.3f}", "GPa"),
    ]
    if results.repeats != (1, 1, 1):
        rows.insert(1, ("narrow cell, repeated", " x ".join(map(str, results.repeats)), ""))
    rows += [
        (name.replace("_", " "), f"{value:.4f}", UNITS.get(name, "eV"))
        for name, value in results.observables().items()
    ]
    for number in np.unique(system.numbers):
        charges = results.charges[system.numbers == number]
        spread = f"{charges.mean():+.3f} ({charges.min():+.3f} ... {charges.max():+.3f})"
        rows.append((f"charge of {chemical_symbols[number]}, mean (range)", spread, "e"))
    rows += [(f"time, {stage}", f"{1e3 * seconds:.1f}", "ms") for stage, seconds in results.timings.items()]
    table = Table(show_header=False)
    for column in ("left", "right", "left"):
        table.add_column(justify=column)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    for doubt in results.doubts().values():
        console.print(f"[yellow]{doubt}; do not trust these numbers without a check against DFT[/]")

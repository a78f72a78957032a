"""``mlh-driver predict``"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mlh_driver.cli.options import JsonOption, build_engine, with_engine_options
from mlh_driver.engine_settings import EngineSettings
from mlh_driver.errors import InputError, MLHError

if TYPE_CHECKING:
    from mlh_driver.results import Results
    from mlh_driver.system import System

UNITS = {"extrapolation": "", "charge_deviation": "e"}
"""Of the observables that are no energies."""


@with_engine_options
def predict(
    structures: Annotated[
        list[Path], typer.Argument(help="Periodic structures in any format that ASE reads.")
    ],
    settings: EngineSettings,
    every_frame: Annotated[
        bool, typer.Option("--all", help="Every frame of a file, not only its last one.")
    ] = False,
    file_format: Annotated[
        str | None, typer.Option("--format", help="ASE's name of the format, where the file does not tell.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Extended XYZ to write, with all results and those of each atom."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Energy, forces, stress, gap and charges of structures.

    Of several, one that the model cannot compute is named, and left out; the exit status is then not zero.

    Example: [bold]mlh-driver predict glass.cif quench.lammpstrj --out results.xyz[/]
    """
    from mlh_driver.structures import read_frames
    from mlh_driver.system import System

    if out is not None:
        _check_output(out, structures)
    frames = read_frames(structures, file_format, last_only=not every_frame)
    engine = build_engine(settings)
    systems: dict[str, System] = {}
    computed: dict[str, Results] = {}
    left_out: list[str] = []
    for name, atoms in frames.items():
        try:
            systems[name] = System.from_ase(atoms)
            computed[name] = engine.compute(systems[name])
        except MLHError as error:
            if len(frames) == 1:
                raise
            left_out.append(f"{name}: {error}")
            continue
        if not as_json and len(frames) > 1:
            _print_line(name, systems[name], computed[name])
    if out is not None and computed:
        _write(out, systems, computed)
    if as_json:
        reports = [{"name": name} | _report(systems[name], computed[name]) for name in computed]
        content = reports[0] if len(frames) == 1 else reports
        typer.echo(json.dumps(content, indent=2, allow_nan=False))
    elif len(frames) == 1:
        for name, system in systems.items():
            _print(system, computed[name])
    for failure in left_out:
        typer.echo(f"left out: {failure}", err=True)
    if left_out:
        raise typer.Exit(1)


def _check_output(out: Path, structures: list[Path]) -> None:
    """Raises InputError, before hours of work, for a file that cannot be written or is one of the input."""
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out.resolve() in [path.resolve() for path in structures]:
        raise InputError(f"--out {out} is one of the structures; name another file")


def _print_line(name: str, system: System, results: Results) -> None:
    """One line for one of many structures."""
    doubts = "; ".join(results.doubts().values())
    Console(soft_wrap=True).print(
        f"{escape(name)}: {len(system)} atoms, {results.energy:.6f} eV, "
        f"largest force {results.largest_force:.3f} eV/Å, "
        f"gap {results.band_gap:.3f} eV, extrapolation {results.extrapolation:.2f}"
        + (f" [yellow]{doubts}[/]" if doubts else ""),
        highlight=False,
    )


def _write(path: Path, systems: dict[str, System], computed: dict[str, Results]) -> None:
    """Extended XYZ with ASE's results, the observables in ``info`` and what each atom has in ``arrays``."""
    import ase.io

    from mlh_driver.interfaces.ase import labelled_atoms

    frames = [labelled_atoms(systems[name].to_ase(), results) for name, results in computed.items()]
    for atoms, name in zip(frames, computed, strict=True):
        atoms.info["name"] = name
    ase.io.write(path, frames, format="extxyz")


def _report(system: System, results: Results) -> dict[str, Any]:
    return {
        "n_atoms": len(system),
        "energy": results.energy,
        "free_energy": results.free_energy,
        "forces_norm": float(np.linalg.norm(results.forces)),
        "forces_max": results.largest_force,
        "forces": results.forces.tolist(),
        "stress": results.stress.tolist(),
        "energies": results.energies.tolist(),
        "charges": results.charges.tolist(),
        **{name: x if np.isfinite(x) else None for name, x in results.observables().items()},
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
        ("forces, largest", f"{results.largest_force:.4f}", "eV/Å"),
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

"""``mlh-driver predict``"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import numpy as np
import typer
from rich.table import Table
from rich.text import Text

from mlh_driver.cli import consoles
from mlh_driver.cli.options import (
    ElementsOption,
    FormatOption,
    JsonOption,
    build_engine,
    with_engine_options,
    word_list,
)
from mlh_driver.engine_settings import EngineSettings
from mlh_driver.errors import InputError, MLHError
from mlh_driver.files import replacing

if TYPE_CHECKING:
    from ase import Atoms

    from mlh_driver.results import Results
    from mlh_driver.system import System

EXTENDED_XYZ = (".xyz", ".extxyz")

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
    file_format: FormatOption = None,
    elements: ElementsOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Extended XYZ to write, with all results and those of each atom."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Energy, forces, stress, gap and charges of structures.

    Of several, one that cannot be read or computed is named, and left out; the exit status is then not zero.
    What is finished when the command is interrupted is kept in the file of [bold]--out[/].

    Example: [bold]mlh-driver predict glass.cif quench.lammpstrj --out results.xyz[/]
    """
    from mlh_driver.runtime import sigterm_interrupts
    from mlh_driver.structures import read_frames

    left_out: list[str] = []
    reports: list[dict[str, Any]] = []
    try:
        with sigterm_interrupts(), _results_file(out, structures) as file:
            unread = left_out if len(structures) > 1 else None
            frames = read_frames(structures, file_format, not every_frame, word_list(elements), unread)
            file.expected, is_one = len(frames), len(frames) == 1 and not left_out
            for name, system, results in _computed(frames, settings, None if is_one else left_out):
                file.add(name, system, results)
                if as_json:
                    reports.append({"name": name} | _report(system, results))
                elif is_one:
                    _print(system, results)
                else:
                    _print_line(name, system, results)
            if as_json:
                typer.echo(json.dumps(reports, indent=2, allow_nan=False))
            if not file.count:
                raise typer.Exit(1)  # and leave the file as it was
    finally:
        for failure in left_out:
            typer.echo(f"left out: {failure}", err=True)
    if left_out:
        raise typer.Exit(1)


def _computed(
    frames: dict[str, Atoms], settings: EngineSettings, left_out: list[str] | None
) -> Iterator[tuple[str, System, Results]]:
    """Frames with their results; what is wrong with others goes to ``left_out``, or is raised without it."""
    from mlh_driver.system import System

    if not frames:
        return
    engine = build_engine(settings)
    for name, atoms in frames.items():
        try:
            system = System.from_ase(atoms)
            results = engine.compute(system)
        except MLHError as error:
            if left_out is None:
                raise
            left_out.append(f"{name}: {error}")
            continue
        yield name, system, results


class _ResultsFile:
    """Extended XYZ, which is written frame by frame; without a file, frames are only counted.

    expected: how many frames there will be
    """

    def __init__(self, file: TextIO | None) -> None:
        self._file, self._end = file, 0
        self.count = self.expected = 0

    def add(self, name: str, system: System, results: Results) -> None:
        """ASE's results, the observables in ``info`` and what each atom has in ``arrays``."""
        import ase.io

        from mlh_driver.interfaces.ase import labelled_atoms

        if self._file is not None:
            atoms = labelled_atoms(system.to_ase(), results)
            atoms.info["name"] = name
            ase.io.write(self._file, atoms, format="extxyz")
            self._file.flush()
            self._end = self._file.tell()
        self.count += 1

    def end(self) -> None:
        """Leave out a frame that is written in part."""
        if self._file is not None:
            self._file.seek(self._end)
            self._file.truncate()


@contextmanager
def _results_file(out: Path | None, structures: list[Path]) -> Iterator[_ResultsFile]:
    """A file that takes the place of ``out`` when this block ends or, with its frames, is interrupted.

    Raises InputError, before hours of work, for a file that cannot be written or is one of the input.
    """
    if out is None:
        yield _ResultsFile(None)
        return
    _check_output(out, structures)
    with replacing(out) as partial, _opened(partial, out) as stream:
        file = _ResultsFile(stream)
        interruption: BaseException | None = None
        try:
            yield file
        except BaseException as error:  # whatever it is, the finished frames are hours of work
            if not file.count:
                raise
            file.end()
            interruption = error
    if interruption is not None:
        typer.echo(f"interrupted: wrote {file.count} of {file.expected} structures to {out}", err=True)
        raise interruption


def _opened(partial: Path, out: Path) -> TextIO:
    try:
        return partial.open("w")
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror}; name another file") from error


def _check_output(out: Path, structures: list[Path]) -> None:
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; name a file in it")
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out.suffix not in EXTENDED_XYZ:
        raise InputError(
            f"--out {out}: what is written is extended XYZ, the format that holds all results; name a file "
            f"that ends in {' or '.join(EXTENDED_XYZ)}"
        )
    if out.resolve() in [path.resolve() for path in structures]:
        raise InputError(f"--out {out} is one of the structures; name another file")


def _print_line(name: str, system: System, results: Results) -> None:
    """One line for one of many structures."""
    line = (
        f"{name}: {len(system)} atoms, {results.energy:.6f} eV, "
        f"largest force {results.largest_force:.3f} eV/Å, "
        f"gap {results.band_gap:.3f} eV, extrapolation {results.extrapolation:.2f}"
    )
    doubts = Text("; ".join(results.doubts().values()), style="yellow")
    consoles.for_results().print(line, *([doubts] if doubts else []))


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
    console = consoles.for_results()
    console.print(table)
    for doubt in results.doubts().values():
        console.print(f"{doubt}; do not trust these numbers without a check against DFT", style="yellow")

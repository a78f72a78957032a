"""``mlh-driver convert``"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlh_driver.cli import consoles
from mlh_driver.errors import InputError

if TYPE_CHECKING:
    from mlh_driver.data import LabelledStructure


def convert(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Files with energies and forces (extended XYZ, OUTCAR), input files (.fdf) of finished "
            "SIESTA runs, folders of .npz files, or other data sets (.h5)."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Data set (HDF5) to make or to add to.")],
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            help="Code, functional, basis: equal for energies that compare. Data sets have one of their own.",
        ),
    ] = None,
    energy_key: Annotated[
        str | None, typer.Option("--energy-key", help="Where the energy stands, such as REF_energy.")
    ] = None,
    forces_key: Annotated[
        str | None, typer.Option("--forces-key", help="Where the forces stand, such as REF_forces.")
    ] = None,
    stress_key: Annotated[
        str | None,
        typer.Option(
            "--stress-key", help="Where the stress stands, in eV/Å^3; left out with --energy-key alone."
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Split of files without one of their own.")] = "train",
) -> None:
    """Add reference data of your own, in eV and Å, to a data set, or one data set to another.

    Structures that the data set holds already are skipped: the command goes on after an interruption.

    Example: [bold]mlh-driver convert frames.extxyz --reference "VASP PBE 520 eV" --out data.h5[/]
    """
    from mlh_driver.data import hdf5
    from mlh_driver.data.importers import described
    from mlh_driver.reference.units import UNITS_eV, energy_unit

    labels, n_held = hdf5.append_missing(
        out,
        _of_one_unit(_labels(sources, split, (energy_key, forces_key, stress_key)), out),
        _reference(sources, reference),
    )
    console = consoles.for_messages()
    console.print(described(labels))
    if (unit := energy_unit(labels)) not in (None, "eV"):
        console.print(
            f"warning: {_energy(labels)} looks like {unit}, not eV: it is nearly that of the isolated atoms "
            f"in {unit}. If so, multiply energies by {UNITS_eV[unit]:.6f}, and store them by another --out"
        )
    were_there = f", {n_held} were there already" if n_held else ""
    console.print(f"added to {out}{were_there}; energies must be in eV and forces in eV/Å")


def _of_one_unit(
    labels: Iterator[tuple[LabelledStructure, str]], out: Path
) -> Iterator[tuple[LabelledStructure, str]]:
    """The same. Raises InputError at one whose energy is in another unit than those that are there."""
    from mlh_driver.data import hdf5
    from mlh_driver.reference.units import energy_unit

    names = hdf5.read_names(out)[:1] if out.exists() else []
    unit = energy_unit([hdf5.read_structure(out, name) for name in names]) if names else None
    for label, split in labels:
        if unit and (own := energy_unit([label])) not in (None, unit):
            raise InputError(
                f"{label.name!r} has {_energy([label])}, which looks like {own}, and {out} has its energies "
                f"in {unit}; convert them to {unit} first"
            )
        yield label, split


def _energy(labels: list[LabelledStructure]) -> str:
    mean = sum(label.energy for label in labels) / sum(len(label.system) for label in labels)
    return f"an energy of {mean:.3f} per atom"


def _reference(sources: list[Path], named: str | None) -> dict[str, Any]:
    """The one that is named, or that of the data sets where nothing else is added."""
    from mlh_driver.data import hdf5

    data_sets = _data_sets(sources)
    if named is None and len(data_sets) == len(sources):
        reference = hdf5.read_reference(data_sets[0])
    elif named is None or not named.strip():
        raise InputError(
            "there is no --reference: it tells methods apart, whose energies do not compare; name code, "
            'functional and basis, such as --reference "VASP PBE 520 eV"'
        )
    else:
        reference = {"description": named}
    for path in data_sets:
        hdf5.check_reference(path, reference)
    return reference


def _data_sets(sources: list[Path]) -> list[Path]:
    return [path for path in sources if path.suffix in (".h5", ".hdf5")]


def _labels(
    sources: list[Path], split: str, keys: tuple[str | None, str | None, str | None]
) -> Iterator[tuple[LabelledStructure, str]]:
    """Structures with their splits, read when their turn comes."""
    from mlh_driver.data import hdf5, npz
    from mlh_driver.data.importers import from_ase_files
    from mlh_driver.reference.siesta import SUFFIXES, from_siesta_run

    folders = [path for path in sources if path.is_dir()]
    runs = [path for path in sources if path.suffix in SUFFIXES]
    data_sets = _data_sets(sources)
    files = [path for path in sources if path not in folders + runs + data_sets]
    for label in chain(from_ase_files(files, *keys), map(from_siesta_run, runs)):
        yield label, split
    for path in data_sets:
        for name, own_split in hdf5.splits_by_name(path).items():
            yield hdf5.read_structure(path, name), own_split
    for folder in folders:
        for own_split, names in npz.read_splits(folder, otherwise=split).items():
            for name in names:
                yield npz.read_structure(folder, name), own_split

"""``mlh-driver convert``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def convert(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Files with energies and forces (extended XYZ, OUTCAR), input files (.fdf) of finished "
            "SIESTA runs, or folders of .npz files."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Data set (HDF5) to make or to add to.")],
    reference: Annotated[
        str, typer.Option("--reference", help="Code, functional, basis: equal for energies that compare.")
    ],
    energy_key: Annotated[
        str | None, typer.Option("--energy-key", help="Where the energy stands, such as REF_energy.")
    ] = None,
    forces_key: Annotated[
        str | None, typer.Option("--forces-key", help="Where the forces stand, such as REF_forces.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Split of files without one of their own.")] = "train",
) -> None:
    """Add reference data of your own, in eV and Å, to a data set.

    Example: [bold]mlh-driver convert frames.extxyz --reference "VASP PBE 520 eV" --out data.h5[/]
    """
    from mlh_driver.data import hdf5, npz
    from mlh_driver.data.importers import described, from_ase_files
    from mlh_driver.reference.siesta import SUFFIXES, from_siesta_run

    folders = [path for path in sources if path.is_dir()]
    runs = [path for path in sources if path.suffix in SUFFIXES]
    files = [path for path in sources if path not in folders + runs]
    labels = [
        (label, split)
        for label in [*from_ase_files(files, energy_key, forces_key), *map(from_siesta_run, runs)]
    ]
    for folder in folders:
        for own_split, names in npz.read_splits(folder, otherwise=split).items():
            labels += [(npz.read_structure(folder, name), own_split) for name in names]
    hdf5.append_all(out, labels, {"description": reference})
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(described([label for label, _ in labels]))
    console.print(f"added to {out}; energies must be in eV and forces in eV/Å")

"""``mlh-driver label``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlh_driver.cli import consoles
from mlh_driver.cli.options import ReferenceCode


@consoles.resumable
def label(
    structures: Annotated[list[Path], typer.Argument(help="Structures in any format that ASE reads.")],
    out: Annotated[Path, typer.Option("--out", help="Data set (HDF5) to make or to add to.")],
    reference: Annotated[
        ReferenceCode, typer.Option("--reference", help="pyscf: from pip; cp2k: cp2k.psmp in PATH, faster.")
    ] = ReferenceCode.pyscf,
    split: Annotated[str, typer.Option("--split", help="Split that the structures belong to.")] = "train",
    keep_full: Annotated[
        bool, typer.Option("--full-hamiltonian", help="Also store H in the full basis (3 MB per 96 atoms).")
    ] = False,
    draft: Annotated[
        bool, typer.Option("--draft", help="Coarse grids: for Hamiltonians only, faster.")
    ] = False,
    electronic_temperature: Annotated[
        float,
        typer.Option(
            "--electronic-temperature",
            metavar="K",
            help="Fermi-Dirac occupations at this temperature, for melts; 0: closed shells.",
        ),
    ] = 0.0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the reference code.")] = 1,
) -> None:
    """Label structures with DFT (PBE): energy, forces, stress (CP2K only), Hamiltonian and levels of each.

    Structures that the data set holds already are skipped: the command goes on after an interruption. What
    does not converge is reported and left out; the exit status is 1 then. Structures with a small gap, as in
    melts, need an electronic temperature of about that of the atoms; energies are free energies then, and
    the temperature is stored with each structure. Training learns nothing but the Hamiltonian from a data set
    of drafts with [bold]learn = "hamiltonian"[/] in its section.

    Example: [bold]mlh-driver label frames.xyz --reference cp2k --out data.h5[/]
    """
    from mlh_driver.reference import label_into, make_labeler
    from mlh_driver.structures import read_frames

    console = consoles.for_messages()
    labeler = make_labeler(reference.value, threads, draft, electronic_temperature)
    failed = label_into(out, read_frames(structures), labeler, split, console.print, keep_full=keep_full)
    if failed:
        console.print(f"left out: {', '.join(failed)}")
        raise typer.Exit(1)

"""``mlh-driver examples``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def examples(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to copy to; made if need be.")],
) -> None:
    """Copy the inputs for LAMMPS and i-PI and the examples for Python into a folder.

    Nothing is overwritten. The commands of the documentation work in that folder.

    Example: [bold]mlh-driver examples .[/]
    """
    from mlh_driver.shipped import copy_examples

    for copied in copy_examples(folder):
        typer.echo(copied)

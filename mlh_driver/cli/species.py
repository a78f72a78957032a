"""``mlh-driver species``"""

from __future__ import annotations

from typing import Annotated

import typer


def species(symbols: Annotated[list[str], typer.Argument(help="Chemical symbols.")]) -> None:
    """Print the species sections of a training file: minimal shells, electrons, isolated-atom energies (PBE).

    The energies go with labels by 'mlh-driver label'; with those of another code, use its isolated atoms.

    Example: [bold]mlh-driver species H O >> train.toml[/]
    """
    from mlh_driver.reference.atoms import isolated_atom

    for section in [isolated_atom(symbol).toml() for symbol in dict.fromkeys(symbols)]:  # all or nothing
        typer.echo(section)

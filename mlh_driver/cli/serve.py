"""``mlh-driver serve``: one warm model for several MD engines."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mlh_driver.cli import consoles
from mlh_driver.cli.options import Engines, SecretOption, Serving, with_engine_options, with_serving_options
from mlh_driver.engine_settings import EngineSettings
from mlh_driver.errors import InputError


@with_engine_options
@with_serving_options
def serve(
    settings: EngineSettings,
    serving: Serving,
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
    secret_file: SecretOption = None,
    ranks: Annotated[
        int,
        typer.Option(
            "--ranks",
            min=1,
            metavar="N",
            help="Spread each structure over N processes of MPI, for large ones.",
        ),
    ] = 1,
) -> None:
    """Keep a model loaded and serve several MD engines at once, until Ctrl-C or SIGTERM.

    MD engines dial in and speak the i-PI protocol from i-PI's side, as `mlh-driver lammps --server` does.
    Over several machines: `mpiexec -n N mlh-driver serve ...`, without --ranks; the first process listens.

    [bold]Example[/]

      mlh-driver serve --unix asio2 --model asio2-minimal &
      mlh-driver lammps -in in.lammps --server unix:asio2
    """
    from mlh_driver.interfaces.sockets.address import Address, listen
    from mlh_driver.interfaces.sockets.secret import secret_for
    from mlh_driver.interfaces.sockets.server import Server
    from mlh_driver.interfaces.sockets.template import Template

    target = Address.from_options(address, port, unix)
    console = consoles.for_results()
    with _engines(settings, serving, console, ranks) as make_engine:  # only the process that listens goes on
        secret = secret_for(target, secret_file)
        elements = Template.read(template) if template else None
        console.print(settings.described())
        with closing(make_engine()) as first:  # what is wrong with the model is said now
            if elements:
                first.check_species(elements.numbers)
        Server(make_engine, elements, console, secret, make_engine.abandon).serve(listen(target))


def _engines(
    settings: EngineSettings, serving: Serving, console: Console, ranks: int
) -> AbstractContextManager[Engines]:
    from mlh_driver.runtime import launched_ranks

    if (launched := launched_ranks()) == 1:
        return serving.engines(settings, console.print, ranks)
    if ranks > 1:
        raise InputError(f"--ranks {ranks} beside {launched} processes of mpiexec; leave one of them out")
    return _in_all_processes(settings, serving, launched)


@contextmanager
def _in_all_processes(settings: EngineSettings, serving: Serving, launched: int) -> Iterator[Engines]:
    """In the first of the processes that mpiexec started; the others compute along, and end in here."""
    from mlh_driver.distributed.ranks import world
    from mlh_driver.distributed.team import Team

    serving.rules()
    ranks = world(launched)
    team = Team(settings, ranks)
    if ranks.rank:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the first one ends, and then all
        team.follow()
        raise typer.Exit
    try:
        yield Engines(lambda: serving.guarded(team.engine()))
    finally:
        team.dismiss()

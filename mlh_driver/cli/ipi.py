"""``mlh-driver ipi``: the client that i-PI asks for forces."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mlh_driver.cli.options import Serving, with_engine_options, with_serving_options
from mlh_driver.engine_settings import EngineSettings


def print_pes_path(wanted: bool) -> None:
    """Print where the PES file for <ffdirect> is, and end."""
    if wanted:
        typer.echo(Path(__file__).parents[1] / "interfaces" / "sockets" / "pes.py")
        raise typer.Exit


@with_engine_options
@with_serving_options
def ipi(
    settings: EngineSettings,
    serving: Serving,
    template: Annotated[
        Path, typer.Option("--template", "-t", help="Structure file with the elements in i-PI's order.")
    ] = Path("init.xyz"),
    unix: Annotated[
        str | None, typer.Option("--unix", "-u", metavar="NAME", help="i-PI's unix <address>, or a path.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", "-p", help="<port> of i-PI's internet socket.")
    ] = None,
    address: Annotated[
        str, typer.Option("--address", "-a", metavar="HOST", help="Where i-PI runs.")
    ] = "localhost",
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", help="How long to wait for i-PI to come up.")
    ] = 120.0,
    reconnect: Annotated[
        bool, typer.Option("--reconnect", help="After a run, stay and wait for the next one at this address.")
    ] = False,
    pes_path: Annotated[
        bool,
        typer.Option(
            "--pes-path",
            callback=print_pes_path,
            is_eager=True,
            help="Print the path of the PES file for <ffdirect> and i-pi-py_driver.",
        ),
    ] = False,
) -> None:
    """Serve energies, forces, stress and observables to a running i-PI.

    Start as many clients as you like, before or after i-PI.

    Exit status: 0 when i-PI was done, 1 when the model failed or i-PI was lost.

    [bold]Example[/]

      i-pi input.xml &
      mlh-driver ipi --unix asio2 --template init.xyz --model asio2-minimal
    """
    from mlh_driver.interfaces.sockets.address import Address
    from mlh_driver.interfaces.sockets.client import run_client
    from mlh_driver.interfaces.sockets.session_log import SessionLog
    from mlh_driver.interfaces.sockets.template import Template

    target = Address.from_options(address, port, unix)
    elements = Template.read(template)
    log = SessionLog(Console())
    log.say(settings.described())
    with serving.engines(settings, log.say) as make_engine, closing(make_engine()) as engine:
        run_client(engine, elements, target, wait_s=wait, reconnect=reconnect, log=log)

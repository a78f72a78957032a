"""The ``mlh-driver`` command: collects the subcommands and turns errors into clear messages."""

from __future__ import annotations

import errno
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from mlh_driver.errors import MLHError

COMMANDS = (
    "info",
    "examples",
    "predict",
    "evaluate",
    "species",
    "label",
    "convert",
    "train",
    "finetune",
    "learn",
    "vacancies",
    "status",
    "report",
    "verify",
    "slurm-script",
    "ipi",
    "lammps",
    "serve",
    "plugin",
    "melt-quench",
    "analyze",
)
"""Each is the function of this name, with ``_`` for ``-``, in the module ``mlh_driver.cli.NAME``, whose
``CONTEXT_SETTINGS``, if there are any, say how options are parsed."""

_NO_FOLDER = "a file is where a folder should be; give another path"
_FORBIDDEN = "you may not do that there; give a path where you may"
_FULL = "make room, and start the command again"
#: What to do about an error of the file system.
REMEDIES = {
    errno.EEXIST: _NO_FOLDER,
    errno.ENOTDIR: _NO_FOLDER,
    errno.EISDIR: "a folder is where a file should be; give another path",
    errno.ENOENT: "paths are relative to the folder where the command was started",
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: _FORBIDDEN,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
}

app = typer.Typer(
    name="mlh-driver",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(version("mlh-driver"))
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Machine-learned Hamiltonians as the force engine of LAMMPS, i-PI and ASE."""


for _name in COMMANDS:
    _function = _name.replace("-", "_")
    _module = import_module(f"mlh_driver.cli.{_function}")
    app.command(_name, context_settings=getattr(_module, "CONTEXT_SETTINGS", None))(
        getattr(_module, _function)
    )


def run() -> None:
    """Entry point: an error of ours, or of the file system, is one message on stderr and exit status 1."""
    try:
        app()
    except (MLHError, OSError) as error:
        message = str(error)
        if isinstance(error, OSError) and error.errno in REMEDIES:
            message += f"; {REMEDIES[error.errno]}"
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(message)}", highlight=False)
        sys.exit(1)

"""``mlh-driver finetune``"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mlh_driver.cli import consoles
from mlh_driver.cli.options import ThreadsOption
from mlh_driver.cli.training_progress import train_to_file


@partial(consoles.resumable, how="with --resume it goes on from the last checkpoint")
def finetune(
    model: Annotated[str, typer.Argument(help="Model to start from, by name or path.")],
    data: Annotated[list[Path], typer.Argument(help="Labelled structures, as of mlh-driver label.")],
    out: Annotated[Path, typer.Option("--out", help="Model file to write.")],
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps, of one structure each.")] = 1000,
    rehearse: Annotated[
        int,
        typer.Option(
            "--rehearse",
            min=0,
            help="Structures of the model's own training that are trained on along, as it predicts them.",
        ),
    ] = 24,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")] = False,
    threads: ThreadsOption = 0,
) -> None:
    """Train a model further on more structures, without losing what it knows.

    It rehearses structures of its first training, which its file holds, and keeps their distances, bounds and
    edges of the training data. Compare both models with [bold]mlh-driver evaluate[/] on data of either kind.

    Example: [bold]mlh-driver finetune asio2-minimal melts.h5 --out melts.pt[/]
    """
    from mlh_driver.errors import InputError
    from mlh_driver.training.finetune import finetune_settings

    if out.exists():
        raise InputError(f"{out} exists; choose another --out, or remove it")
    settings = finetune_settings(model, data, out, steps, rehearse)
    typer.echo(f"energies of the data must be by the method of the model: {settings.reference}", err=True)
    train_to_file(settings, out, resume=resume, threads=threads)

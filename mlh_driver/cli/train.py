"""``mlh-driver train``"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mlh_driver.cli import consoles
from mlh_driver.cli.options import ThreadsOption
from mlh_driver.cli.training_progress import train_to_file


@partial(consoles.resumable, how="with --resume it goes on from the last checkpoint")
def train(
    config: Annotated[Path, typer.Argument(help="Settings as a TOML file.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")] = False,
    threads: ThreadsOption = 0,
) -> None:
    """Train a model on labelled structures; writes NAME.pt, log.jsonl and checkpoints.

    Example: [bold]mlh-driver train train.toml --resume[/]
    """
    from mlh_driver.training.settings import read_settings

    settings = read_settings(config)
    train_to_file(settings, settings.model_path, resume=resume, threads=threads)

"""``mlh-driver train``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mlh_driver.cli.options import ThreadsOption
from mlh_driver.cli.training_progress import training_progress


def train(
    config: Annotated[Path, typer.Argument(help="Settings as a TOML file.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")] = False,
    threads: ThreadsOption = 0,
) -> None:
    """Train a model on labelled structures; writes NAME.pt, log.jsonl and checkpoints.

    Example: [bold]mlh-driver train train.toml --resume[/]
    """
    from mlh_driver.runtime import configure
    from mlh_driver.training.export import make_model
    from mlh_driver.training.settings import read_settings
    from mlh_driver.training.trainer import Trainer

    settings = read_settings(config)
    configure(threads)
    console = Console(stderr=True)
    with training_progress(console) as progress:
        trainer = Trainer(settings, progress)
        network = trainer.run(resume=resume)
    if not trainer.steps_taken:
        console.print(
            "the run had ended, and nothing was trained; to train its model further, start a new run with "
            f'start_from = "{settings.output / settings.name}.pt" in another output'
        )
    path = settings.output / f"{settings.name}.pt"
    make_model(settings, network, trainer.data).save(path)
    console.print(f"model written to {path}; look at it with: mlh-driver evaluate DATA --model {path}")

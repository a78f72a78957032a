"""``mlh-driver finetune``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mlh_driver.cli.options import ThreadsOption
from mlh_driver.cli.training_progress import training_progress


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
    from mlh_driver.runtime import configure
    from mlh_driver.training.export import make_model
    from mlh_driver.training.finetune import finetune_settings
    from mlh_driver.training.trainer import Trainer

    if out.exists():
        raise InputError(f"{out} exists; choose another --out, or remove it")
    settings = finetune_settings(model, data, out, steps, rehearse)
    configure(threads)
    console = Console(stderr=True)
    with training_progress(console) as progress:
        trainer = Trainer(settings, progress)
        if trainer.data.parent is not None and not trainer.data.parent.structures:
            console.print(
                f"{model} holds no structures of its training: the new model will take the new ones for all "
                "that there is (extrapolation), and may forget the others"
            )
        network = trainer.run(resume=resume)
    make_model(settings, network, trainer.data).save(out)
    console.print(f"model written to {out}; look at it with: mlh-driver evaluate DATA --model {out}")

"""``mlh-driver train``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def train(
    config: Annotated[Path, typer.Argument(help="Settings as a TOML file.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")] = False,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to torch.")] = 0,
) -> None:
    """Train a model on labelled structures; writes NAME.pt, log.jsonl and checkpoints.

    Example: [bold]mlh-driver train examples/training/asio2-minimal.toml --resume[/]
    """
    import torch

    from mlh_driver.runtime import use_torch_threads
    from mlh_driver.training.export import make_model
    from mlh_driver.training.settings import read_settings
    from mlh_driver.training.trainer import Trainer

    settings = read_settings(config)
    if threads:
        torch.set_num_threads(threads)
    use_torch_threads()
    console = Console(stderr=True)
    with _bar(console) as bar:
        tasks: dict[str, int] = {}

        def report(stage: str, step: int, steps: int, errors: dict[str, float]) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=steps, errors="")
            text = "  ".join(f"{key} {value:.1f}" for key, value in errors.items() if key != "score")
            bar.update(tasks[stage], completed=step, errors=text)  # type: ignore[arg-type]

        trainer = Trainer(settings, report)
        network = trainer.run(resume=resume)
    path = settings.output / f"{settings.name}.pt"
    make_model(settings, network, trainer.train).save(path)
    console.print(f"model written to {path}; look at it with: mlh-driver evaluate DATA --model {path}")


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[errors]}"),
        console=console,
    )

"""What the commands share that train a model: progress bars, and the way from settings to a model file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from mlh_driver.cli import consoles
from mlh_driver.cli.progress_bars import progress_bars

if TYPE_CHECKING:
    from mlh_driver.training.settings import TrainSettings
    from mlh_driver.training.trainer import TrainingProgress


@contextmanager
def training_progress(console: Console) -> Iterator[TrainingProgress]:
    """A callback for the trainer that draws one bar per stage, with the last validation errors."""
    with progress_bars(console) as draw:

        def show(stage: str, step: int, steps: int, errors: dict[str, float]) -> None:
            text = "  ".join(f"{key} {value:.1f}" for key, value in errors.items() if key != "score")
            draw(stage, stage, step, steps, text)

        yield show


def train_to_file(settings: TrainSettings, path: Path, *, resume: bool, threads: int) -> None:
    """Carry out a training, and write its model."""
    from mlh_driver.runtime import configure
    from mlh_driver.training.export import make_model
    from mlh_driver.training.trainer import Trainer

    configure(threads)
    console = consoles.for_messages()
    with training_progress(console) as progress:
        trainer = Trainer(settings, progress)
        if trainer.data.parent is not None and not trainer.data.parent.structures:
            console.print(
                f"{settings.start_from} holds no structures of its training: the new model will take the new "
                "ones for all that there is (extrapolation), and may forget the others"
            )
        network = trainer.run(resume=resume)
    if not trainer.steps_taken and path.exists():
        console.print(
            "the run had ended, and its model stays as it is; to train it further, start a new run with "
            f'start_from = "{path}" in another output'
        )
        return
    make_model(settings, network, trainer.data).save(path)
    console.print(f"model written to {path}; look at it with: mlh-driver evaluate DATA --model {path}")

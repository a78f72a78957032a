"""Progress bars of a training run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

if TYPE_CHECKING:
    from mlh_driver.training.trainer import Progress


@contextmanager
def training_progress(console: Console) -> Iterator[Progress]:
    """A callback for the trainer that draws one bar per stage, with the last validation errors."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[errors]}"),
    )
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, int] = {}

        def show(stage: str, step: int, steps: int, errors: dict[str, float]) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=steps, errors="")
            text = "  ".join(f"{key} {value:.1f}" for key, value in errors.items() if key != "score")
            bars.update(tasks[stage], total=steps, completed=step, errors=text)  # type: ignore[arg-type]

        yield show

"""The progress bars of long commands."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Show = Callable[[Hashable, str, int, int, str], None]
"""Gets which bar, its title, how much is done, of how much, and what stands behind it."""


@contextmanager
def progress_bars(console: Console, *, width: int = 20, elapsed: bool = False) -> Iterator[Show]:
    """A callback that draws a bar for each stage, from the first call about it on."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=width),
        MofNCompleteColumn(),
        *([TimeElapsedColumn()] if elapsed else []),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[Hashable, TaskID] = {}

        def show(bar: Hashable, title: str, done: int, total: int, note: str) -> None:
            if bar not in tasks:
                tasks[bar] = bars.add_task(title, total=total, note="")
            bars.update(tasks[bar], description=title, total=total, completed=done, note=note)

        yield show

"""Where commands write: what they find to standard output, all else to standard error."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import typer
from rich.console import Console

P = ParamSpec("P")

WIDTH_OF_FILES = 120
"""Columns of a table that goes to a file or a pipe, where rich would take 80 and cut numbers."""


def for_results() -> Console:
    """Standard output: text as it is, without markup; of the width of the terminal, if it is one."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH_OF_FILES
    return console


def for_messages() -> Console:
    """Standard error: text as it is, without markup."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def resumable(
    command: Callable[P, None], how: str = "the same command goes on where it was"
) -> Callable[P, None]:
    """Let a command say at Ctrl-C how its run goes on; ends with 130, as a shell expects."""

    @wraps(command)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            for_messages().print(f"interrupted; {how}")
            raise typer.Exit(130) from None

    return run

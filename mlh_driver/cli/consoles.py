"""Where commands write: what they find to standard output, all else to standard error."""

from __future__ import annotations

import os

from rich.console import Console

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

"""Files that are there as a whole or not at all, and folders for one process at a time."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mlh_driver.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to be written in this block, that takes the place of ``path``; gone if the block fails.

    Of a link it takes the place of what the link leads to.
    """
    path = path.resolve()
    partial = path.with_name(f".partial-{path.name}")
    partial.unlink(missing_ok=True)  # of a process that was killed
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_csv(path: Path, lines: Iterable[Sequence[Any]]) -> None:
    """A table of comma-separated values, the titles in its first line; what is None stays empty."""
    with replacing(path) as partial, open(partial, "w", newline="") as file:
        csv.writer(file).writerows(lines)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep a second process out of a folder; a lock ends with its process, however that ends.

    Raises InputError if another process is in this block.
    """
    try:
        lock = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"another process is at work in {folder}; wait for it, or name another folder"
        ) from None
    with lock:
        yield

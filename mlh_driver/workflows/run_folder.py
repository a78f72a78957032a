"""The folder of a run: one process at a time, and files that are there as a whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mlh_driver.errors import InputError


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep a second process out of a folder; a lock ends with its process, however that ends.

    Raises InputError if another process is in this block.
    """
    try:
        lock = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"another process is at work in {folder}; wait for it, or give another folder by --out"
        ) from None
    with lock:
        yield


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to be written in this block, which then takes the place of ``path``."""
    partial = path.with_name(f".partial-{path.name}")
    partial.unlink(missing_ok=True)  # of a process that was killed
    yield partial
    partial.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write a file that is there as a whole or not at all. Raises ValueError for NaN, which JSON has not."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())

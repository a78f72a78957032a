"""One process at a time in the folder of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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

"""Files that are there as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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

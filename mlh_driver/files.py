"""Files that are there as a whole or not at all, and folders for one process at a time."""

from __future__ import annotations

import csv
import glob
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mlh_driver.errors import InputError

_PARTIAL = ".partial-"
_LEFT_OVER_S = 86400.0


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to be written in this block, that takes the place of ``path``; gone if the block fails.

    Of a link it takes the place of what the link leads to. Where several processes write the same file, each
    has a partial one of its own, and the last one stays.
    """
    path = path.resolve()
    _remove_left_over(path)
    partial = path.with_name(f"{_PARTIAL}{secrets.token_hex(4)}-{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_left_over(path: Path) -> None:
    """Partial files of processes that were killed more than a day ago."""
    for partial in path.parent.glob(f"{_PARTIAL}*-{glob.escape(path.name)}"):
        with suppress(OSError):  # another process may do the same
            if time.time() - partial.stat().st_mtime > _LEFT_OVER_S:
                partial.unlink()


def write_csv(path: Path, lines: Iterable[Sequence[Any]]) -> None:
    """A table of comma-separated values, the titles in its first line; what is None stays empty."""
    with replacing(path) as partial, open(partial, "w", newline="") as file:
        csv.writer(file).writerows(lines)


def write_rows(path: Path, kind: type, rows: Sequence[Any]) -> None:
    """A table of comma-separated values, with a column for each field of the dataclass ``kind``."""
    names = [field.name for field in fields(kind)]
    write_csv(path, [names, *([getattr(row, name) for name in names] for row in rows)])


def write_json(path: Path, content: Any) -> None:
    """Write a file that is there as a whole or not at all. Raises ValueError for NaN, which JSON has not."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def is_running(process: int) -> bool:
    """Whether this machine has a process of this number, whosever it is."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


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

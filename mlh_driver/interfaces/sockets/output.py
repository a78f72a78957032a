"""Output of i-PI, read back."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mlh_driver.system import Array

_COLUMN = re.compile(r"(?m)^# column\s+(\d+)\s+--> (\w+)")


def read_properties(path: Path) -> dict[str, Array]:
    """Columns of a file of properties, by their names there; of one without numbers, all are empty.

    Columns of several numbers are left out, and so is a line cut off by the end of the program. A file of
    something else has none.
    """
    text = path.read_text(errors="replace")
    titles = _COLUMN.findall(text)
    rows = read_table(text) if titles else np.empty((0, 0))
    return {name: rows[:, int(k) - 1] if len(rows) else np.empty(0) for k, name in titles}


def read_table(text: str) -> Array:
    """(rows, columns) numbers of the whole lines without a ``#``."""
    lines = [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]
    rows = [[float(word) for word in words] for words in lines if words and not words[0].startswith("#")]
    return np.array(rows).reshape(len(rows), -1) if rows else np.empty((0, 0))

"""The folder of a run: one set of settings, and files that are whole or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mlh_driver.errors import InputError
from mlh_driver.files import replacing, write_csv

SETTINGS = "settings.json"
"""What a single run was asked for; a campaign of runs has another file."""


def write_json(path: Path, content: Any) -> None:
    """Write a file that is there as a whole or not at all. Raises ValueError for NaN, which JSON has not."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_rows(path: Path, kind: type, rows: Sequence[Any]) -> None:
    """A table of comma-separated values, with a column for each field of the dataclass ``kind``."""
    names = [field.name for field in fields(kind)]
    write_csv(path, [names, *([getattr(row, name) for name in names] for row in rows)])


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def check_same(
    folder: Path,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    remedy: str = "name another folder by --out",
) -> None:
    """Raise InputError that names what differs between the settings in a folder and those asked for now.

    remedy: for those who want the settings of now
    """
    old, new = flattened(before), flattened(now)
    changed = [
        f"{name} is {old.get(name)} there and {new.get(name)} now"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
    if changed:
        raise InputError(
            f"{folder} holds a run with other settings: {'; '.join(changed)}. Give the same ones to go on "
            f"with it, or {remedy}"
        )


def flattened(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Settings of settings by one name each."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= flattened(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
    return flat

"""The folder of a run has one set of settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlh_driver.errors import InputError

SETTINGS = "settings.json"
"""What a single run was asked for; a campaign of runs has another file."""


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

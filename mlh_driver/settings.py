"""Settings files: TOML, checked by pydantic; unknown keys are an error."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mlh_driver.errors import InputError


class Settings(BaseModel):
    """Base of all settings: immutable, without unknown keys, with finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


AnySettings = TypeVar("AnySettings", bound=Settings)


def read_toml(path: Path, kind: type[AnySettings]) -> AnySettings:
    """Read a settings file; raises InputError with all of its problems."""
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, of numbers with thousands of digits
        raise InputError(f"{path} is not valid TOML: {error}") from error
    return validated(kind, values, str(path))


def validated(kind: type[AnySettings], values: Mapping[str, Any], source: str) -> AnySettings:
    """Settings from their values; raises InputError with all problems, after where they come from."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = [(*e["loc"], _problem(e["msg"], e["input"])) for e in error.errors()]
        raise InputError(f"{source}: {'; '.join(_joined(*each) for each in problems)}") from error


def _problem(message: str, given: object) -> str:
    """Pydantic's words, with the value where they are its own; ours name it."""
    ours = message.removeprefix("Value error, ")
    return ours if ours != message or not isinstance(given, str | int | float) else f"{ours}, not {given!r}"


def _joined(*problem: str | int) -> str:
    """The place of a problem, which one of the settings as a whole has not, and what it is."""
    *place, message = map(str, problem)
    return f"{'.'.join(place)}: {message}" if place else message

"""Settings files: TOML, checked by pydantic; unknown keys are an error."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mlh_driver.errors import InputError


class Settings(BaseModel):
    """Base of all settings: immutable, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


AnySettings = TypeVar("AnySettings", bound=Settings)


def read_toml(path: Path, kind: type[AnySettings]) -> AnySettings:
    """Read a settings file; raises InputError with all of its problems."""
    try:
        return kind.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InputError(f"{path}: {problems}") from error
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, of numbers with thousands of digits
        raise InputError(f"{path} is not valid TOML: {error}") from error

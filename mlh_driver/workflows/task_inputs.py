"""What tasks get of engines and structures: JSON, since they may run in other processes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ase import Atoms

from mlh_driver.engine import Engine
from mlh_driver.engine_settings import EngineSettings
from mlh_driver.errors import InputError
from mlh_driver.model_files import model_digest


def engine_fields(engine: EngineSettings) -> dict[str, Any]:
    """Those that results depend on; a model file by full path, since workers may run elsewhere, and digest.

    Raises InputError for a model without a name or path.
    """
    if not isinstance(engine.model, str | Path):
        raise InputError(f"model is {engine.model!r}; give its name or path, for tasks load it by that")
    fields = {name: value for name, value in vars(engine.with_full_path()).items() if name != "threads"}
    if Path(fields["model"]).is_file():
        fields["digest"] = model_digest(fields["model"])
    return fields


def engine_for(fields: Mapping[str, Any]) -> Engine:
    """The engine with these fields of EngineSettings; a process keeps the last one, with its model.

    Raises InputError if the model file is not the one that the campaign began with.
    """
    settings = EngineSettings(**{name: value for name, value in fields.items() if name != "digest"})
    return _engine(settings, fields.get("digest"))


@lru_cache(maxsize=1)
def _engine(settings: EngineSettings, digest: str | None) -> Engine:
    if digest is not None and (found := model_digest(str(settings.model))) != digest:
        raise InputError(
            f"the model file {settings.model} has changed since the campaign began ({found}, then {digest}); "
            "put the old one back, or begin a campaign in a new folder"
        )
    return Engine(**vars(settings))


def atoms_fields(atoms: Atoms) -> dict[str, Any]:
    """Elements, positions and cell."""
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
    }


def atoms_from(fields: Mapping[str, Any]) -> Atoms:
    """The periodic structure of :func:`atoms_fields`."""
    return Atoms(fields["numbers"], positions=fields["positions"], cell=fields["cell"], pbc=True)

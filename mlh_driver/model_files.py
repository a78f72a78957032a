"""Where model files are, and which one exactly. Without torch, for processes that load no model."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mlh_driver.errors import ModelFileError

SHIPPED_MODELS = Path(__file__).parent / "models"
DIGITS = 12


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.stem for path in SHIPPED_MODELS.glob("*.pt"))


def find_model(name: str | Path) -> Path:
    """The file of a shipped model (by name) or of any model (by path); raises ModelFileError without one."""
    path = Path(name)
    shipped = SHIPPED_MODELS / f"{name}.pt"
    if path.is_file():
        return path
    if shipped.is_file():
        return shipped
    raise ModelFileError(
        f"there is no model {str(name)!r}: it is neither a file nor one of the shipped models "
        f"({', '.join(shipped_models()) or 'none'})"
    )


def model_digest(name: str | Path) -> str:
    """The first digits of the SHA-256 of a model file: the same digits, the same weights."""
    return hashlib.sha256(find_model(name).read_bytes()).hexdigest()[:DIGITS]

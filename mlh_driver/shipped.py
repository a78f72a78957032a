"""Inputs and examples that come with the package, for ``mlh-driver examples``.

In the repository they lie beside the package; ``pyproject.toml`` puts them into the wheel, as
``mlh_driver/shipped_files``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from mlh_driver.errors import InputError

FOLDERS = ("lammps_inputs", "ipi_inputs", "examples")
_PACKAGE = Path(__file__).parent
#: What the wheel leaves out, too: large data sets and what needs them.
_LEFT_OUT = shutil.ignore_patterns("benchmarks", "comparison", "training", "__pycache__")


def shipped_folder() -> Path:
    """Where the folders of inputs and examples are."""
    installed = _PACKAGE / "shipped_files"
    return installed if installed.is_dir() else _PACKAGE.parent


def copy_examples(folder: Path) -> list[Path]:
    """Copy inputs and examples into a folder, which is made if need be; returns the new folders.

    Raises InputError, before anything is copied, if one of them is there already.
    """
    targets = [folder / name for name in FOLDERS]
    if taken := [str(target) for target in targets if target.exists()]:
        raise InputError(f"{', '.join(taken)} exists already; name another folder")
    try:
        for target in targets:
            shutil.copytree(shipped_folder() / target.name, target, ignore=_LEFT_OUT)
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {error}; name a folder that can be written") from error
    return targets

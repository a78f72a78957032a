"""Relaxation at fixed cell that leaves its way behind, and goes on from there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.optimize import LBFGS

from mlh_driver.errors import MLHError
from mlh_driver.files import replacing
from mlh_driver.force_engine import ForceEngine
from mlh_driver.interfaces.ase import MLHCalculator, labelled_atoms
from mlh_driver.results import Results

CHECKPOINT = "relaxation.traj"
RELAXED = "relaxed.extxyz"


@dataclass(frozen=True)
class Relaxed:
    """Atoms at a minimum, the results there, and the number of steps that led to it."""

    atoms: Atoms
    results: Results
    steps: int

    def write(self, path: Path, **info: Any) -> None:
        """The atoms with all results and ``info``, as extended XYZ."""
        labelled = labelled_atoms(self.atoms, self.results)
        labelled.info |= info
        with replacing(path) as partial:
            ase.io.write(partial, labelled, format="extxyz")


def relax(
    atoms: Atoms,
    engine: ForceEngine,
    folder: Path,
    fmax_eV_A: float,
    steps: int,
    watch: Callable[[int, Results], None] = lambda step, results: None,
) -> Relaxed:
    """Move the atoms to a minimum of the energy, by L-BFGS, until no force is above ``fmax_eV_A``.

    All steps are in ``relaxation.traj`` in ``folder``. If there are steps of a run before, it goes on from
    the last of them as if it had not been interrupted. ``watch`` gets each step and the results there.
    Raises MLHError if ``steps`` steps are not enough.
    """
    atoms, calculator = atoms.copy(), MLHCalculator(engine=engine)
    atoms.calc = calculator

    def show(step: int) -> None:
        assert calculator.last_results is not None
        watch(step, calculator.last_results)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of doubts on the way; those at its end are results
        taken = descend(atoms, folder, fmax_eV_A, steps, show)
    assert calculator.last_results is not None
    return Relaxed(atoms, calculator.last_results, taken)


def descend(
    atoms: Atoms, folder: Path, fmax_eV_A: float, steps: int, watch: Callable[[int], None] = lambda step: None
) -> int:
    """The relaxation of :func:`relax` with the atoms' own calculator; returns the number of steps."""
    path = folder / CHECKPOINT
    before = _frames(path)
    if before:
        atoms.positions = before[-1].positions
    optimizer = LBFGS(
        atoms,
        logfile=None,  # type: ignore[arg-type]
        trajectory=str(path),
        append_trajectory=bool(before),
    )
    optimizer.attach(lambda: watch(optimizer.nsteps))
    with optimizer:
        if before:
            optimizer.replay_trajectory(before)
            optimizer.nsteps = len(before) - 1
        if not optimizer.run(fmax=fmax_eV_A, steps=steps):
            largest = np.linalg.norm(atoms.get_forces(), axis=1).max()
            raise MLHError(
                f"the largest force is {largest:.3f} eV/Å after {optimizer.nsteps} steps, above "
                f"{fmax_eV_A}; started again, the relaxation goes on from there"
            )
    return optimizer.nsteps


def read_start(folder: Path) -> Atoms | None:
    """Where the relaxation in the folder of a task began; None if there is nothing that can be read."""
    return next(iter(_readable(folder / CHECKPOINT)), None)


def read_last(folder: Path) -> Atoms | None:
    """Where the relaxation in the folder of a task goes on, with energy and forces; None at its start."""
    return next(reversed(_frames(folder / CHECKPOINT)), None)


def read_relaxed(folder: Path) -> Atoms:
    """The minimum in the folder of a task."""
    atoms = ase.io.read(folder / RELAXED)
    assert isinstance(atoms, Atoms)
    return atoms


def _frames(path: Path) -> list[Atoms]:
    """The start and the steps of a run before; none if it was killed before its first step was written.

    A damaged file makes room for another, but is kept: it may be the disk that failed.
    """
    frames = _readable(path)
    if len(frames) == 1:
        path.unlink()
    elif not frames and path.exists():
        path.replace(path.with_suffix(".damaged"))
    return frames if len(frames) > 1 else []


def _readable(path: Path) -> list[Atoms]:
    if not path.exists():
        return []
    try:
        return list(ase.io.read(path, index=":"))
    except Exception:  # a damaged file, for which ASE raises anything
        return []

"""New frames for labels: displaced seeds at first, then runs of an MD engine on the model.

Files of a run: a folder ``run_K`` with its input and what the MD engine writes, ``run_K.xyz`` with the frames
taken, and last of all ``run_K.json``, how it ended. A run with that file is not repeated.
"""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.optimize import LBFGS

from mlh_driver.engine import Engine
from mlh_driver.errors import LimitReached, MLHError
from mlh_driver.files import replacing
from mlh_driver.force_engine import ForceEngine
from mlh_driver.interfaces.ase import MLHCalculator
from mlh_driver.interfaces.lammps.library import LARGEST_SEED
from mlh_driver.learning.runs import LANGEVIN_LOG, run_ipi, run_lammps, run_langevin
from mlh_driver.learning.settings import ExploreSettings
from mlh_driver.learning.thermometer import temperature_K
from mlh_driver.learning.watch import Frame, WatchedEngine
from mlh_driver.model import Model
from mlh_driver.structures import bare
from mlh_driver.system import kinetic_temperature_K

FINISHED = "finished"
RELAXED_eV_A = 0.15
"""Largest force of a relaxed frame: where a melt of 96 atoms is after some hundred steps."""

MOST_RELAXATION_STEPS = 500


def displaced(seed: Atoms, settings: ExploreSettings, rng: np.random.Generator) -> Atoms:
    """A seed with random displacements and a random symmetric strain."""
    atoms = bare(seed)
    strain = settings.strain * rng.normal(size=(3, 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    atoms.positions += settings.rattle_A * rng.normal(size=atoms.positions.shape)
    atoms.info["note"] = f"displaced by {settings.rattle_A} Å and strained by {settings.strain} at random"
    return atoms


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    end:            "finished", or why it ended early
    steps:          how many it came to
    extrapolations: the model's indicator at every step
    """

    end: str
    steps: int
    extrapolations: list[float]

    @classmethod
    def read(cls, path: Path) -> Outcome:
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        with replacing(path) as partial:
            partial.write_text(json.dumps(asdict(self)))

    @property
    def finished(self) -> bool:
        return self.end == FINISHED

    def __str__(self) -> str:
        how = "finished after" if self.finished else "ended at"
        why = "" if self.finished else f", {self.end}"
        largest = f", largest extrapolation {max(self.extrapolations):.2f}" if self.steps else ""
        return f"{how} step {self.steps}{largest}{why}"


def _outcome_file(folder: Path) -> Path:
    return folder.with_suffix(".json")


@dataclass(frozen=True)
class Start:
    """Where a run of a round starts.

    folder:        of the run
    atoms:         seed structure of ASE's dynamics; scripts and inputs have their own
    temperature_K: of ASE's dynamics
    n_frames:      how many are wanted
    seed:          of random numbers, three or so integers
    """

    folder: Path
    atoms: Atoms
    temperature_K: float
    n_frames: int
    seed: tuple[int, ...]


def explore(start: Start, model: Model, settings: ExploreSettings) -> tuple[list[Atoms], Outcome]:
    """Frames of a run in random order, and how it ended; made now, or read where they have been made.

    Where already the start is beyond a limit there is no frame, and a displaced seed takes its place. Raises
    errors of the user's input, which come before the first step.
    """
    frames = start.folder.with_suffix(".xyz")
    if not _outcome_file(start.folder).exists():
        rng = np.random.default_rng(start.seed)
        found, outcome = _run(start, model, settings, rng)
        found = found or [displaced(start.atoms, settings, rng)]
        ase.io.write(frames, [found[k] for k in rng.permutation(len(found))], format="extxyz")
        outcome.write(_outcome_file(start.folder))
    return list(ase.io.iread(frames)), Outcome.read(_outcome_file(start.folder))


def _run(
    start: Start, model: Model, settings: ExploreSettings, rng: np.random.Generator
) -> tuple[list[Atoms], Outcome]:
    engine = Engine(model, electronic_temperature_K=settings.electronic_temperature_K, **settings.engine)
    watch = WatchedEngine(engine, settings)
    end = FINISHED
    try:
        _drive(watch, start, settings, int(rng.integers(1, LARGEST_SEED)))
    except LimitReached as limit:
        end = str(limit)
    except MLHError as error:
        if not watch.steps:
            raise
        end = f"{type(error).__name__}: {error}"
    frames = [_noted(frame, start, watch.steps, settings) for frame in watch.frames(start.n_frames)]
    hot = max(0, len(frames) - settings.relaxed_per_run)
    frames[hot:] = [_relaxed(atoms, engine) for atoms in frames[hot:]]
    return frames, Outcome(end, watch.steps, [round(value, 3) for value in watch.extrapolations])


def _drive(watch: WatchedEngine, start: Start, settings: ExploreSettings, seed: int) -> None:
    """Run the MD engine of the settings, in an empty folder but for copies of its inputs."""
    shutil.rmtree(start.folder, ignore_errors=True)
    start.folder.mkdir()
    source = settings.script or settings.ipi
    if source is None:
        log = start.folder / LANGEVIN_LOG
        run_langevin(watch, bare(start.atoms), start.temperature_K, settings, seed, log)
        return
    for file in source.parent.iterdir():
        if file.is_file():
            shutil.copy(file, start.folder)
    if settings.script:
        run_lammps(watch, start.folder / source.name, settings.variables, seed)
    else:
        run_ipi(watch, start.folder / source.name, seed)


def _relaxed(atoms: Atoms, engine: ForceEngine) -> Atoms:
    """The atoms near the minimum below them, or as they are where the model does not lead to one."""
    relaxed = bare(atoms)
    relaxed.calc = MLHCalculator(engine=engine)
    with warnings.catch_warnings(), LBFGS(relaxed, logfile=None) as optimizer:  # type: ignore[arg-type]
        warnings.simplefilter("ignore", UserWarning)  # doubts are what a label is for
        try:
            found = optimizer.run(fmax=RELAXED_eV_A, steps=MOST_RELAXATION_STEPS)
        except MLHError:
            found = False
    if not found:
        return atoms
    relaxed.calc = None
    relaxed.info["note"] = f"{atoms.info['note']}, then relaxed to {RELAXED_eV_A} eV/Å"
    return relaxed


def _noted(frame: Frame, start: Start, steps: int, settings: ExploreSettings) -> Atoms:
    """The structure, with a note on where it comes from."""
    source = settings.script or settings.ipi
    velocities = frame.system.velocities
    if velocities is not None:
        temperature: float | None = kinetic_temperature_K(velocities, frame.system.numbers)
    else:
        temperature = temperature_K(start.folder, frame.step, steps) if source else start.temperature_K
    parts = [
        source.name if source else "Langevin dynamics",
        f"{start.folder.name}, step {frame.step}",
        *([] if temperature is None else [f"{temperature:.0f} K"]),
        f"extrapolation {frame.extrapolation:.2f}",
    ]
    atoms = frame.system.to_ase()
    atoms.info["note"] = ", ".join(parts)
    return atoms

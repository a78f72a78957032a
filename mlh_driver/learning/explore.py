"""New frames for labels: displaced seeds at first, then dynamics with the model, guided by its indicator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from mlh_driver.errors import MLHError
from mlh_driver.interfaces.ase import MLHCalculator
from mlh_driver.learning.settings import ExploreSettings
from mlh_driver.model import Model

FRICTION_PER_FS = 0.02


def displaced(seed: Atoms, settings: ExploreSettings, rng: np.random.Generator) -> Atoms:
    """A seed with random displacements and a random symmetric strain."""
    atoms = _plain(seed)
    strain = settings.strain * rng.normal(size=(3, 3))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    atoms.positions += settings.rattle_A * rng.normal(size=atoms.positions.shape)
    atoms.info["note"] = f"displaced by {settings.rattle_A} Å and strained by {settings.strain} at random"
    return atoms


@dataclass(frozen=True)
class Frame:
    """A frame of a trajectory, and the model's extrapolation indicator there."""

    atoms: Atoms
    extrapolation: float


def trajectory(
    seed: Atoms,
    model: Model,
    temperature_K: float,
    settings: ExploreSettings,
    rng: np.random.Generator,
) -> Frame:
    """The frame with the highest indicator up to ``settings.stop_at`` of a stretch of Langevin dynamics.

    A displaced seed if there is none, because the seed itself is beyond. Raises StructureError for elements
    that the model does not know.

    The dynamics ends where the indicator exceeds that, or where the model gives up (a collapsed structure has
    no density matrix): what comes later is the invention of the model, and teaches little about the material.
    """
    model.basis.species_index(seed.numbers)
    atoms = _plain(seed)
    atoms.calc = MLHCalculator(model)
    velocities = 2 * temperature_K  # half of it becomes potential energy
    MaxwellBoltzmannDistribution(atoms, temperature_K=velocities, rng=rng)
    dynamics = Langevin(
        atoms,
        settings.timestep_fs * units.fs,
        temperature_K=temperature_K,
        friction=FRICTION_PER_FS / units.fs,
        fixcm=False,
        rng=rng,
    )
    best = Frame(displaced(seed, settings, rng), 0.0)
    for step in range(1, settings.steps + 1):
        try:
            dynamics.run(1)
        except MLHError:
            break
        extrapolation = float(atoms.calc.results["extrapolation"])
        if extrapolation > settings.stop_at:
            break
        if extrapolation > best.extrapolation:
            best = Frame(_plain(atoms), extrapolation)
            best.atoms.info["note"] = (
                f"{step * settings.timestep_fs:g} fs of dynamics at {temperature_K:g} K, "
                f"extrapolation {extrapolation:.2f}"
            )
    return best


def _plain(atoms: Atoms) -> Atoms:
    return Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)

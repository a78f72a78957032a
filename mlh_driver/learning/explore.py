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
    atoms = plain(seed)
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
    atoms = plain(seed)
    atoms.calc = MLHCalculator(model)
    dynamics = langevin(atoms, temperature_K, settings.timestep_fs, rng)
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
            best = Frame(plain(atoms), extrapolation)
            best.atoms.info["note"] = (
                f"{step * settings.timestep_fs:g} fs of dynamics at {temperature_K:g} K, "
                f"extrapolation {extrapolation:.2f}"
            )
    return best


def langevin(atoms: Atoms, temperature_K: float, timestep_fs: float, rng: np.random.Generator) -> Langevin:
    """Dynamics from rest positions: velocities of twice the temperature, half becomes potential energy."""
    MaxwellBoltzmannDistribution(atoms, temperature_K=2 * temperature_K, rng=rng)
    return Langevin(
        atoms,
        timestep_fs * units.fs,
        temperature_K=temperature_K,
        friction=FRICTION_PER_FS / units.fs,
        fixcm=False,
        rng=rng,
    )


def plain(atoms: Atoms) -> Atoms:
    """A copy without calculator, velocities and notes."""
    return Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)

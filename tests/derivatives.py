"""Forces and stress against the energy, by finite differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mlh_driver import Engine, System


def assert_exact_forces(engine: Engine, system: System, step_A: float = 2e-4, rel: float = 1e-6) -> None:
    """Along a random direction of all atoms."""
    direction = np.random.default_rng(1).normal(size=(len(system), 3))

    def energy(x: float) -> float:
        return engine.compute(System(system.numbers, system.positions + x * direction, system.cell)).energy

    exact = -(engine.compute(system).forces * direction).sum()
    assert _derivative(energy, step_A) == pytest.approx(exact, rel=rel)


def assert_exact_stress(engine: Engine, system: System, seed: int = 0) -> None:
    """Along a random symmetric strain."""
    strain = np.random.default_rng(seed).normal(size=(3, 3))
    strain = strain + strain.T

    def energy(x: float) -> float:
        F = np.eye(3) + x * strain
        return engine.compute(System(system.numbers, system.positions @ F, system.cell @ F)).energy

    exact = system.volume * (engine.compute(system).stress * strain).sum()
    assert _derivative(energy, 1e-4) == pytest.approx(exact, rel=1e-6)


def _derivative(energy: Callable[[float], float], step: float) -> float:
    """At zero, by the central difference of fourth order."""
    e = [energy(k * step) for k in (-2, -1, 1, 2)]
    return (e[0] - 8 * e[1] + 8 * e[2] - e[3]) / (12 * step)

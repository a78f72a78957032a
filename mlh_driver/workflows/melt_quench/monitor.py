"""An engine between the model and the MD engine that says how a run goes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from mlh_driver.force_engine import ForceEngine, PassingEngine
from mlh_driver.results import Results
from mlh_driver.system import System, displacements, is_step, kinetic_temperature_K
from mlh_driver.workflows.melt_quench.settings import MeltQuenchSettings

RECENT = 50
"""Steps over which the speed is averaged."""


@dataclass(frozen=True)
class Status:
    """How a run goes, at one of its steps.

    stage:         ``melt``, ``quench``, ``anneal`` or ``relaxation``
    step, steps:   of all stages of the dynamics, or of the relaxation and at most
    temperature_K: None at the first step, and in a relaxation
    steps_per_s:   None at the first step
    """

    stage: str
    step: int
    steps: int
    temperature_K: float | None
    steps_per_s: float | None
    results: Results


RunProgress = Callable[[Status], None]


class Monitor(PassingEngine):
    """Tells how a run gets on; a step is a structure that differs from the one before.

    The temperature is that of the velocities half a step back, from where the atoms were and are: an MD
    engine tells its force engine nothing but positions.

    step: up to here
    """

    def __init__(
        self, engine: ForceEngine, settings: MeltQuenchSettings, first_step: int, progress: RunProgress
    ) -> None:
        super().__init__(engine)
        self._settings, self._progress = settings, progress
        self._last: System | None = None
        self._times: deque[float] = deque(maxlen=RECENT)
        self.step = first_step
        self.temperature_K: float | None = None

    def compute(self, system: System) -> Results:
        """What the engine computes, and raises."""
        self._look_at(system)
        results = super().compute(system)
        self._times.append(time.monotonic())
        settings = self._settings
        self._progress(
            Status(
                settings.stage_at(self.step),
                self.step,
                settings.steps,
                self.temperature_K,
                self._speed(),
                results,
            )
        )
        return results

    def _look_at(self, system: System) -> None:
        """Count the step; stages begin with the structure at which the one before ended."""
        if self._last is not None and is_step(self._last, system):
            self.step += 1
            _, _, moves = displacements(self._last, system)
            self.temperature_K = kinetic_temperature_K(moves / self._settings.timestep_fs, system.numbers)
        self._last = system

    def _speed(self) -> float | None:
        if len(self._times) < 2:
            return None
        return (len(self._times) - 1) / (self._times[-1] - self._times[0])

"""An engine between the model and an MD engine: it ends the run at a limit, and keeps frames on the way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlh_driver.errors import LimitReached, NonFiniteError, SolverError
from mlh_driver.force_engine import ForceEngine, PassingEngine
from mlh_driver.learning.settings import ExploreSettings
from mlh_driver.results import Results
from mlh_driver.system import System, is_step

MOST_FRAMES = 256
"""Frames kept of a run of any length; from there on every other one is dropped."""


@dataclass(frozen=True)
class Frame:
    """A structure on the way, the step at which it came, and the model's indicator there."""

    system: System
    step: int
    extrapolation: float


class WatchedEngine(PassingEngine):
    """Keeps the strangest structures of a run, and ends it at a limit.

    A step is a structure that differs from the one before; the start is step 0. It is no frame: every run of
    a script begins there.

    extrapolations: the indicator at every step
    """

    def __init__(self, engine: ForceEngine, settings: ExploreSettings) -> None:
        super().__init__(engine)
        self._settings = settings
        self._last: System | None = None
        self._strangest: Frame | None = None
        self._kept: list[Frame] = []
        self._stride = settings.apart_steps
        self.extrapolations: list[float] = []

    @property
    def steps(self) -> int:
        """Steps up to here."""
        return len(self.extrapolations)

    def compute(self, system: System) -> Results:
        """What the engine computes; raises LimitReached where the run has to end."""
        try:
            results = super().compute(system)
        except (SolverError, NonFiniteError) as error:  # structures that learning looks for: the run ends
            raise LimitReached(f"the model has no answer: {error}") from error
        self._check(results.observables())
        if self._last is not None and is_step(self._last, system):
            self._keep(system, results.extrapolation)
        self._last = system
        return results

    def _check(self, observables: dict[str, float]) -> None:
        for limits, sign, side in (
            (self._settings.limits, 1, "above"),
            (self._settings.lower_limits, -1, "below"),
        ):
            for name, limit in limits.items():
                if sign * observables[name] > sign * limit:
                    raise LimitReached(f"{name} {observables[name]:.2f} is {side} {limit:g}")

    def _keep(self, system: System, extrapolation: float) -> None:
        self.extrapolations.append(extrapolation)
        frame = Frame(system, self.steps, extrapolation)
        if self._strangest is None or extrapolation > self._strangest.extrapolation:
            self._strangest = frame
        if self.steps % self._stride == 0:
            self._kept.append(frame)
        if len(self._kept) == MOST_FRAMES:
            self._kept = self._kept[1::2]
            self._stride *= 2

    def frames(self, count: int) -> list[Frame]:
        """Up to ``count`` frames: the strangest first, the others spread evenly over the run."""
        if self._strangest is None:
            return []
        apart = self._settings.apart_steps
        others = [frame for frame in self._kept if abs(frame.step - self._strangest.step) >= apart]
        n = min(count - 1, len(others))
        places = (np.arange(n) + 0.5) * len(others) / max(n, 1)
        return [self._strangest, *(others[int(place)] for place in places)]

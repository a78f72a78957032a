"""Figures that tell that a run has left what the model knows, and when that is worth saying again."""

from __future__ import annotations

from dataclasses import dataclass

from mlh_driver.results import EDGE, LARGE_FORCE_eV_A, Results, SMALL_GAP_eV, TOLERATED_e


@dataclass(frozen=True)
class Guarded:
    """A figure of a structure that a run may be guarded against.

    words: what it is, for messages
    limit: where a warning is due, and a guard acts if nothing else is said
    low:   whether that is below the limit instead of above
    """

    words: str
    limit: float
    low: bool = False


GUARDED = {
    "extrapolation": Guarded("an extrapolation", 2.0 * EDGE),
    "charge_deviation": Guarded("a charge deviation (electrons)", 2.0 * TOLERATED_e),
    "band_gap": Guarded("a gap (eV)", SMALL_GAP_eV, low=True),
    "largest_force": Guarded("a force (eV/Å)", LARGE_FORCE_eV_A),
}
"""By observable. The limit is twice as far out as the training data reach, and so
on: a single step beyond the edge (1) is nothing to stop for."""


class Watch:
    """One figure of a run, in the course of which it may stay beyond its limit for long."""

    def __init__(self, limit: float, low: bool) -> None:
        self._limit, self._low = limit, low
        self._told = 0.0

    def is_beyond(self, value: float) -> bool:
        return value < self._limit if self._low else value > self._limit

    def is_news(self, value: float) -> bool:
        """Whether it is beyond the limit for the first time, or over twice as far as at the last news."""
        excess = 1.0 / max(value, 1e-3) if self._low else value
        if not self.is_beyond(value) or excess <= 2.0 * self._told:
            return False
        self._told = excess
        return True


class Alarm:
    """Says when a run is far outside what the model knows, and again at each doubling, not in every step."""

    def __init__(self) -> None:
        self._watches = {name: Watch(guarded.limit, guarded.low) for name, guarded in GUARDED.items()}

    def __call__(self, what: str, results: Results) -> list[str]:
        """The warnings that are due for ``what``, such as "step 20"."""
        return [
            f"{what}: {doubt}; energy and forces may be wrong"
            for name, doubt in results.doubts().items()
            if self._watches[name].is_news(getattr(results, name))
        ]

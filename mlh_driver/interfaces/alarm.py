"""The one warning that every long run may need: that it has left the training data."""

from __future__ import annotations

EXTRAPOLATION_LIMIT = 2.0
"""Twice as far out as the training data reach, whose edge is at 1."""


class ExtrapolationAlarm:
    """Says when a run is far outside the training data, and again at each doubling, not in every step."""

    def __init__(self) -> None:
        self._limit = EXTRAPOLATION_LIMIT

    def __call__(self, what: str, extrapolation: float) -> str | None:
        """The warning for ``what``, such as "step 20"; None where none is due."""
        if extrapolation <= self._limit:
            return None
        self._limit = 2 * extrapolation
        return (
            f"{what} is far outside the training data (extrapolation {extrapolation:.1f}, 1 is the edge): "
            "its energy and forces may be wrong"
        )

"""The warnings that every long run may need: that it has left what the model knows."""

from __future__ import annotations

from mlh_driver.results import Results, SMALL_GAP_eV, TOLERATED_e

#: Of each observable, where the warning is due: twice as far out as the training data reach, and so on. A
#: single step beyond the edge (1) is nothing to stop for.
LIMITS = {"extrapolation": 2.0, "charge_deviation": 2.0 * TOLERATED_e, "band_gap": 1.0 / SMALL_GAP_eV}


class Alarm:
    """Says when a run is far outside what the model knows, and again at each doubling, not in every step."""

    def __init__(self) -> None:
        self._limits = dict(LIMITS)

    def __call__(self, what: str, results: Results) -> list[str]:
        """The warnings that are due for ``what``, such as "step 20"."""
        messages = []
        for name, doubt in results.doubts().items():
            value = 1.0 / max(results.band_gap, 1e-3) if name == "band_gap" else getattr(results, name)
            if value > self._limits[name]:
                self._limits[name] = 2.0 * value
                messages.append(f"{what}: {doubt}; energy and forces may be wrong")
        return messages

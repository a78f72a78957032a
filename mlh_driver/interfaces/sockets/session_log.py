"""Sparse progress lines of a long session: how many structures, and where the time went."""

from __future__ import annotations

import time

from rich.console import Console

from mlh_driver.interfaces.alarm import Alarm
from mlh_driver.results import Results

REPORT_S = 60.0
"""Seconds between two lines."""


class SessionLog:
    """Adds up the timings of a session and prints a line every minute and at the end.

    ``prefix`` tells sessions apart when there are several.
    """

    def __init__(self, console: Console, prefix: str = "") -> None:
        self._console = console
        self._prefix = prefix
        self._start = time.monotonic()
        self._last_report = self._start
        self._seconds: dict[str, float] = {"wait": 0.0}
        self._latest: Results | None = None
        self._alarm = Alarm()
        self.evaluations = 0

    def say(self, message: str) -> None:
        """Print one line; nothing in it is taken for markup."""
        self._console.print(self._prefix + message, markup=False, highlight=False, soft_wrap=True)

    def waited(self, seconds: float) -> None:
        self._seconds["wait"] += seconds

    def computed(self, results: Results) -> None:
        self.evaluations += 1
        self._latest = results
        for message in self._alarm(f"force call {self.evaluations}", results):
            self.say(f"warning: {message}")
        for stage, seconds in results.timings.items():
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def sent(self, seconds: float) -> None:
        self._seconds["send"] = self._seconds.get("send", 0.0) + seconds
        if time.monotonic() - self._last_report > REPORT_S:
            self.report()

    def report(self) -> None:
        """Print the totals so far, per evaluation in milliseconds."""
        self._last_report = time.monotonic()
        assert self._latest is not None, "nothing was computed yet"
        stages = ", ".join(f"{k} {1e3 * v / self.evaluations:.2f}" for k, v in self._seconds.items())
        self.say(
            f"{self.evaluations} structures in {self._last_report - self._start:.1f} s; ms each: {stages}; "
            f"last: band gap {self._latest.band_gap:.3f} eV, extrapolation {self._latest.extrapolation:.2f}"
        )

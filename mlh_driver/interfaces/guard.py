"""An engine between the model and an MD engine that keeps the evidence where a run leaves the model's range.

For each of :data:`~mlh_driver.interfaces.alarm.GUARDED` it warns (as interfaces do anyway), dumps the
structure, or ends the run there. Where the model has no answer at all, the structure is always written.
Before it comes the last structure without any such doubt, to go on from. ``mlh-driver label``,
``mlh-driver predict`` and ASE read the file.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlh_driver.errors import NO_RESULT, InputError, LimitReached
from mlh_driver.force_engine import ForceEngine, PassingEngine
from mlh_driver.interfaces.alarm import GUARDED, Watch
from mlh_driver.results import Results
from mlh_driver.system import System

ACTIONS = ("warn", "dump", "stop")
GUARD_FILE = Path("mlh_guard.xyz")
MOST_FRAMES = 200
"""In the file of one run, but for that which ends it: Monte Carlo may try structures without an answer for
days."""


@dataclass(frozen=True)
class Rule:
    """What is done where a figure passes its limit: ``warn``, ``dump`` or ``stop``."""

    action: str
    limit: float

    @classmethod
    def parse(cls, name: str, text: str) -> Rule:
        """``ACTION`` or ``ACTION:LIMIT``; raises InputError for anything else, and for ``warn:LIMIT``."""
        action, colon, value = text.partition(":")
        if action not in ACTIONS:
            raise InputError(
                f"{text!r} is no action for {name}; give {', '.join(ACTIONS)}, or such as stop:2.5"
            )
        if colon and action == "warn":
            raise InputError(
                f"{text!r} for {name}: warnings come at limits of their own; give a limit with dump or stop, "
                f"such as dump:{value}"
            )
        if not colon:
            return cls(action, GUARDED[name].limit)
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if not math.isfinite(limit):
            raise InputError(f"{value!r} in {text!r} is no number; give a limit such as stop:2.5")
        return cls(action, limit)


class GuardedEngine(PassingEngine):
    """Acts where the structures of a run, or what the engine says of them, pass a limit.

    rules: by names of ``GUARDED``; those that only warn may be left out
    file:  extended XYZ to which structures are added, with ``why`` they are there; the last good one, which
           comes first, is called so

    A run that stays beyond a limit is dumped where it passes it, and again at each doubling.
    """

    def __init__(self, engine: ForceEngine, rules: Mapping[str, Rule], file: str | Path = GUARD_FILE) -> None:
        super().__init__(engine)
        self._file = Path(file).absolute()
        self._rules = {name: rule for name, rule in rules.items() if rule.action != "warn"}
        self._watches = {name: Watch(rule.limit, GUARDED[name].low) for name, rule in self._rules.items()}
        self._written = 0
        self._good: tuple[System, Results] | None = None

    def compute(self, system: System) -> Results:
        """What the engine computes. Raises LimitReached where a rule ends the run.

        A file that cannot be written changes no error; without one it is a warning.
        """
        try:
            results = super().compute(system)
        except NO_RESULT as error:
            raise type(error)(f"{error}. {self._kept(system, None, str(error))}") from error
        passed = {
            name: value
            for name, watch in self._watches.items()
            if watch.is_beyond(value := float(getattr(results, name)))
        }
        if not passed:
            self._good = (system, results)
        for name, value in passed.items():
            self._act(name, value, system, results)
        return results

    def _act(self, name: str, value: float, system: System, results: Results) -> None:
        guarded, rule = GUARDED[name], self._rules[name]
        side = "below" if guarded.low else "above"
        why = f"{guarded.words} of {value:.3g} is {side} the limit of {rule.limit:g}"
        if rule.action == "stop":
            raise LimitReached(f"{why}. {self._kept(system, results, why, is_last=True)}")
        if self._watches[name].is_news(value) and self._written < MOST_FRAMES:
            try:
                self._write(system, results, why)
            except OSError as error:  # is no reason to end a run
                warnings.warn(f"{why}; the {self._not_written(error)}", RuntimeWarning, stacklevel=2)

    def _kept(self, system: System, results: Results | None, why: str, is_last: bool = False) -> str:
        """Write the structure, and say where it is, or why it is not."""
        if self._written >= MOST_FRAMES and not is_last:
            return f"{self._file} has {self._written} structures of this run already, and not this one"
        has_good = self._good is not None
        try:
            self._write(system, results, why)
        except OSError as error:
            return f"The {self._not_written(error)}"
        if has_good:
            return f"The structure, and before it the last good one, are in {self._file}"
        return f"The structure is in {self._file}"

    def _not_written(self, error: OSError) -> str:
        return f"structure could not be written to {self._file} ({error.strerror})"

    def _write(self, system: System, results: Results | None, why: str) -> None:
        from ase.io import write  # slow to load, and not needed in a good run

        from mlh_driver.interfaces.ase import labelled_atoms

        frames = [(system, results, why)]
        if self._good is not None:
            frames.insert(0, (*self._good, "last good structure"))
            self._good = None  # once is enough
        for structure, its_results, reason in frames:
            self._written += 1
            atoms = structure.to_ase()
            if its_results is not None:
                atoms = labelled_atoms(atoms, its_results)
            atoms.info["why"] = reason
            write(self._file, atoms, format="extxyz", append=True)

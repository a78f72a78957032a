"""Runs an ordinary LAMMPS script with the model bound to its ``fix external``."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Event, current_thread, main_thread
from typing import Any

from mlh_driver.errors import InputError, LammpsError
from mlh_driver.force_engine import ForceEngine
from mlh_driver.interfaces.lammps.callback import ForceCallback, attach
from mlh_driver.interfaces.lammps.elements import check_elements
from mlh_driver.interfaces.lammps.library import open_lammps, warn
from mlh_driver.interfaces.lammps.script import ScriptRunner


def run_script(
    script: str | Path,
    engine: ForceEngine,
    *,
    arguments: Sequence[str] = (),
    elements: Sequence[str] | None = None,
    note: str = "",
) -> int:
    """Run a LAMMPS script with ``engine`` as its force engine; return the number of force calls.

    arguments: LAMMPS' own command-line arguments, such as ``["-var", "steps", "100", "-log", "none"]``
    elements:  the element of each atom type; without it, type labels or masses decide
    note:      what the log says at first, such as version and settings

    LAMMPS' command ``quit`` ends the process. Raises LammpsError for an error of LAMMPS itself, the
    engine's error if a force call failed, and InputError for a script that never defines the fix or cannot
    be served.
    """
    check_elements(elements or ())
    lmp = open_lammps(arguments)
    try:
        if note:
            lmp.command(f'print """{note}"""')
        with _interrupts_noted() as interrupted:
            fixes = _ModelFixes(lmp, engine, elements, interrupted)
            given = [name for option, name in pairwise(arguments) if option in ("-var", "-v")]
            with ScriptRunner(lmp, fixes.bind, fixes.read_labels, fixes.check_run, given) as runner:
                fixes.run(runner, Path(script))
    finally:
        lmp.close()
    if not fixes.callbacks:
        raise InputError(
            f"the LAMMPS script {str(script)!r} ended without defining the model's fix; add, after "
            "the atoms are created: fix mlh all external pf/callback 1 1"
        )
    return sum(callback.calls for callback in fixes.callbacks)


class _ModelFixes:
    """The fixes of one script that bring the model's forces; each was bound when the script defined it."""

    def __init__(
        self, lmp: Any, engine: ForceEngine, elements: Sequence[str] | None, interrupted: Event
    ) -> None:
        self._lmp, self._engine, self._elements = lmp, engine, elements
        self._interrupted = interrupted
        self.callbacks: list[ForceCallback] = []

    def run(self, runner: ScriptRunner, script: Path) -> None:
        """Raise the error of a force call in place of the one with which LAMMPS stopped because of it."""
        try:
            runner.run(script)
        except LammpsError:
            for callback in self.callbacks:
                if callback.error is not None:
                    raise callback.error from None
            raise

    def bind(self, fix_id: str) -> list[str]:
        """Bind a fix that was defined; returns the LAMMPS commands that complete it."""
        callback = ForceCallback(self._lmp, fix_id, self._engine, self._elements)
        callback.interrupted = self._interrupted
        for other in {callback.fix_id for callback in self.callbacks} - {fix_id}:
            if self._lmp.has_id("fix", other):
                warn(
                    self._lmp,
                    f"fix {other} and fix {fix_id} both add the model's energy and forces, which count twice "
                    "now; unfix one of them",
                )
        self.callbacks.append(callback)
        return attach(self._lmp, fix_id, callback)

    def read_labels(self) -> None:
        """After ``labelmap``: type labels may name the elements."""
        for callback in self.callbacks:
            callback.elements.read_labels()

    def check_run(self) -> None:
        """Warn of a run without the model."""
        if not any(self._lmp.has_id("fix", each.fix_id) for each in self.callbacks):
            when = "again after clear or unfix" if self.callbacks else "before it"
            line = "fix mlh all external pf/callback 1 1"
            warn(self._lmp, f"this run is without the model: define {line} {when}")


@contextmanager
def _interrupts_noted() -> Iterator[Event]:
    """An event that Ctrl-C or SIGTERM sets, in place of an exception at a place of Python's choosing.

    That place could be inside the callback's entry, where exceptions are ignored, with old forces left in
    the array. A second one acts at once. Outside the main thread, which alone gets signals, nothing changes,
    nor for a signal that the process ignores, as those in the background of a shell script do SIGINT.
    """
    event = Event()
    if current_thread() is not main_thread():
        yield event
        return

    def note(number: int, _: object) -> None:
        event.set()
        signal.signal(number, previous[signal.Signals(number)])

    previous = {
        number: signal.signal(number, note)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if event.is_set():
        raise KeyboardInterrupt

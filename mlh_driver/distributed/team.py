"""The first process leads: what it is asked to compute, the others compute along with it."""

from __future__ import annotations

import itertools
import traceback
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NoReturn, Unpack

import numpy as np
from numpy.typing import NDArray

from mlh_driver.distributed.graphs import SharedGraphs
from mlh_driver.distributed.patterns import SharedPattern
from mlh_driver.distributed.ranks import Idle, Ranks
from mlh_driver.engine import Engine
from mlh_driver.engine_settings import EngineKeywords, EngineSettings
from mlh_driver.errors import InputError, MLHError
from mlh_driver.hamiltonian import BlockMatrix
from mlh_driver.model import Model
from mlh_driver.results import Results
from mlh_driver.runtime import configure
from mlh_driver.solvers import ChargeHolder, make_solver
from mlh_driver.system import System


class SharedEngine(Engine):
    """An engine that computes its part of each structure, at the same time as the others of ``ranks``.

    All get the results. Raises what :class:`~mlh_driver.engine.Engine` raises, in all processes, and Idle in
    those for which there is no atom.
    """

    graphs: SharedGraphs

    def __init__(self, ranks: Ranks, model: str | Model, **settings: Unpack[EngineKeywords]) -> None:
        super().__init__(model, **settings)
        if self.settings.device != "cpu":
            raise InputError(
                f"device is {self.settings.device!r}, but several processes share a structure on CPUs only; "
                "leave --device away, or --ranks"
            )
        self._ranks = ranks
        self._at_work: Ranks | None = None
        self._start_afresh(ranks)

    def _start_afresh(self, ranks: Ranks) -> None:
        """What is remembered from call to call decides how many sums follow: it must be the same in all."""
        self._at_work = ranks
        self.graphs = SharedGraphs(self.model.basis, self.model.network.settings, ranks)
        self.electrons = ChargeHolder()
        self.solver = make_solver(self.settings.solver, self.settings.error_per_atom_meV, self._make_pattern)

    def _compute(self, system: System) -> Results:
        """With as many processes as there are atoms, at most."""
        try:
            ranks = self._ranks.first(len(system))
        except Idle:
            self._at_work = None
            raise
        if ranks is not self._at_work:
            self._start_afresh(ranks)
        return super()._compute(system)

    def _make_pattern(self, system: System, radius: float, like: BlockMatrix) -> SharedPattern:
        return SharedPattern(system, radius, like, self.graphs.part)


@dataclass(frozen=True)
class _Task:
    """What all are to do: an engine, by its number, and its structure; first some engines are given up."""

    engine: int
    system: System | None
    given_up: tuple[int, ...]


class Team:
    """All processes, each with its side of every engine; the engines share one model.

    Rank 0 makes engines and uses them, from one thread at a time; the others :meth:`follow`.
    """

    def __init__(self, settings: EngineSettings, ranks: Ranks) -> None:
        self._settings, self._ranks = settings, ranks
        self._engines: dict[int, SharedEngine] = {}
        self._numbers = itertools.count()
        self._given_up: deque[int] = deque()

    def engine(self) -> LedEngine:
        """In rank 0: one more engine. Raises what is wrong with the settings."""
        number = next(self._numbers)
        self.lead(number, None)
        return LedEngine(self, number)

    def follow(self) -> None:
        """In the others: compute along until rank 0 says :meth:`dismiss`."""
        try:
            while (task := self._ranks.listen()) is not None:
                with suppress(MLHError):  # which rank 0 has, too, and reports
                    self._do(task)
        except BaseException:
            self._abort()

    def dismiss(self) -> None:
        """In rank 0: let the others end."""
        self._ranks.tell(None)

    def lead(self, number: int, system: System | None) -> Results | None:
        """In rank 0: make an engine, or compute a structure with it."""
        given_up = [
            self._given_up.popleft() for _ in range(len(self._given_up))
        ]  # others may append meanwhile
        task = _Task(number, system, tuple(given_up))
        self._ranks.tell(task)
        return self._do(task)

    def give_up(self, number: int) -> None:
        """In rank 0, and any thread: this engine is not used any more."""
        self._given_up.append(number)

    def of_this_process(self, number: int) -> SharedEngine:
        return self._engines[number]

    def _do(self, task: _Task) -> Results | None:
        try:
            for number in task.given_up:
                self._engines.pop(number, None)
            if task.engine not in self._engines:
                self._engines[task.engine] = self._make_engine()
            return None if task.system is None else self._engines[task.engine].compute(task.system)
        except Idle:
            return None
        except MLHError:
            raise
        except BaseException:
            self._abort()

    def _make_engine(self) -> SharedEngine:
        with self._ranks.together():
            configure(self._settings.threads)
            engine = SharedEngine(self._ranks, **vars(self._settings))
        self._settings = replace(self._settings, model=engine.model)
        return engine

    def _abort(self) -> NoReturn:
        """End all processes: the others would wait for ever for one that has failed by itself."""
        traceback.print_exc()
        self._ranks.comm.Abort(1)
        raise AssertionError("unreachable")


class LedEngine:
    """A :class:`~mlh_driver.force_engine.ForceEngine` whose structures all processes of a team compute."""

    def __init__(self, team: Team, number: int) -> None:
        self._team, self._number = team, number

    def check_species(self, numbers: NDArray[np.int64]) -> None:
        """Raise StructureError if the model does not know one of these (N,) atomic numbers."""
        self._team.of_this_process(self._number).check_species(numbers)

    def compute(self, system: System) -> Results:
        """Energy, forces, stress and observables; raises what the engines of all processes raise."""
        results = self._team.lead(self._number, system)
        assert results is not None
        return results

    def close(self) -> None:
        """The processes drop their engines with the next task."""
        self._team.give_up(self._number)

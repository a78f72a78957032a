"""ASE calculator."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar, Unpack

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes, all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from mlh_driver.engine import Engine
from mlh_driver.engine_settings import DEFAULT_MODEL, EngineKeywords
from mlh_driver.errors import InputError
from mlh_driver.force_engine import ForceEngine
from mlh_driver.interfaces.alarm import Alarm
from mlh_driver.interfaces.sockets.remote import RemoteEngine
from mlh_driver.model import Model
from mlh_driver.results import PER_ATOM, Results
from mlh_driver.system import System

#: In e: a sum of charges that is zero but for their digits.
NEUTRAL_e = 1e-3


class MLHCalculator(Calculator):
    """Energy, forces, stress and electronic observables of a machine-learned Hamiltonian.

    model, settings: of an engine in this process, see :class:`~mlh_driver.engine_settings.EngineSettings`
    server: instead of them, the address of ``mlh-driver serve``: ``HOST:PORT`` or ``unix:NAME``
    engine: instead of them, any :class:`~mlh_driver.force_engine.ForceEngine`; it stays yours to close

    annotate: put the observables into ``atoms.info`` and those of each atom into ``atoms.arrays`` at every
            calculation, so that trajectories and extended XYZ files have them

    ``results`` holds what ASE has names for: ``energy, free_energy, forces, stress, energies, charges``;
    ``energy`` is the free energy whose exact derivative the forces are, so that MD conserves it.
    ``last_results`` is everything of the last structure, a :class:`~mlh_driver.results.Results`:
    ``band_gap``, ``homo``, ``extrapolation``, ``charge_deviation`` and so on. What gives reason to doubt the
    numbers is a Python warning (:meth:`~mlh_driver.results.Results.doubts`): once, and again where it is
    twice as bad or the atoms are others. So is, once, what the model leaves out: a charge of the cell, spins.

    >>> atoms.calc = MLHCalculator(model="asio2-minimal")  # doctest: +SKIP
    """

    implemented_properties: ClassVar[list[str]] = [  # type: ignore[misc]
        "energy",
        "free_energy",
        "forces",
        "stress",
        "energies",
        "charges",
    ]
    last_results: Results | None = None

    def __init__(
        self,
        model: str | Path | Model | None = None,
        *,
        server: str | None = None,
        engine: ForceEngine | None = None,
        annotate: bool = False,
        **settings: Unpack[EngineKeywords],
    ) -> None:
        super().__init__()
        if engine is None:
            engine = _make_engine(model, server, settings)
        elif model is not None or server is not None or settings:
            raise InputError("an engine has a model and settings already: give engine=... alone")
        self.engine = engine
        self._annotate = annotate
        self._alarm, self._calls = Alarm(), 0
        self._told: set[str] = set()

    def __repr__(self) -> str:
        return f"MLHCalculator({self.engine!r})"

    def set(self, **settings: Any) -> dict[str, Any]:
        """Raises InputError: settings are those of the start."""
        if settings:
            raise InputError(f"{', '.join(settings)} cannot be changed: make a new MLHCalculator(...)")
        return {}

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """What computes the numbers, as ASE's databases and trajectories keep it; nothing can be set by it.

        Of an engine in this process :meth:`~mlh_driver.engine.Engine.provenance`; of a server its address,
        and the same once it has computed something.
        """
        if isinstance(self.engine, Engine):
            return self.engine.provenance()
        known = {} if self.last_results is None else self.last_results.provenance
        if isinstance(self.engine, RemoteEngine):
            return {"server": str(self.engine.address), **known}
        return {"engine": type(self.engine).__name__, **known}

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Any = ("energy",),
        system_changes: Any = all_changes,
    ) -> None:
        """Compute everything at once; called by ASE when the structure has changed."""
        super().calculate(atoms, properties, system_changes)
        self.results, self.last_results = {}, None  # or, after an error, the last ones would pass for these
        results = self.engine.compute(System.from_ase(self.atoms))
        self._calls += 1
        if "numbers" in system_changes:
            self._alarm = Alarm()
        left_out = {cause: text for cause, text in _left_out(self.atoms).items() if cause not in self._told}
        self._told |= left_out.keys()
        for message in [*left_out.values(), *self._alarm(f"force call {self._calls}", results)]:
            warnings.warn(message, stacklevel=2)
        self.results, self.last_results = _ase_results(results), results

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """One of ASE's results; what is known already of an equal structure is not computed again."""
        value = super().get_property(name, atoms, allow_calculation)
        if self._annotate and atoms is not None and value is not None and self.last_results is not None:
            annotate(atoms, self.last_results)
        return value


def _left_out(atoms: Atoms) -> dict[str, str]:
    """What of the input the model leaves out, in words, by its cause."""
    found = {}
    if abs(charge := float(atoms.get_initial_charges().sum())) > NEUTRAL_e:
        found["charge"] = f"charges that add up to {charge:g} e"
    if atoms.get_initial_magnetic_moments().any():
        found["spin"] = "magnetic moments"
    return {
        cause: f"the atoms have {what}, and this is left out: the model knows closed shells and neutral "
        "cells only, so energy and forces are those without charge and spin"
        for cause, what in found.items()
    }


def annotate(atoms: Atoms, results: Results) -> None:
    """Put what ASE has no names for into ``atoms.info``, and into ``atoms.arrays`` what is of each atom."""
    atoms.info |= results.observables()
    for name in PER_ATOM:
        if name not in all_properties:
            atoms.set_array(name, getattr(results, name))


def labelled_atoms(atoms: Atoms, results: Results) -> Atoms:
    """A copy with all results, as ASE's formats write them."""
    copy = atoms.copy()
    annotate(copy, results)
    copy.calc = SinglePointCalculator(copy, **_ase_results(results))
    return copy


def _ase_results(results: Results) -> dict[str, Any]:
    return {
        "energy": results.energy,
        "free_energy": results.free_energy,
        "forces": results.forces,
        "stress": full_3x3_to_voigt_6_stress(results.stress),
        "energies": results.energies,
        "charges": results.charges,
    }


def _make_engine(
    model: str | Path | Model | None, server: str | None, settings: EngineKeywords
) -> ForceEngine:
    if server is None:
        return Engine(DEFAULT_MODEL if model is None else model, **settings)
    if given := [*(["model"] if model is not None else []), *settings]:
        raise InputError(
            f"{', '.join(given)}: without effect with server={server!r}, whose model is loaded already; give "
            "such settings to 'mlh-driver serve'"
        )
    return RemoteEngine(server)

"""ASE calculator."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Unpack

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.outputs import Properties, all_outputs
from ase.stress import full_3x3_to_voigt_6_stress

from mlh_driver.engine import Engine
from mlh_driver.engine_settings import DEFAULT_MODEL, EngineKeywords
from mlh_driver.errors import InputError
from mlh_driver.force_engine import ForceEngine
from mlh_driver.interfaces.sockets.remote import RemoteEngine
from mlh_driver.model import Model
from mlh_driver.results import OBSERVABLES
from mlh_driver.system import System


class MLHCalculator(Calculator):
    """Energy, forces, stress and electronic observables of a machine-learned Hamiltonian.

    model, settings: of an engine in this process, see :class:`~mlh_driver.engine_settings.EngineSettings`
    server: instead of them, the address of ``mlh-driver serve``: ``HOST:PORT`` or ``unix:NAME``
    engine: instead of them, any :class:`~mlh_driver.force_engine.ForceEngine`; it stays yours to close

    ``results`` holds ASE's ``energy, free_energy, forces, stress, energies, charges`` and the observables
    ``band_gap, fermi_level, homo, lumo, band_energy, electronic_entropy`` (eV), ``extrapolation`` (1 = edge
    of the training data), ``extrapolations`` (the same per atom) and ``timings`` (s). ``energy`` is the free
    energy whose exact derivative the forces are, so that MD conserves it.

    >>> atoms.calc = MLHCalculator(model="asio2-minimal")  # doctest: +SKIP
    """

    implemented_properties: ClassVar[list[str]] = [  # type: ignore[misc]
        "energy",
        "free_energy",
        "forces",
        "stress",
        "energies",
        "charges",
        *OBSERVABLES,
        "extrapolations",
        "charge_deviations",
    ]

    def __init__(
        self,
        model: str | Path | Model | None = None,
        *,
        server: str | None = None,
        engine: ForceEngine | None = None,
        **settings: Unpack[EngineKeywords],
    ) -> None:
        super().__init__()
        if engine is None:
            engine = _make_engine(model, server, settings)
        elif model is not None or server is not None or settings:
            raise InputError("an engine has a model and settings already: give engine=... alone")
        self.engine = engine

    def set(self, **settings: Any) -> dict[str, Any]:
        """Raises InputError: settings are those of the start."""
        if settings:
            raise InputError(f"{', '.join(settings)} cannot be changed: make a new MLHCalculator(...)")
        return {}

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Any = ("energy",),
        system_changes: Any = all_changes,
    ) -> None:
        """Compute everything at once; called by ASE when the structure has changed."""
        super().calculate(atoms, properties, system_changes)
        self.results = {}  # or, after an error, those of the last structure would pass for this one's
        results = self.engine.compute(System.from_ase(self.atoms))
        self.results = {
            "energy": results.energy,
            "free_energy": results.free_energy,
            "forces": results.forces,
            "stress": full_3x3_to_voigt_6_stress(results.stress),
            "energies": results.energies,
            "charges": results.charges,
            "extrapolations": results.extrapolations,
            "charge_deviations": results.charge_deviations,
            "timings": results.timings,
            **results.observables(),
        }

    def export_properties(self) -> Properties:
        """Those of the results that ASE has a place for; called by ``atoms.get_properties``."""
        return Properties({name: value for name, value in self.results.items() if name in all_outputs})


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

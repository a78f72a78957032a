"""A stand-in for the engine that fails on demand, and the command line that runs with it.

``python fake_engine.py ipi --model "fake,nan=3" ...`` is ``mlh-driver ipi`` with atoms tied to where they
were first seen. Faults: ``nan=N`` (the N-th forces are NaN), ``memory=N`` (there is none for the N-th call),
``slow=SECONDS`` (each call takes that long), ``strange=1`` (an extrapolation that doubles with each call),
``push=FORCE`` (on the first atom, in eV/Å), ``full=1`` (there are no empty levels).
"""

from __future__ import annotations

import sys
import time
from types import ModuleType
from typing import Any

import numpy as np
import typer

from mlh_driver.errors import StructureError
from mlh_driver.results import Results
from mlh_driver.system import System

SPRING = 5.0  # eV/Å^2


class Engine:
    """Harmonic springs to the first positions; knows O and Si."""

    def __init__(self, model: str = "fake", **settings: Any) -> None:
        self.model = model
        faults = dict(item.split("=") for item in model.split(",")[1:])
        self._nan_at = int(faults.get("nan", 0))
        self._no_memory_at = int(faults.get("memory", 0))
        self._strange = "strange" in faults
        self._push = float(faults.get("push", 0.0))
        self._lumo = np.inf if "full" in faults else 2.85
        self._seconds = float(faults.get("slow", 0.0))
        self._origin: np.ndarray | None = None
        self._calls = 0

    def check_species(self, numbers: Any) -> None:
        if unknown := sorted({int(z) for z in numbers} - {8, 14}):
            raise StructureError(f"the model does not know the elements {unknown}")

    def close(self) -> None:
        """There is nothing to give back."""

    def compute(self, system: System) -> Results:
        self._calls += 1
        time.sleep(self._seconds)
        if self._calls == self._no_memory_at:
            raise RuntimeError("not enough memory")  # torch's class
        if self._origin is None or self._origin.shape != system.positions.shape:
            self._origin = system.positions + 0.02 * np.sin(np.arange(3 * len(system)).reshape(-1, 3))
        shift = system.positions - self._origin
        energies = 0.5 * SPRING * (shift**2).sum(axis=1) - 330.0
        forces = -SPRING * shift
        forces[0, 2] += self._push
        if self._calls == self._nan_at:
            forces[1] = np.nan
        return Results(
            energy=float(energies.sum()),
            forces=forces,
            stress=np.diag([0.01, 0.02, 0.03]) + 1e-3 * (np.ones((3, 3)) - np.eye(3)),
            energies=energies,
            charges=np.where(system.numbers == 14, 1.5, -0.75),
            band_gap=self._lumo + 2.65,
            fermi_level=0.1,
            homo=-2.65,
            lumo=self._lumo,
            band_energy=-100.0,
            electronic_entropy=0.0,
            extrapolation=2.0**self._calls if self._strange else 0.5,
            extrapolations=np.full(len(system), 0.5),
            charge_deviation=0.01,
            charge_deviations=np.full(len(system), 0.01),
            timings={"model": self._seconds},
        )


def main() -> None:
    """Run ``ipi`` or ``serve``, and the process with the model, with this engine in place of the real one."""
    module = ModuleType("mlh_driver.engine")
    module.Engine = Engine  # type: ignore[attr-defined]
    sys.modules["mlh_driver.engine"] = module
    from mlh_driver.cli.ipi import ipi
    from mlh_driver.cli.serve import serve
    from mlh_driver.engine_settings import EngineSettings
    from mlh_driver.errors import MLHError
    from mlh_driver.interfaces.sockets import supervisor, worker

    if "/" in sys.argv[1]:  # the socket of the process with the model
        return worker.main()
    supervisor.WORKER = [sys.executable, __file__]
    EngineSettings.described = lambda self: "a stand-in for the engine"  # type: ignore[method-assign]

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("ipi")(ipi)
    app.command("serve")(serve)
    try:
        app()
    except MLHError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()

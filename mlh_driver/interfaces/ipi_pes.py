"""The model as a potential-energy surface inside i-PI, without a socket.

``mlh-driver ipi --pes-path`` prints the path of this file, which goes into i-PI's input::

    <ffdirect name="mlh">
      <pes>custom</pes>
      <pes_path>/path/of/this/file.py</pes_path>
      <parameters>{template: init.xyz, model: asio2-minimal}</parameters>
    </ffdirect>

or to i-PI's own client::

    i-pi-py_driver -m custom -P FILE -u -a NAME -o template=init.xyz,model=asio2-minimal
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlh_driver.engine import Engine
from mlh_driver.errors import InputError
from mlh_driver.interfaces.session import extras_for_ipi
from mlh_driver.interfaces.template import Assembler, Template
from mlh_driver.interfaces.wire import to_atomic_units
from mlh_driver.solvers.base import ERROR_PER_ATOM_eV
from mlh_driver.system import Array

__DRIVER_NAME__ = "mlh"
__DRIVER_CLASS__ = "MLHDriver"

I_PI_KEYS = {"verbose", "verbosity"}
"""What i-PI itself adds to the parameters."""

Answer = tuple[float, Array, Array, str]
"""Energy, forces (N, 3) and virial (3, 3) in atomic units, and the observables as JSON."""


class MLHDriver:
    """Called by i-PI with h (lattice vectors as columns) and positions in bohr.

    template: structure file that gives the elements, in i-PI's order
    model, solver, electronic_temperature, error_per_atom, dtype, device: as for
        :class:`~mlh_driver.engine.Engine`
    """

    def __init__(
        self,
        template: str = "",
        model: str = "asio2-minimal",
        solver: str = "auto",
        electronic_temperature: float = 300.0,
        error_per_atom: float = ERROR_PER_ATOM_eV,
        dtype: str = "float32",
        device: str = "cpu",
        **others: Any,
    ) -> None:
        if unknown := sorted(set(others) - I_PI_KEYS):
            raise InputError(
                f"unknown parameters {unknown}: there are template, model, solver, electronic_temperature, "
                "error_per_atom, dtype and device"
            )
        if not template:
            raise InputError("the parameter template is missing: name the file that i-PI starts from")
        elements = Template.read(template)
        self._assemble = Assembler(elements)
        self._engine = Engine(
            model,
            solver=solver,
            electronic_temperature=float(electronic_temperature),
            error_per_atom=float(error_per_atom),
            dtype=dtype,
            device=device,
        )
        self._engine.check_species(elements.numbers)

    def __call__(self, cell: Array | list[Array], pos: Array | list[Array]) -> Answer | list[Answer]:
        """One structure, or lists of several; raises what the engine raises."""
        if isinstance(cell, list):
            return [self._compute(h, x) for h, x in zip(cell, pos, strict=True)]
        return self._compute(cell, np.asarray(pos))

    def _compute(self, h: Array, positions: Array) -> Answer:
        system = self._assemble(h, positions)
        results = self._engine.compute(system).check_finite()
        return *to_atomic_units(results, system.volume), extras_for_ipi(results)

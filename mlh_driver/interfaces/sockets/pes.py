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
from mlh_driver.engine_settings import EngineSettings
from mlh_driver.errors import InputError
from mlh_driver.interfaces.sockets.session import extras_for_ipi
from mlh_driver.interfaces.sockets.template import SystemBuilder, Template
from mlh_driver.interfaces.sockets.wire import to_atomic_units
from mlh_driver.system import Array

__DRIVER_NAME__ = "mlh"
__DRIVER_CLASS__ = "MLHDriver"

I_PI_KEYS = {"verbose", "verbosity"}
"""What i-PI itself adds to the parameters."""

Answer = tuple[float, Array, Array, str]
"""Energy, forces (N, 3) and virial (3, 3) in atomic units, and the observables as JSON."""


class MLHDriver:
    """Called by i-PI with h (lattice vectors as columns) and positions in bohr.

    template:   structure file that gives the elements, in i-PI's order
    parameters: those of :class:`~mlh_driver.engine_settings.EngineSettings`, and what i-PI itself adds
    """

    def __init__(self, template: str = "", **parameters: Any) -> None:
        settings = EngineSettings.parse(
            {name: value for name, value in parameters.items() if name not in I_PI_KEYS}
        )
        if not template:
            raise InputError("the parameter template is missing: name the file that i-PI starts from")
        elements = Template.read(template)
        self._assemble = SystemBuilder(elements)
        self._engine = Engine(**vars(settings))
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

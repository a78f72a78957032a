"""One labelled structure: what a reference calculation says about a set of atoms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlh_driver.errors import InputError
from mlh_driver.system import Array, System


@dataclass(frozen=True, eq=False)
class LabelledStructure:
    """A structure of N atoms with its reference values, in eV and Å.

    energy:            total energy on the reference's scale; E - T_e S_e at an electronic temperature
    forces:            (N, 3) eV/Å
    stress:            (3, 3) eV/Å^3 with ASE's sign, or None
    hamiltonian:       (n, n) eV in the minimal basis, with an arbitrary zero of potential; None where the
                       reference gives energies and forces only
    eigenvalues:       all levels of the reference in eV, with the same zero, or None
    n_occupied:        half the number of electrons, None without eigenvalues
    full_hamiltonian:  (m, m) eV in the reference's own basis, or None (it is large)
    info:              origin, settings, versions: anything that JSON can hold
    electronic_temperature_K: T_e of the Fermi-Dirac occupations, 0 for closed shells

    Raises InputError for numbers that are not finite, for forces or a stress of another shape and for a
    temperature below zero.
    """

    name: str
    system: System
    energy: float
    forces: Array
    stress: Array | None = None
    hamiltonian: Array | None = None
    eigenvalues: Array | None = None
    n_occupied: int | None = None
    full_hamiltonian: Array | None = None
    info: dict[str, Any] = field(default_factory=dict)
    electronic_temperature_K: float = 0.0

    def __post_init__(self) -> None:
        for name in ("energy", "forces", "stress", "hamiltonian", "eigenvalues", "electronic_temperature_K"):
            value = getattr(self, name)
            if value is not None and not np.isfinite(value).all():
                raise InputError(f"structure {self.name!r}: {name} is not finite; leave the structure out")
        for name, shape in (("forces", (len(self.system), 3)), ("stress", (3, 3))):
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise InputError(f"structure {self.name!r}: {name} has the shape {value.shape}, not {shape}")
        if self.electronic_temperature_K < 0.0:
            raise InputError(
                f"structure {self.name!r}: its electronic temperature is {self.electronic_temperature_K} K; "
                "give kelvin, 0 for closed shells"
            )

    @property
    def occupied(self) -> Array | None:
        """(n_occupied,) occupied eigenvalues in eV."""
        return None if self.eigenvalues is None else self.eigenvalues[: self.n_occupied]

    @property
    def gap(self) -> float | None:
        """Lowest empty minus highest occupied level in eV."""
        if self.eigenvalues is None or self.n_occupied is None:
            return None
        return float(self.eigenvalues[self.n_occupied] - self.eigenvalues[self.n_occupied - 1])

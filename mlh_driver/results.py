"""What the engine returns for one structure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlh_driver.errors import NonFiniteError
from mlh_driver.system import Array

#: In eV/Å. Forces beyond this come from no matter: the network has left all that it knows, and an energy that
#: falls without bound is as likely there as one that rises.
LARGEST_FORCE_eV_A = 1000.0

#: Of the extrapolation: an atom as far out as the farthest of the training.
EDGE = 1.0
#: The training data end at 1, the hottest melt is at some 3, silicon for a model of silica at 1400. Beyond
#: the first of these dynamics is not to blame; beyond the second a structure is refused.
WRONG_INPUT, LARGEST_EXTRAPOLATION = 10.0, 1e6
#: Electrons by which an atom may differ from what the network predicts; beyond, a potential holds them.
TOLERATED_e = 0.1
#: Below it, a closed shell and one Slater determinant describe an insulator badly.
SMALL_GAP_eV = 1.0
#: In eV/Å, of an atom; the largest in a labelled melt is 22.
LARGE_FORCE_eV_A = 100.0

OBSERVABLES = (
    "band_gap",
    "fermi_level",
    "homo",
    "lumo",
    "band_energy",
    "electronic_entropy",
    "extrapolation",
    "charge_deviation",
)
"""Scalar observables that every interface offers, under these names and in this order."""

EXTENSIVE = ("energy", "band_energy", "electronic_entropy")
"""Scalars of :class:`Results` that are those of the whole cell: twice as large for two cells."""

PER_ATOM = ("charges", "energies", "extrapolations", "charge_deviations")
"""Arrays (N,) of :class:`Results`, a number for each atom."""


@dataclass(frozen=True, eq=False)
class Results:
    """Energy, derivatives and observables of one structure, in eV and Å.

    energy:      total (Mermin free) energy on the reference's total-energy scale; at zero electronic
                 temperature, and whenever the gap is many kT_e wide, the Kohn-Sham energy
    forces:      (N, 3) exact negative derivative of ``energy``, eV/Å
    stress:      (3, 3) derivative with respect to strain over volume, eV/Å^3, ASE's sign
    energies:    (N,) per-atom energies that sum to ``energy``
    charges:     (N,) Löwdin charges in units of e, as the predicted H is that of an orthonormal basis
    band_gap:    eV, lowest unoccupied minus highest occupied level of the predicted Hamiltonian
    fermi_level: eV, chemical potential (mid-gap at zero temperature), on the model's own zero of potential
    homo:        eV, highest occupied level, on the same zero
    lumo:        eV, lowest unoccupied level, on the same zero
    band_energy: eV, 2 Tr[P H]
    electronic_entropy: eV, T_e S_e, already subtracted in ``energy``
    extrapolation: 1 at the edge of the training data, larger outside (maximum over atoms)
    extrapolations: (N,) the same per atom
    charge_deviation: electrons, largest difference of an atom's number of electrons from the one that the
                 network predicts; some 0.01 where the model is right, and above 0.1 a potential holds them
    charge_deviations: (N,) the same per atom, with its sign: positive for too many electrons
    timings:     seconds spent in each stage of this call
    provenance:  model, settings and version that computed them, by name
    repeats:     how often the cell was repeated inside along each lattice vector, being too narrow for Gamma
    """

    energy: float
    forces: Array
    stress: Array
    energies: Array
    charges: Array
    band_gap: float
    fermi_level: float
    homo: float
    lumo: float
    band_energy: float
    electronic_entropy: float
    extrapolation: float
    extrapolations: Array
    charge_deviation: float
    charge_deviations: Array
    timings: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    repeats: tuple[int, int, int] = (1, 1, 1)

    @property
    def free_energy(self) -> float:
        """The energy whose derivative the forces are: the same number as ``energy``."""
        return self.energy

    @property
    def largest_force(self) -> float:
        """Largest norm of the force on an atom, eV/Å."""
        return float(np.linalg.norm(self.forces, axis=1).max())

    def observables(self) -> dict[str, float]:
        """The scalar observables of :data:`OBSERVABLES`, by name."""
        return {name: float(getattr(self, name)) for name in OBSERVABLES}

    def virial(self, volume: float) -> Array:
        """(3, 3) virial -V * stress in eV, for a cell of ``volume`` in Å^3."""
        return -volume * self.stress

    def doubts(self) -> dict[str, str]:
        """Reasons not to trust these numbers without a check against DFT, by observable; none as a rule."""
        found = {}
        if self.extrapolation > EDGE:
            found["extrapolation"] = (
                f"extrapolation is {self.extrapolation:.2f}, beyond the edge ({EDGE:g}) of the training "
                f"data, at atom {self.extrapolations.argmax()}"
            )
            if self.extrapolation > WRONG_INPUT:
                found["extrapolation"] += "; are units and elements right?"
        if self.charge_deviation > TOLERATED_e:
            found["charge_deviation"] = (
                f"the predicted Hamiltonian moves {self.charge_deviation:.2f} electrons too many at atom "
                f"{np.abs(self.charge_deviations).argmax()}: it is wrong there"
            )
        if self.band_gap < SMALL_GAP_eV:
            found["band_gap"] = f"the gap of {self.band_gap:.2f} eV is small for a closed shell"
        if self.largest_force > LARGE_FORCE_eV_A:
            found["largest_force"] = (
                f"the force of {self.largest_force:.0f} eV/Å on atom "
                f"{np.linalg.norm(self.forces, axis=1).argmax()} is too large for matter in equilibrium"
            )
        return found

    def check_finite(self) -> Results:
        """Return self; raise NonFiniteError for numbers that are not finite or cannot come from matter.

        That is a force above 1000 eV/Å, or a structure far out of all proportion to the training data.
        """
        bad: list[Any] = []
        if not np.isfinite(self.energy):
            bad.append(f"energy = {self.energy}")
        if not np.isfinite(self.forces).all():
            atoms = np.flatnonzero(~np.isfinite(self.forces).all(axis=1))
            bad.append(f"forces on {len(atoms)} atoms, the first is atom {atoms[0]}")
        if not np.isfinite(self.stress).all():
            bad.append("stress")
        norms = np.linalg.norm(self.forces, axis=1)
        if bad:
            cause = "; ".join(bad) + " (not finite)."
        elif norms.max() > LARGEST_FORCE_eV_A:
            cause = f"a force of {norms.max():.3g} eV/Å on atom {norms.argmax()}."
        elif not self.extrapolation <= LARGEST_EXTRAPOLATION:  # nor NaN
            cause = f"an extrapolation of {self.extrapolation:.2g}; are units and elements right?"
        else:
            return self
        raise NonFiniteError(
            f"the model returned {cause} The structure is probably far outside the model's range: look at "
            "its closest atoms, its elements and its density, at 'extrapolation' of the steps before, and at "
            "the time step"
        )

"""Errors of a model on labelled structures.

The zero of potential of the reference is arbitrary, so Hamiltonians are compared up to one constant per
structure, the mean of the diagonal of H_model - H_reference; eigenvalues are compared after the same
shift. Energies, forces and stresses are compared as they are, on the reference's scale. A label with an
electronic temperature is compared with the model at that temperature, one of closed shells with the model at
the temperature of the engine. Labels are of one point of the Brillouin zone, Gamma, and so is the model here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mlh_driver.data import LabelledStructure
from mlh_driver.engine import Engine
from mlh_driver.errors import InputError, MLHError
from mlh_driver.force_engine import ForceEngine
from mlh_driver.system import Array

SHELLS_A = (0.0, 2.0, 3.0, 4.0, 5.0, 7.0, np.inf)
CONVENTION = (
    "H and levels are compared up to one constant per structure (the mean diagonal of "
    "H_model - H_reference); energies, forces and stresses as they are."
)


ROOT_MEAN_SQUARES = frozenset({"forces_rmse_meV_A", "H_rms_per_atom_meV", "score"})
"""Figures that are root mean squares of a structure already; over structures their squares are averaged."""


@dataclass(frozen=True)
class HamiltonianErrors:
    """Errors of H and of the occupied levels of one structure.

    elements_eV: (n, n) difference after the shift
    shells:      (n, n) index of the distance shell of each element, -1 on site
    levels_eV:   (n_occupied,)
    """

    elements_eV: Array
    shells: np.ndarray
    levels_eV: Array
    band_energy_eV_atom: float

    def summary(self) -> dict[str, float]:
        """The reported figures by name and unit; the highest occupied level is signed."""
        error = np.abs(self.elements_eV)
        figures = {"H_mae_meV": error.mean(), "H_onsite_mae_meV": error[self.shells < 0].mean()}
        for k, (low, high) in enumerate(pairwise(SHELLS_A)):
            if (self.shells == k).any():
                figures[f"H_{low:g}-{high:g}A_mae_meV"] = error[self.shells == k].mean()
        figures |= {
            "levels_mae_meV": np.abs(self.levels_eV).mean(),
            "homo_meV": self.levels_eV[-1],
            "band_energy_meV_atom": self.band_energy_eV_atom,
        }
        return _in_meV(figures)


@dataclass(frozen=True)
class StructureErrors:
    """Errors on one structure. Arrays hold every single error; the rest are means over the structure.

    hamiltonian: those of H and levels, None where the reference or the engine has none
    """

    name: str
    hamiltonian: HamiltonianErrors | None
    energy_eV_atom: float
    forces_eV_A: Array
    stress_eV_A3: Array | None
    extrapolation: float

    def summary(self) -> dict[str, float]:
        """The reported figures by name and unit; energies and the highest occupied level are signed."""
        electronic = {} if self.hamiltonian is None else self.hamiltonian.summary()
        figures = {
            "energy_meV_atom": self.energy_eV_atom,
            "forces_mae_meV_A": np.abs(self.forces_eV_A).mean(),
            "forces_rmse_meV_A": np.sqrt((self.forces_eV_A**2).mean()),
        }
        if self.stress_eV_A3 is not None:
            figures["stress_mae_meV_A3"] = np.abs(self.stress_eV_A3).mean()
        return electronic | _in_meV(figures) | {"extrapolation": self.extrapolation}


def _in_meV(figures_eV: Mapping[str, float]) -> dict[str, float]:
    return {name: 1e3 * float(value) for name, value in figures_eV.items()}


def evaluate_structures(
    engine: ForceEngine, labels: Iterable[LabelledStructure], sampling: str = "gamma"
) -> tuple[list[StructureErrors], list[str]]:
    """Errors on all structures that the engine can compute, and why it cannot compute the others.

    sampling: that of the labels, as in :class:`~mlh_driver.engine_settings.EngineSettings`
    """
    errors, failures = [], []
    for label in labels:
        try:
            errors.append(evaluate_structure(engine, label, sampling))
        except MLHError as error:
            failures.append(f"{label.name}: {error}")
    return errors, failures


def evaluate_structure(
    engine: ForceEngine, label: LabelledStructure, sampling: str = "gamma"
) -> StructureErrors:
    """Compare the engine with the labels of one structure; raises what ``engine.compute`` raises.

    H and levels are compared where the model is in this process; a server does not send them.
    """
    results = _as_labelled(label, engine, sampling).compute(label.system)
    return StructureErrors(
        name=label.name,
        hamiltonian=_hamiltonian_errors(engine, label) if isinstance(engine, Engine) else None,
        energy_eV_atom=(results.energy - label.energy) / len(label.system),
        forces_eV_A=results.forces - label.forces,
        stress_eV_A3=None if label.stress is None else results.stress - label.stress,
        extrapolation=results.extrapolation,
    )


def _as_labelled(label: LabelledStructure, engine: ForceEngine, sampling: str) -> ForceEngine:
    """The engine with the sampling and the electrons of the label; a server keeps its settings."""
    if not isinstance(engine, Engine):
        return engine
    own = engine.settings.electronic_temperature_K
    return engine.with_settings(
        sampling=sampling, electronic_temperature_K=label.electronic_temperature_K or own
    )


def _hamiltonian_errors(engine: Engine, label: LabelledStructure) -> HamiltonianErrors | None:
    if label.hamiltonian is None:
        return None
    predicted = engine.hamiltonian(label.system)
    if predicted.shape != label.hamiltonian.shape:
        raise InputError(
            f"its Hamiltonian is {label.hamiltonian.shape}, that of the model {predicted.shape}: they are of "
            "different basis sets"
        )
    difference = predicted - label.hamiltonian
    shift = np.diagonal(difference).mean()
    n_occupied = engine.model.basis.n_electrons(label.system.numbers) // 2
    occupied = np.linalg.eigvalsh(label.hamiltonian)[:n_occupied]
    levels = np.linalg.eigvalsh(predicted)[:n_occupied] - occupied - shift
    return HamiltonianErrors(
        elements_eV=difference - shift * np.eye(len(difference)),
        shells=_shell_of_elements(engine, label),
        levels_eV=levels,
        band_energy_eV_atom=2.0 * levels.sum() / len(label.system),
    )


def _shell_of_elements(engine: Engine, label: LabelledStructure) -> np.ndarray:
    """(n, n) shell of the nearest-image distance between the atoms of each element of H; -1 on site."""
    distances = label.system.to_ase().get_all_distances(mic=True)
    shells = np.searchsorted(SHELLS_A, distances, side="right") - 1
    np.fill_diagonal(shells, -1)
    basis = engine.model.basis
    sizes = basis.sizes[basis.species_index(label.system.numbers)]
    return shells.repeat(sizes, axis=0).repeat(sizes, axis=1)


def mean_errors(errors: Iterable[dict[str, float]]) -> dict[str, float]:
    """Of every error over the structures that have it: the mean magnitude, or the root of the mean square."""
    rows = list(errors)
    keys = dict.fromkeys(key for row in rows for key in row)
    columns = {key: np.array([row[key] for row in rows if key in row]) for key in keys}
    return {
        key: float(np.sqrt(np.mean(column**2)) if key in ROOT_MEAN_SQUARES else np.abs(column).mean())
        for key, column in columns.items()
    }


def mean_summary(errors: list[StructureErrors]) -> dict[str, float]:
    """Mean magnitude of every figure over the structures that have it; forces RMSE over all components."""
    if not errors:
        return {}
    mean = mean_errors(error.summary() for error in errors)
    forces = np.concatenate([error.forces_eV_A.ravel() for error in errors])
    mean["forces_rmse_meV_A"] = 1e3 * float(np.sqrt((forces**2).mean()))
    return mean

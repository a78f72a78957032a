"""Vacancies of a campaign relaxed by DFT, from the minima of the model: what its minima are worth.

    labels at the model's minima --relax by DFT--> minima of DFT --> energies, distances, displacements

Hosts are relaxed, too. An atom of the model's minimum is compared with the same atom at that of DFT. These
are the minima of DFT next to those of the model; that DFT has no lower one elsewhere, they cannot show.

=============================  =============================================================================
``dft_CODE_relaxed/NAME/``     of each structure ``relaxation.traj``, and ``relaxed.extxyz`` when it is done
``verify_relaxed.json, .csv``  a row for each site
=============================  =============================================================================
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.geometry import find_mic

from mlh_driver.data import LabelledStructure, hdf5
from mlh_driver.errors import InputError, MLHError
from mlh_driver.files import alone_in, read_json, replacing, write_json, write_rows
from mlh_driver.reference import Labeler
from mlh_driver.system import Array, System, same_structure
from mlh_driver.workflows.relaxation import RELAXED, descend, read_last, read_relaxed, read_start
from mlh_driver.workflows.run_folder import check_same
from mlh_driver.workflows.sites import index_in_defect
from mlh_driver.workflows.verify import Plan

RELAXATIONS, RELAXATIONS_TABLE, REFERENCE = "verify_relaxed.json", "verify_relaxed.csv", "reference.json"


@dataclass(frozen=True)
class RelaxedByDft:
    """A site at the minimum of DFT next to that of the model.

    difference_eV, dft_difference_eV, error_eV: E(vacancy) - E(host), each at its own minima, and model minus
               DFT: the error of the formation energy, that of the geometry included
    relaxation_eV, host_relaxation_eV: what DFT gains from the model's minimum to its own
    largest_displacement_A, rms_displacement_A: of the atoms of the vacancy from one to the other
    pair_A, dft_pair_A: distance of the two atoms beside the site
    steps:     of DFT, for the vacancy
    """

    name: str
    difference_eV: float
    dft_difference_eV: float
    error_eV: float
    relaxation_eV: float
    host_relaxation_eV: float
    largest_displacement_A: float
    rms_displacement_A: float
    pair_A: float
    dft_pair_A: float
    steps: int


class LabelerCalculator(Calculator):
    """A reference code as a calculator of ASE; it knows energy and forces of the first structure."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, labeler: Labeler, first: Atoms, energy: float, forces: Array) -> None:
        super().__init__()
        self._labeler = labeler
        self.atoms = first.copy()
        self.results = {"energy": energy, "forces": forces}

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = all_changes
    ) -> None:
        """Raises LabelingError where the code has no result."""
        super().calculate(atoms, properties, system_changes)
        with tempfile.TemporaryDirectory(prefix="mlh-relax-") as workdir:
            found = self._labeler.calculate(self.atoms, Path(workdir))
        self.results = {"energy": found.energy, "forces": found.forces}


def relax_by_dft(
    plan: Plan, labeler: Labeler, fmax_eV_A: float, steps: int, report: Callable[[str], None]
) -> tuple[list[RelaxedByDft], list[str]]:
    """Relax what has a label, until no force is above ``fmax_eV_A``, and write the files named above.

    Returns the sites that are at a minimum with their hosts, and what is left out: structures that do not
    come to one in ``steps`` steps, or for which the code has no result. Called again, it goes on from the
    last step of each with as many more. Raises InputError for relaxations by other settings in the folder,
    and while another process is at them.
    """
    if not 0.0 < fmax_eV_A < math.inf:
        raise InputError(f"fmax_eV_A is {fmax_eV_A}; give a positive number of eV/Å, such as 0.05")
    folder = plan.folder / f"dft_{labeler.name}_relaxed"
    folder.mkdir(exist_ok=True)
    asked = {"reference": labeler.reference(), "fmax_eV_A": fmax_eV_A}
    if (folder / REFERENCE).exists():
        check_same(folder, read_json(folder / REFERENCE), asked, "move that folder away")
    write_json(folder / REFERENCE, asked)
    labelled = plan.labelled
    labels = {name: hdf5.read_structure(plan.labels, name) for name in plan.frames if name in labelled}
    minima: dict[str, Atoms] = {}
    with alone_in(folder):
        for name, label in labels.items():
            try:
                minima[name] = _minimum(folder / name, label, labeler, fmax_eV_A, steps, report)
            except MLHError as error:
                report(f"{name}: left out: {error}")
    sites = [
        _compare(plan, name, labels, minima)
        for name in plan.picked
        if {name, plan.vacancies[name].host} <= minima.keys()
    ]
    _write_files(plan.folder, sites, asked)
    return sites, [name for name in plan.frames if name not in minima]


def _minimum(
    folder: Path,
    label: LabelledStructure,
    labeler: Labeler,
    fmax_eV_A: float,
    steps: int,
    report: Callable[[str], None],
) -> Atoms:
    """From its folder, or relaxed there; the number of steps is in its ``info``."""
    _set_aside_if_of_another(folder, label)
    if (folder / RELAXED).exists():
        return read_relaxed(folder)
    folder.mkdir(exist_ok=True)
    atoms = label.system.to_ase()
    last = read_last(folder)
    atoms.calc = (
        LabelerCalculator(labeler, atoms, label.energy, label.forces)
        if last is None
        else LabelerCalculator(labeler, last, last.get_potential_energy(), last.get_forces())
    )

    def show(step: int) -> None:
        largest = np.linalg.norm(atoms.get_forces(), axis=1).max()
        report(f"{label.name}: step {step}, {atoms.get_potential_energy():.4f} eV, {largest:.3f} eV/Å")

    atoms.info["steps"] = descend(atoms, folder, fmax_eV_A, steps, show)
    with replacing(folder / RELAXED) as partial:
        ase.io.write(partial, atoms, format="extxyz")
    return read_relaxed(folder)


def _set_aside_if_of_another(folder: Path, label: LabelledStructure) -> None:
    """A site may have a lower minimum since; relaxations from the one before stay, in another folder."""
    start = read_start(folder)
    if start is not None and not same_structure(System.from_ase(start), label.system):
        others = (folder.with_name(f"{folder.name}_before_{k}") for k in count(1))
        folder.rename(next(other for other in others if not other.exists()))


def _compare(
    plan: Plan, name: str, labels: dict[str, LabelledStructure], minima: dict[str, Atoms]
) -> RelaxedByDft:
    site, atoms = plan.vacancies[name], minima[name]
    energies = {key: minima[key].get_potential_energy() for key in (name, site.host)}
    difference = energies[name] - energies[site.host]
    before = labels[name].system.to_ase()
    moves, _ = find_mic(atoms.positions - before.positions, atoms.cell, pbc=True)
    distances = np.linalg.norm(moves - moves.mean(axis=0), axis=1)
    i, j = index_in_defect(site.site, site.pair, plan.defect)
    return RelaxedByDft(
        name=name,
        difference_eV=site.difference_eV,
        dft_difference_eV=difference,
        error_eV=site.difference_eV - difference,
        relaxation_eV=labels[name].energy - energies[name],
        host_relaxation_eV=labels[site.host].energy - energies[site.host],
        largest_displacement_A=float(distances.max()),
        rms_displacement_A=float(np.sqrt((distances**2).mean())),
        pair_A=float(before.get_distance(i, j, mic=True)),
        dft_pair_A=float(atoms.get_distance(i, j, mic=True)),
        steps=int(atoms.info["steps"]),
    )


def _write_files(folder: Path, sites: list[RelaxedByDft], asked: dict[str, Any]) -> None:
    write_json(folder / RELAXATIONS, {**asked, "sites": [asdict(site) for site in sites]})
    write_rows(folder / RELAXATIONS_TABLE, RelaxedByDft, sites)

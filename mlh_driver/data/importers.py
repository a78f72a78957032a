"""Reference data that people already have, as labelled structures."""

from __future__ import annotations

from pathlib import Path

from ase.calculators.calculator import PropertyNotImplementedError

from mlh_driver.data.structure import LabelledStructure
from mlh_driver.errors import InputError
from mlh_driver.structures import read_frames
from mlh_driver.system import System


def from_ase_files(paths: list[Path]) -> list[LabelledStructure]:
    """Frames with energy, forces and perhaps stress, in any format that ASE reads (such as extended XYZ).

    There is no Hamiltonian in them: they can teach energies and forces beside structures that have one.
    The energy is the free energy where both are given, since forces are its derivative. Forces are those of
    the calculation, also on atoms that a constraint held. Raises InputError for frames without energy or
    forces.
    """
    labels = []
    for name, atoms in read_frames(paths).items():
        try:
            energy, forces = atoms.get_potential_energy(), atoms.get_forces(apply_constraint=False)
        except (RuntimeError, PropertyNotImplementedError) as error:
            raise InputError(f"frame {name!r} has no energy or no forces: {error}") from error
        stress = atoms.calc.results.get("stress")
        labels.append(
            LabelledStructure(
                name=name,
                system=System.from_ase(atoms),
                energy=float(atoms.calc.results.get("free_energy", energy)),
                forces=forces,
                stress=None if stress is None else atoms.get_stress(voigt=False, apply_constraint=False),
            )
        )
    return labels

"""Reference data that people already have, as labelled structures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from mlh_driver.data.structure import LabelledStructure
from mlh_driver.errors import InputError
from mlh_driver.structures import read_frames
from mlh_driver.system import System


def from_ase_files(
    paths: list[Path], energy_key: str | None = None, forces_key: str | None = None
) -> list[LabelledStructure]:
    """Frames with energy, forces and perhaps stress, in any format that ASE reads (such as extended XYZ).

    energy_key, forces_key: where they stand in ``atoms.info`` and ``atoms.arrays``, if ASE does not know

    There is no Hamiltonian in them: they can teach energies and forces beside structures that have one.
    The energy is the free energy where both are given, since forces are its derivative. Forces are those of
    the calculation, also on atoms that a constraint held. Raises InputError for frames without energy or
    forces.
    """
    labels = []
    for name, atoms in read_frames(paths).items():
        results = {} if atoms.calc is None else atoms.calc.results
        energy = (
            atoms.info.get(energy_key) if energy_key else results.get("free_energy", results.get("energy"))
        )
        forces = atoms.arrays.get(forces_key) if forces_key else results.get("forces")
        if energy is None or forces is None:
            found = ", ".join([*results, *atoms.info, *atoms.arrays])
            raise InputError(
                f"frame {name!r} has no energy or no forces; it has {found}: name them by --energy-key and "
                "--forces-key"
            )
        has_stress = "stress" in results and not energy_key
        labels.append(
            LabelledStructure(
                name=name,
                system=System.from_ase(atoms),
                energy=float(energy),
                forces=np.asarray(forces, dtype=np.float64),
                stress=atoms.get_stress(voigt=False, apply_constraint=False) if has_stress else None,
            )
        )
    return labels


def described(labels: list[LabelledStructure]) -> str:
    """What somebody should see who may have taken the wrong units: elements, energies, largest force."""
    numbers = sorted({int(z) for label in labels for z in label.system.numbers})
    per_atom = [label.energy / len(label.system) for label in labels]
    largest = max(float(np.linalg.norm(label.forces, axis=1).max()) for label in labels)
    stresses = sum(label.stress is not None for label in labels)
    elements = ", ".join(chemical_symbols[z] for z in numbers)
    return (
        f"{len(labels)} structures of {elements}: {min(per_atom):.3f} to {max(per_atom):.3f} eV per atom, "
        f"largest force {largest:.3f} eV/Å, {stresses} with stress"
    )

"""Reference data that people already have, as labelled structures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.stress import voigt_6_to_full_3x3_stress

from mlh_driver.data.structure import LabelledStructure
from mlh_driver.errors import InputError, StructureError
from mlh_driver.structures import read_frames
from mlh_driver.system import Array, System


def from_ase_files(
    paths: list[Path],
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
) -> list[LabelledStructure]:
    """Frames with energy, forces and perhaps stress, in any format that ASE reads (such as extended XYZ).

    energy_key, forces_key, stress_key: where they stand in ``atoms.info`` and ``atoms.arrays``, or among the
            results of ASE, if they are not those that ASE knows

    There is no Hamiltonian in them: they can teach energies and forces beside structures that have one.
    The energy is the free energy where both are given, since forces are its derivative. With ``energy_key``
    the stress that ASE knows, which may be of another method, is left out. Forces are those of
    the calculation, also on atoms that a constraint held. Raises InputError, with the name of the frame, for
    what has no energy or forces, is no structure for the model, or has two energies or forces of which only
    one is named.
    """
    return [
        _label(name, atoms, energy_key, forces_key, stress_key) for name, atoms in read_frames(paths).items()
    ]


def _label(
    name: str, atoms: Atoms, energy_key: str | None, forces_key: str | None, stress_key: str | None
) -> LabelledStructure:
    known = {} if atoms.calc is None else atoms.calc.results
    found: dict[str, Any] = {**known, **atoms.info, **atoms.arrays}
    if bool(energy_key) != bool(forces_key) and {"energy", "forces"} <= known.keys():
        raise InputError(
            f"frame {name!r} has the energy and forces of a method that ASE knows beside "
            f"{energy_key or forces_key!r}, which may be of another: name both, by --energy-key and "
            "--forces-key ('energy' and 'forces' are those that ASE knows)"
        )
    energy = found.get(energy_key) if energy_key else known.get("free_energy", known.get("energy"))
    forces = found.get(forces_key) if forces_key else known.get("forces")
    stress = found.get(stress_key) if stress_key else None if energy_key else known.get("stress")
    if energy is None or forces is None:
        raise InputError(
            f"frame {name!r} has no energy or no forces; it has {', '.join(found)}: name them by "
            "--energy-key and --forces-key"
        )
    try:
        return LabelledStructure(
            name=name,
            system=System.from_ase(atoms),
            energy=float(energy),
            forces=np.asarray(forces, dtype=np.float64),
            stress=None if stress is None else _full(np.asarray(stress, dtype=np.float64)),
        )
    except (StructureError, TypeError, ValueError) as error:
        raise InputError(f"frame {name!r}: {error}") from error


def _full(stress: Array) -> Array:
    """(3, 3), from ASE's six numbers xx, yy, zz, yz, xz, xy or from nine; raises ValueError for others."""
    return np.asarray(voigt_6_to_full_3x3_stress(stress) if stress.size == 6 else stress.reshape(3, 3))


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

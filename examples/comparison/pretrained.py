"""Energies and forces of pretrained potentials, for compare.py --pretrained-python.

    python pretrained.py FRAMES.xyz FOLDER

Runs in an environment of its own with ``chgnet`` and ``sevenn``, whose weights come with the packages. Writes
FOLDER/NAME.xyz for each of them: the frames with ``other_energy`` in eV and ``other_forces`` in eV/Å.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import ase.io
from ase.calculators.calculator import Calculator


def chgnet() -> Calculator:
    from chgnet.model.dynamics import CHGNetCalculator
    from chgnet.model.model import CHGNet

    return CHGNetCalculator(CHGNet.load(model_name="0.3.0"), use_device="cpu")


def sevennet() -> Calculator:
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator("7net-0", device="cpu")


POTENTIALS: dict[str, Callable[[], Calculator]] = {"CHGNet 0.3.0": chgnet, "SevenNet-0": sevennet}


def main(frames: str, folder: str) -> None:
    for name, make in POTENTIALS.items():
        calculator = make()
        found = []
        for atoms in ase.io.read(frames, ":"):
            copy = atoms.copy()
            copy.calc = calculator
            copy.info["other_energy"], forces = copy.get_potential_energy(), copy.get_forces()
            copy.calc = None
            copy.arrays["other_forces"] = forces
            found.append(copy)
        ase.io.write(Path(folder) / f"{name}.xyz", found)


if __name__ == "__main__":
    main(*sys.argv[1:])

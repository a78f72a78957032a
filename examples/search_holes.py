"""Look for structures where the model's energy falls without bound, or where it gives up.

    python examples/search_holes.py --structures 500

Atoms at random places (some on top of each other), crushed and torn cells, each relaxed for some steps,
displaced at random and relaxed again (basin hopping). A hole is an energy far below that of the glass with as
many atoms, or a structure that the model refuses. Prints the lowest energies, and ends with an error if there
is a hole.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read, write
from ase.optimize import FIRE
from rich.progress import track

from mlh_driver import MLHCalculator
from mlh_driver.errors import MLHError

GLASS = Path(__file__).parent / "glass.xyz"
#: No arrangement of Si and 2 O is more stable than quartz, some 0.1 eV per atom below a glass.
LOWEST_eV = -0.2
#: Of the density of the glass: torn, ..., crushed.
DENSITIES = (0.5, 1.0, 1.5, 2.5)
HOPS, HOP_A = 2, 0.4
TEMPERATURE_K = 2000.0


@dataclass(frozen=True)
class Outcome:
    """The lowest energy above the glass, in eV per atom, its structure, and why the search ended early."""

    energy: float
    atoms: Atoms
    failure: str


def random_structure(n_atoms: int, volume_A3: float, rng: np.random.Generator) -> Atoms:
    """SiO2 at random in a cube; nothing keeps atoms apart."""
    side = volume_A3 ** (1 / 3)
    symbols = ["O" if k % 3 else "Si" for k in range(n_atoms)]
    return Atoms(symbols, side * rng.random((n_atoms, 3)), cell=[side] * 3, pbc=True)


def lowest(atoms: Atoms, calculator: MLHCalculator, glass: float, steps: int, seed: int) -> Outcome:
    """Basin hopping from one structure; ``glass`` is the energy of the glass in eV per atom."""
    rng = np.random.default_rng(seed)
    best, structure = np.inf, atoms.copy()
    atoms.calc = calculator
    try:
        for hop in range(HOPS + 1):
            if hop:
                atoms.positions += HOP_A * rng.normal(size=atoms.positions.shape)
            FIRE(atoms, logfile=None, maxstep=0.2).run(fmax=0.5, steps=steps)
            energy = atoms.get_potential_energy() / len(atoms) - glass
            if energy < best:
                best, structure = energy, atoms.copy()
    except MLHError as error:
        return Outcome(best, atoms.copy(), str(error))
    return Outcome(best, structure, "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--structures", type=int, default=500)
    parser.add_argument("--atoms", type=int, default=24)
    parser.add_argument("--steps", type=int, default=40, help="of each relaxation")
    parser.add_argument("--model", default="asio2-minimal")
    parser.add_argument("--out", type=Path, default=Path("holes.xyz"), help="where holes are written")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # random structures are far from the training data
    calculator = MLHCalculator(
        options.model,
        electronic_temperature_K=TEMPERATURE_K,
        sampling="gamma",  # the cells are small
    )
    glass = read(GLASS)
    glass.calc = calculator
    reference = glass.get_potential_energy() / len(glass)
    outcomes = []
    for seed in track(range(options.structures), description="random structures"):
        volume = glass.get_volume() / len(glass) * options.atoms / DENSITIES[seed % len(DENSITIES)]
        atoms = random_structure(options.atoms, volume, np.random.default_rng(seed))
        outcomes.append(lowest(atoms, calculator, reference, options.steps, seed))
    energies = np.array([outcome.energy for outcome in outcomes])
    holes = [o for o in outcomes if o.failure or o.energy < LOWEST_eV]
    print("lowest energies above the glass (eV/atom), by density relative to it:")
    for k, density in enumerate(DENSITIES[: len(outcomes)]):
        some = np.sort(energies[k :: len(DENSITIES)])
        print(f"  {density:3g}: lowest {some[0]:.3f}, median {np.median(some):.3f}")
    print(f"{len(holes)} holes in {len(outcomes)} structures")
    if holes:
        write(options.out, [hole.atoms for hole in holes])
        for hole in holes[:10]:
            print(f"  {hole.energy:.3f} eV/atom {hole.failure}")
        sys.exit(f"the model has holes; see {options.out}")


if __name__ == "__main__":
    main()

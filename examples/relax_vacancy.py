"""Relax an oxygen vacancy in amorphous SiO2 with ASE, at fixed or at free cell.

python examples/relax_vacancy.py
python examples/relax_vacancy.py --cell --fmax 0.05 --output relaxed.xyz
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from mlh_driver import MLHCalculator


def vacancy_pair(atoms: Atoms) -> tuple[int, int]:
    """The two silicon atoms that face each other where the oxygen is missing: the closest Si-Si pair."""
    silicon = np.flatnonzero(atoms.symbols == "Si")
    distances = atoms[silicon].get_all_distances(mic=True)
    np.fill_diagonal(distances, np.inf)
    i, j = np.unravel_index(distances.argmin(), distances.shape)
    return int(silicon[i]), int(silicon[j])


def describe(title: str, atoms: Atoms) -> None:
    results = atoms.calc.last_results
    i, j = vacancy_pair(atoms)
    print(
        f"{title:8s} energy {results.energy:.4f} eV, largest force "
        f"{np.linalg.norm(results.forces, axis=1).max():.3f} eV/Å, gap {results.band_gap:.2f} eV, "
        f"Si-Si {atoms.get_distance(i, j, mic=True):.3f} Å, volume {atoms.get_volume():.1f} Å^3, "
        f"extrapolation {results.extrapolation:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("structure", nargs="?", default=Path(__file__).with_name("vacancy.xyz"), type=Path)
    parser.add_argument("--model", default="asio2-minimal")
    parser.add_argument("--cell", action="store_true", help="relax the cell as well")
    parser.add_argument("--fmax", default=0.02, type=float, help="eV/Å")
    parser.add_argument("--steps", default=300, type=int)
    parser.add_argument("--output", default="relaxed.xyz", type=Path)
    options = parser.parse_args()
    if not options.structure.is_file():
        parser.error(f"there is no file {options.structure}")

    atoms = ase.io.read(options.structure)
    atoms.calc = MLHCalculator(model=options.model)
    atoms.get_potential_energy()
    describe("start", atoms)
    with BFGS(FrechetCellFilter(atoms) if options.cell else atoms) as optimizer:
        converged = optimizer.run(fmax=options.fmax, steps=options.steps)
    describe("relaxed" if converged else "unfinished", atoms)
    ase.io.write(options.output, atoms)


if __name__ == "__main__":
    main()

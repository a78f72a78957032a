"""Where an oxygen vacancy puts its level: densities of states, the atoms that carry it, and their charges.

    python examples/defect_levels.py --output defect_levels.png

Two structures are compared, the glass and the glass with a vacancy. The model's zero of potential differs
from one structure to the next, so levels are aligned at the mean of the O 2s band, which a neutral defect
hardly moves. Empty levels are those of the minimal basis (valence antibonding states), not a conduction band.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import ase.io
import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlh_driver import Engine
from mlh_driver.results import Results
from mlh_driver.system import System

BROADENING_eV = 0.15
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Levels:
    """Electronic structure of one cell.

    energies:   (n,) levels in eV, zero at the mean of the O 2s band
    weights:    (N, n) share of each atom in each level; columns sum to 1
    n_occupied: number of doubly occupied levels
    """

    energies: NDArray[np.float64]
    weights: NDArray[np.float64]
    n_occupied: int
    results: Results

    @classmethod
    def of(cls, atoms: Atoms, engine: Engine) -> Levels:
        system = System.from_ase(atoms)
        results = engine.compute(system)
        energies, orbitals = np.linalg.eigh(engine.hamiltonian(system))
        per_orbital = orbitals**2
        weights = per_orbital.reshape(len(atoms), -1, len(energies)).sum(axis=1)  # four orbitals per atom
        n_oxygen = int((atoms.symbols == "O").sum())
        n_electrons = 4 * (len(atoms) - n_oxygen) + 6 * n_oxygen
        return cls(energies - energies[:n_oxygen].mean(), weights, n_electrons // 2, results)

    @property
    def highest(self) -> float:
        """The highest occupied level in eV."""
        return float(self.energies[self.n_occupied - 1])

    def density(self, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """Density of states per eV on ``grid``, both spins."""
        distances = (grid[:, None] - self.energies) / BROADENING_eV
        return 2.0 * np.exp(-0.5 * distances**2).sum(axis=1) / (BROADENING_eV * np.sqrt(2.0 * np.pi))


def report(vacancy: Atoms, defect: Levels, glass: Levels) -> None:
    """Print the level, and the atoms that carry it with their charges."""
    above = defect.highest - glass.highest
    print(f"highest occupied level: {above:+.2f} eV from the valence band edge of the glass")
    print(f"gap: {glass.results.band_gap:.2f} eV (glass), {defect.results.band_gap:.2f} eV (vacancy)")
    share = defect.weights[:, defect.n_occupied - 1]
    mean = {s: defect.results.charges[vacancy.symbols == s].mean() for s in ("Si", "O")}
    print("atom      share of the level   charge (e)   mean of the element")
    for atom in np.argsort(share)[::-1][:6]:
        symbol = vacancy.symbols[atom]
        charge = defect.results.charges[atom]
        print(f"{symbol:2s} {atom:4d} {share[atom]:18.2f} {charge:14.2f} {mean[symbol]:18.2f}")


def plot(defect: Levels, glass: Levels, path: Path) -> None:
    grid = np.linspace(-3.0, max(defect.energies[-1], glass.energies[-1]) + 1.0, 1500)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.fill_between(grid, glass.density(grid), color="0.8", label="glass")
    axes.plot(grid, defect.density(grid), color="C0", lw=1.2, label="oxygen vacancy")
    axes.axvline(defect.highest, color="C3", lw=1.0, ls="--", label="defect level (occupied)")
    axes.set(
        xlabel="energy from the O 2s band (eV)",
        ylabel="states per eV",
        xlim=(grid[0], grid[-1]),
        ylim=(0, None),
    )
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--glass", default=FOLDER / "glass.xyz", type=Path)
    parser.add_argument("--vacancy", default=FOLDER / "vacancy.xyz", type=Path, help="best relaxed first")
    parser.add_argument("--model", default="asio2-minimal")
    parser.add_argument("--output", default="defect_levels.png", type=Path)
    options = parser.parse_args()

    engine = Engine(options.model)
    vacancy = ase.io.read(options.vacancy)
    glass, defect = Levels.of(ase.io.read(options.glass), engine), Levels.of(vacancy, engine)
    report(vacancy, defect, glass)
    plot(defect, glass, options.output)


if __name__ == "__main__":
    main()

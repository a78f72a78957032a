"""Drift of the total energy in NVE, in a glass of several hundred atoms, with the linear-time solver.

    python examples/benchmarks/nve_drift.py [--repeat 3 2 1] [--steps 2000] [--solver sp2]

Velocities are drawn at 600 K and the structure equilibrates for a tenth of the run. The drift is the slope
of a straight line through the total energy; its error bar comes from the scatter around the line.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ase.io
import numpy as np
from ase import units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from rich.progress import track

from mlh_driver import MLHCalculator

GLASS = Path(__file__).resolve().parents[1] / "glass.xyz"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, nargs=3, default=[3, 2, 1])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--timestep", type=float, default=0.5, help="in fs")
    parser.add_argument("--solver", default="sp2")
    options = parser.parse_args()
    atoms = ase.io.read(GLASS) * options.repeat
    atoms.calc = MLHCalculator(solver=options.solver)
    MaxwellBoltzmannDistribution(atoms, temperature_K=600, rng=np.random.default_rng(0))
    dynamics = VelocityVerlet(atoms, options.timestep * units.fs)
    energies = []
    for _ in track(range(options.steps), description=f"{len(atoms)} atoms, {options.solver}"):
        dynamics.run(1)
        energies.append(atoms.get_total_energy() / len(atoms))
    kept = 1e3 * np.array(energies[options.steps // 10 :])
    times = options.timestep * 1e-3 * np.arange(len(kept))
    (slope, _), covariance = np.polyfit(times, kept - kept[0], 1, cov=True)
    scatter = np.std(kept - slope * times)
    print(
        f"{len(atoms)} atoms, {options.timestep * options.steps * 1e-3:.2f} ps: drift {slope:+.4f} +- "
        f"{covariance[0, 0] ** 0.5:.4f} meV/atom/ps, scatter {scatter:.4f} meV/atom, "
        f"{atoms.get_temperature():.0f} K"
    )


if __name__ == "__main__":
    main()

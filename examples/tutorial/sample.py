"""Frames of plain dynamics with a model, to label and to test it on: 0.2 ps at each of three temperatures.

python sample.py run/ice.pt ice.xyz md.xyz
mlh-driver label md.xyz --engine cp2k --out md.h5 --split test
mlh-driver evaluate md.h5 --model run/ice.pt
"""

import sys

import ase.io
import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from mlh_driver import MLHCalculator

TEMPERATURES_K = (100, 200, 300)
TIMESTEP_FS, STEPS = 0.5, 400

model, start, output = sys.argv[1:]
calculator = MLHCalculator(model)
frames = []
for temperature in TEMPERATURES_K:
    atoms = ase.io.read(start)
    atoms.calc = calculator
    rng = np.random.default_rng(0)
    start_K = 2 * temperature  # half of it becomes potential energy
    MaxwellBoltzmannDistribution(atoms, temperature_K=start_K, rng=rng)
    bath = {"temperature_K": temperature, "friction": 0.02 / units.fs, "fixcm": False, "rng": rng}
    Langevin(atoms, TIMESTEP_FS * units.fs, **bath).run(STEPS)
    print(f"{temperature} K: indicator {calculator.results['extrapolation']:.2f}")
    name = {"name": f"md{temperature}"}
    frames.append(Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True, info=name))
ase.io.write(output, frames)

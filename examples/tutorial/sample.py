"""Frames of plain dynamics with a model, to label and to test it on: 0.2 ps at each of three temperatures.

python sample.py run/ice.pt ice.xyz md.xyz
mlh-driver label md.xyz --engine cp2k --out md.h5 --split test
mlh-driver evaluate md.h5 --model run/ice.pt
"""

import sys

import ase.io
import numpy as np

from mlh_driver import MLHCalculator
from mlh_driver.learning.explore import langevin, plain

TEMPERATURES_K = (100, 200, 300)
TIMESTEP_FS, STEPS = 0.5, 400

model, start, output = sys.argv[1:]
calculator = MLHCalculator(model)
frames = []
for temperature in TEMPERATURES_K:
    atoms = ase.io.read(start)
    atoms.calc = calculator
    langevin(atoms, temperature, TIMESTEP_FS, np.random.default_rng(0)).run(STEPS)
    print(f"{temperature} K: indicator {calculator.results['extrapolation']:.2f}")
    frames.append(plain(atoms))
    frames[-1].info["name"] = f"md{temperature}"
ase.io.write(output, frames)

"""Frames of plain dynamics with a model, to label and to test it on: 400 steps at each of three temperatures.

python sample.py run/ice.pt ice.xyz md.xyz [STEPS]
mlh-driver label md.xyz --reference cp2k --out md.h5 --split test
mlh-driver evaluate md.h5 --model run/ice.pt
"""

import sys

import ase.io
import numpy as np
from ase import units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from mlh_driver import MLHCalculator
from mlh_driver.structures import bare

TEMPERATURES_K = (100, 200, 300)
TIMESTEP_FS = 0.5

model, start, output, *others = sys.argv[1:]
steps = int(others[0]) if others else 400
calculator = MLHCalculator(model)
frames = []
for temperature in TEMPERATURES_K:
    atoms = ase.io.read(start)
    atoms.calc = calculator
    rng = np.random.default_rng(0)
    MaxwellBoltzmannDistribution(
        atoms, temperature_K=2 * temperature, rng=rng
    )  # half becomes potential energy
    thermostat = {"temperature_K": temperature, "friction": 0.02 / units.fs, "rng": rng}
    Langevin(atoms, TIMESTEP_FS * units.fs, **thermostat).run(steps)
    print(f"{temperature} K: indicator {calculator.last_results.extrapolation:.2f}")
    frames.append(bare(atoms))
    frames[-1].info["name"] = f"md{temperature}"
ase.io.write(output, frames)

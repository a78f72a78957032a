"""Write the seed of the tutorial: proton-ordered cubic ice, 8 molecules.

    python ice.py ice.xyz

Oxygen sits on a diamond lattice. Each molecule of one sublattice gives its hydrogen along the first two bond
directions, each of the other along the last two: every bond has one hydrogen (doi:10.1063/1.1749327).
"""

import sys

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk

LATTICE_A = 6.36
OH_A = 0.98

oxygen = bulk("O", "diamond", a=LATTICE_A, cubic=True)
bonds = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
hydrogen = []
for position in oxygen.positions:
    on_first = np.allclose(position / (LATTICE_A / 2) % 1, 0)
    directions = bonds[:2] if on_first else -bonds[2:]
    hydrogen += [position + OH_A * direction for direction in directions]
ice = oxygen + Atoms(["H"] * len(hydrogen), hydrogen)
ice.info["name"] = "ice"
if len(sys.argv) != 2:
    raise SystemExit("name the file to write: python ice.py ice.xyz")
ase.io.write(sys.argv[1], ice)

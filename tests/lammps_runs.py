"""Short runs of a real LAMMPS in this process, and what they wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.lammps import convert

from mlh_driver import ForceEngine, Results, System
from mlh_driver.interfaces.lammps import run_script
from mlh_driver.results import OBSERVABLES

SYMBOLS = ("Si", "O")
QUIET = ("-log", "none", "-screen", "none")


class Recorder:
    """An engine that remembers what it was asked and what it answered."""

    def __init__(self, engine: ForceEngine) -> None:
        self.engine = engine
        self.systems: list[System] = []

    def compute(self, system: System) -> Results:
        self.systems.append(system)
        return self.engine.compute(system)


def write_data(
    atoms: Atoms, path: Path | str, *, ids: np.ndarray | None = None, origin: np.ndarray | None = None,
    units: str = "metal", masses: tuple[float, float] = (28.085, 15.999),
) -> None:  # fmt: skip
    """A LAMMPS data file of Si and O; the cell must have LAMMPS' orientation."""
    length = convert(1.0, "distance", "ASE", units)
    mass = convert(1.0, "mass", "ASE", units)
    origin = np.zeros(3) if origin is None else origin
    ids = np.arange(1, len(atoms) + 1) if ids is None else ids
    cell = atoms.cell.array * length
    lines = ["test", f"{len(atoms)} atoms", "2 atom types"]
    lines += [
        f"{lo:.15g} {lo + cell[i, i]:.15g} {a}lo {a}hi"
        for i, (a, lo) in enumerate(zip("xyz", origin, strict=True))
    ]
    if abs(cell - np.diag(np.diag(cell))).max() > 0:
        lines += [f"{cell[1, 0]:.15g} {cell[2, 0]:.15g} {cell[2, 1]:.15g} xy xz yz"]
    lines += [
        "",
        "Masses",
        "",
        *(f"{i} {m * mass:.15g}" for i, m in enumerate(masses, 1)),
        "",
        "Atoms # atomic",
        "",
    ]
    for number, symbol, position in zip(ids, atoms.symbols, atoms.positions * length + origin, strict=True):
        x, y, z = position
        lines.append(f"{number} {SYMBOLS.index(symbol) + 1} {x:.15g} {y:.15g} {z:.15g}")
    Path(path).write_text("\n".join(lines) + "\n")


def sheared(atoms: Atoms) -> Atoms:
    """The glass in a triclinic cell of LAMMPS' orientation, a little strained."""
    cell = atoms.cell.array @ np.array([[1.01, 0.0, 0.0], [0.06, 0.99, 0.0], [-0.04, 0.05, 1.0]])
    atoms = atoms.copy()
    atoms.set_cell(cell, scale_atoms=True)
    return atoms


SETUP = """
units {units}
boundary p p p
read_data {data}
fix mlh all external pf/callback 1 1
"""

REPORT = """
compute parts all pe/atom
dump report all custom 1 report.dump id type x y z fx fy fz c_parts
dump_modify report sort id format float %.15g
compute sum all reduce sum c_parts
run {steps}
print "$(pe:%.15g) $(c_sum:%.15g) $(vol:%.15g)" file report.txt screen no
print "$(pxx:%.15g) $(pyy:%.15g) $(pzz:%.15g) {shear}" append report.txt screen no
print "{vector}" append report.txt screen no
""".replace("{vector}", " ".join(f"$(f_mlh[{i}]:%.15g)" for i in range(1, len(OBSERVABLES) + 1)))
REPORT = REPORT.replace("{shear}", "$(pyz:%.15g) $(pxz:%.15g) $(pxy:%.15g)")


def read_report() -> tuple[np.ndarray, list[np.ndarray]]:
    """The last frame of the dump (id type x y z fx fy fz energy), and the three lines of the report."""
    frame = Path("report.dump").read_text().split("ITEM: ATOMS")[-1].splitlines()[1:]
    rows = np.array([line.split() for line in frame], dtype=float)
    return rows, [np.array(line.split(), dtype=float) for line in Path("report.txt").read_text().splitlines()]


def run_text(text: str, engine: ForceEngine, *arguments: str, elements: list[str] | None = None) -> int:
    Path("in.test").write_text(text)
    return run_script("in.test", engine, arguments=[*QUIET, *arguments], elements=elements)


def assert_parity(
    expected: Results, volume: float, units: str, rows: np.ndarray, report: list[np.ndarray]
) -> None:
    """LAMMPS has the engine's energy, forces, stress, per-atom energies and observables."""
    n = len(rows)
    energy, parts = convert(report[0][:2], "energy", units, "ASE")
    assert abs(energy - expected.energy) < 1e-7 * n
    assert abs(parts - expected.energy) < 1e-7 * n
    assert np.abs(convert(rows[:, 8], "energy", units, "ASE") - expected.energies).max() < 1e-6
    assert abs(convert(report[0][2] ** (1 / 3), "distance", units, "ASE") ** 3 - volume) < 1e-6 * volume
    assert np.abs(convert(rows[:, 5:8], "force", units, "ASE") - expected.forces).max() < 1e-6
    stress = -convert(report[1], "pressure", units, "ASE")  # Voigt order xx yy zz yz xz xy
    assert np.abs(stress - expected.stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]).max() < 1e-7
    assert np.allclose(report[2], list(expected.observables().values()), rtol=1e-9, atol=1e-9)

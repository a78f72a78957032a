"""Every interface gives the same energy, forces and stress, in the single precision that MD uses.

Double precision is compared, more tightly, where each interface is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.units import GPa
from processes import DRIVER, launching, sheared, write_ipi_xyz

from mlh_driver import Engine, MLHCalculator, System
from mlh_driver.interfaces.lammps import bind
from mlh_driver.interfaces.lammps.library import open_lammps
from mlh_driver.interfaces.sockets.pes import MLHDriver
from mlh_driver.interfaces.sockets.remote import RemoteEngine
from mlh_driver.interfaces.sockets.wire import ANGSTROM, ELECTRONVOLT
from mlh_driver.system import Array

Numbers = tuple[float, Array, Array]
"""Energy (eV), forces (N, 3), stress (3, 3)."""


def through_ase(atoms: Atoms, folder: Path) -> Numbers:
    atoms = atoms.copy()
    atoms.calc = MLHCalculator("asio2-minimal")
    return atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)


def through_ipi_pes(atoms: Atoms, folder: Path) -> Numbers:
    write_ipi_xyz(atoms, folder / "init.xyz")
    driver = MLHDriver(template=str(folder / "init.xyz"))
    energy, forces, virial, _ = driver(atoms.cell.array.T * ANGSTROM, atoms.positions * ANGSTROM)
    upper = np.triu(virial)
    full = upper + np.triu(virial, 1).T
    force_unit = ELECTRONVOLT / ANGSTROM
    return energy / ELECTRONVOLT, forces / force_unit, -full / ELECTRONVOLT / atoms.get_volume()


def through_server(atoms: Atoms, folder: Path) -> Numbers:
    with launching(folder) as start:
        server = start(*DRIVER, "serve", "--unix", f"{folder}/socket")
        server.wait_for("listening on unix socket")
        remote = RemoteEngine(f"unix:{folder}/socket")
        results = remote.compute(System.from_ase(atoms))
        remote.close()
    return results.energy, results.forces, results.stress


def through_lammps(atoms: Atoms, folder: Path) -> Numbers:
    ase.io.write(folder / "a.data", atoms, format="lammps-data", specorder=["O", "Si"], masses=True)
    with open_lammps(["-log", "none", "-screen", "none"]) as lmp:
        lmp.commands_string(
            f"units metal\natom_modify map array\nread_data {folder}/a.data\n"
            "fix mlh all external pf/callback 1 1\nthermo_style custom step pe pxx pyy pzz pyz pxz pxy\n"
        )
        bind(lmp, "mlh", Engine("asio2-minimal"))
        lmp.command("run 0")
        forces = np.array(lmp.numpy.extract_atom("f"))[: len(atoms)]
        tags = np.array(lmp.numpy.extract_atom("id"))[: len(atoms)]
        xx, yy, zz, yz, xz, xy = (lmp.get_thermo(f"p{k}") for k in ("xx", "yy", "zz", "yz", "xz", "xy"))
        energy = lmp.get_thermo("pe")
    pressure = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    return energy, forces[np.argsort(tags)], -pressure * 1e-4 * GPa


@pytest.mark.parametrize("interface", [through_ase, through_ipi_pes, through_server, through_lammps])
def test_single_precision_parity(
    host: Atoms, tmp_path: Path, interface: Callable[[Atoms, Path], Numbers]
) -> None:
    """Triclinic, off-origin: within 1e-5 eV/atom and eV/Å of the engine."""
    atoms = sheared(host)
    if interface is through_lammps:
        atoms.wrap()  # where read_data wants atoms to be
    expected = Engine("asio2-minimal").compute(System.from_ase(atoms))
    energy, forces, stress = interface(atoms, tmp_path)
    assert energy == pytest.approx(expected.energy, abs=1e-5 * len(atoms))
    np.testing.assert_allclose(forces, expected.forces, atol=1e-5)
    np.testing.assert_allclose(stress, expected.stress, atol=1e-6)

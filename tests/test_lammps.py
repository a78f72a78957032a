"""LAMMPS with the model as its force engine has the energy, forces and stress of the engine."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lammps import convert
from fake_engine import Engine as FakeEngine
from lammps_runs import (
    REPORT,
    SETUP,
    Recorder,
    assert_parity,
    read_report,
    run_text,
    sheared,
    write_data,
)

from mlh_driver import Engine, System
from mlh_driver.errors import InputError

pytestmark = pytest.mark.usefixtures("no_hang", "own_folder")

UNITS = ("metal", "real", "electron", "si", "cgs", "micro", "nano")


@pytest.mark.parametrize("units", ["metal", "real"])
def test_static_parity_triclinic_off_origin_shuffled(host: Atoms, engine64: Engine, units: str) -> None:
    atoms = sheared(host)
    atoms.positions += np.random.default_rng(1).normal(0.0, 0.05, atoms.positions.shape)
    shuffled = np.random.default_rng(2).permutation(len(atoms)) + 1
    write_data(atoms, "a.data", ids=shuffled, origin=np.array([-7.0, 3.0, 110.0]), units=units)
    run_text(SETUP.format(units=units, data="a.data") + REPORT.format(steps=0), engine64)
    rows, report = read_report()
    expected = engine64.compute(System.from_ase(atoms))
    rows = rows[shuffled - 1]  # back to the order of `atoms`
    assert_parity(expected, atoms.cell.volume, units, rows, report)


def test_parity_while_atoms_leave_the_box_and_are_reordered(host: Atoms, engine64: Engine) -> None:
    """No wrapping and no new order for 6 steps; then, with sorting in every step, again."""
    write_data(host, "a.data")
    move = "pair_style zero 2.0\npair_coeff * *\nfix move all nve\nvelocity all set 60.0 50.0 -55.0\n"
    for rule in (
        "neigh_modify once yes\n",
        "atom_modify sort 1 3.0\nneigh_modify every 1 delay 0 check no\n",
    ):
        recorder = Recorder(engine64)
        setup = SETUP.format(units="metal", data="a.data").replace(
            "read_data", "atom_modify map array\nread_data"
        )
        run_text(setup + move + rule + REPORT.format(steps=6), recorder)
        rows, report = read_report()
        drifted = System(recorder.systems[-1].numbers, rows[:, 2:5], host.cell.array)
        expected = engine64.compute(drifted)
        assert np.abs(rows[:, 5:8] - expected.forces).max() < 1e-6
        assert abs(report[0][0] - expected.energy) < 1e-7 * len(host)
        assert (recorder.systems[-1].numbers == host.numbers).all()
        outside = (rows[:, 2:5] < 0) | (rows[:, 2:5] > host.cell.lengths())
        assert outside.any() == ("once" in rule)


@pytest.mark.parametrize("units", UNITS)
def test_every_unit_system(host: Atoms, units: str) -> None:
    write_data(host, "a.data", units=units)
    run_text(SETUP.format(units=units, data="a.data") + REPORT.format(steps=0), FakeEngine())
    rows, report = read_report()
    expected = FakeEngine().compute(System.from_ase(host))
    assert abs(convert(report[0][0], "energy", units, "ASE") / expected.energy - 1) < 1e-7
    assert np.allclose(convert(rows[:, 5:8], "force", units, "ASE"), expected.forces, rtol=1e-6, atol=1e-8)
    assert np.allclose(convert(report[1], "pressure", units, "ASE")[:3], [-0.01, -0.02, -0.03], rtol=1e-5)
    assert np.allclose(report[2], list(expected.observables().values()))


def test_units_lj_are_refused(host: Atoms) -> None:
    write_data(host, "a.data")
    with pytest.raises(InputError, match=r"units lj.*metal"):
        run_text(SETUP.format(units="lj", data="a.data") + "run 0", FakeEngine())

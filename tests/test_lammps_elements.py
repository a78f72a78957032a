"""Which element a LAMMPS atom type is."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list
from fake_engine import Engine as FakeEngine
from lammps_runs import (
    REPORT,
    SETUP,
    Recorder,
    read_report,
    run_text,
    write_data,
)

from mlh_driver import Engine
from mlh_driver.errors import InputError, MLHError

pytestmark = pytest.mark.usefixtures("no_hang", "own_folder")


def numbers_seen(text: str, elements: list[str] | None = None) -> list[int]:
    recorder = Recorder(FakeEngine())
    run_text(text + "run 0\n", recorder, elements=elements)
    return recorder.systems[0].numbers.tolist()


def test_elements_from_masses_labels_and_option(host: Atoms) -> None:
    setup = SETUP.format(units="metal", data="a.data")
    expected = host.numbers.tolist()
    write_data(host, "a.data", masses=(28.0, 16.0))
    assert numbers_seen(setup) == expected
    assert numbers_seen(setup, ["C", "Ge"]) == [{14: 6, 8: 32}[z] for z in expected]
    with pytest.raises(InputError, match="names O as atom type 1, whose mass of 28 amu is that of Si"):
        numbers_seen(setup, ["O", "Si"])
    with pytest.raises(InputError, match="label of atom type 1 is O, its mass of 28 amu that of Si"):
        numbers_seen(setup + "labelmap atom 1 O 2 Si\n")
    write_data(host, "a.data", masses=(20.6, 16.0))
    assert numbers_seen(setup + "labelmap atom 1 Ge 2 oxygen\n") == [{14: 32, 8: 8}[z] for z in expected]
    write_data(host, "a.data", masses=(20.6, 1.0))  # neither is an element's, or meant to be
    assert numbers_seen(setup + "labelmap atom 1 Si 2 O\n") == expected


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        (None, r"type 2 has the mass 36\.5 amu.*Cl, 35\.45.*--elements"),
        (["Si"], r"names 1 elements.*2 atom types"),
        (["Si", "Ox"], r"'Ox' is not the symbol of an element"),
        (["NULL", "NULL"], r"the model needs at least one type"),
    ],
)
def test_unclear_elements_are_errors(host: Atoms, elements: list[str] | None, message: str) -> None:
    write_data(host, "a.data", masses=(28.085, 36.5))
    with pytest.raises(InputError, match=message):
        run_text(SETUP.format(units="metal", data="a.data") + "run 1\n", FakeEngine(), elements=elements)


def test_types_without_the_model_have_the_forces_of_a_pair_style_alone(host: Atoms) -> None:
    """Three atoms amid the others, with IDs amid theirs; Lennard-Jones acts on them and on nothing else."""
    ids = np.random.default_rng(1).permutation(len(host)) + 1
    write_data(host, "a.data", ids=ids)
    classical = "pair_style lj/cut 3.0\npair_coeff * * 0.0 1.0\npair_coeff * 3 0.01 1.5\n"
    setup = (
        SETUP.format(units="metal", data="a.data extra/atom/types 1") + "mass 3 40.0\nset atom 7*9 type 3\n"
    )
    recorder = Recorder(FakeEngine())
    run_text(setup + classical + REPORT.format(steps=0), recorder, elements=["Si", "O", "NULL"])
    rows, report = read_report()

    atoms = host[np.argsort(ids)]  # as LAMMPS and the model have them, by ID
    hidden = np.isin(np.arange(len(atoms)), [6, 7, 8])
    assert recorder.systems[0].numbers.tolist() == atoms.numbers[~hidden].tolist()
    np.testing.assert_allclose(recorder.systems[0].positions, atoms.positions[~hidden], atol=1e-9)
    model = FakeEngine().compute(recorder.systems[0])
    forces, energies = np.zeros((len(atoms), 3)), np.zeros(len(atoms))
    forces[~hidden], energies[~hidden] = model.forces, model.energies
    assert hidden.sum() == 3 and rows[hidden, 1].tolist() == [3, 3, 3]
    i, j, d, D = neighbor_list("ijdD", atoms, 3.0)
    pairs = hidden[i] | hidden[j]
    x = np.where(pairs, (1.5 / d) ** 6, 0.0)
    np.add.at(forces, i, -(0.24 * (2 * x**2 - x) / d**2)[:, None] * D)
    np.add.at(energies, i, 0.02 * (x**2 - x))
    assert abs(forces[hidden]).max() > 1e-3
    np.testing.assert_allclose(rows[:, 5:8], forces, atol=1e-8)
    np.testing.assert_allclose(rows[:, 8], energies, atol=1e-8)
    assert report[0][0] == pytest.approx(energies.sum(), abs=1e-6)


def test_a_box_of_nothing_but_types_without_the_model(host: Atoms) -> None:
    write_data(host, "a.data")
    text = (
        SETUP.format(units="metal", data="a.data extra/atom/types 1") + "mass 3 40.0\nset group all type 3\n"
    )
    with pytest.raises(InputError, match="all 96 atoms are of types without the model"):
        run_text(text + "run 0\n", FakeEngine(), elements=["Si", "O", "NULL"])


def test_element_that_the_model_does_not_know(host: Atoms, engine64: Engine) -> None:
    write_data(host, "a.data", masses=(28.085, 14.007))
    with pytest.raises(MLHError, match="knows only O, Si"):
        run_text(SETUP.format(units="metal", data="a.data") + "run 1\n", engine64)

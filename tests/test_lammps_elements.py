"""Which element a LAMMPS atom type is."""

from __future__ import annotations

import pytest
from ase import Atoms
from fake_engine import Engine as FakeEngine
from lammps_runs import (
    SETUP,
    Recorder,
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
    assert numbers_seen(setup + "labelmap atom 1 Ge 2 oxygen\n") == [{14: 32, 8: 8}[z] for z in expected]
    write_data(host, "a.data", masses=(20.6, 1.0))  # neither is an element's
    assert numbers_seen(setup + "labelmap atom 1 Si 2 O\n") == expected


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        (None, r"type 2 has the mass 36\.5 amu.*Cl, 35\.45.*--elements"),
        (["Si"], r"names 1 elements.*2 atom types"),
        (["Si", "Ox"], r"'Ox' is not the symbol of an element"),
    ],
)
def test_unclear_elements_are_errors(host: Atoms, elements: list[str] | None, message: str) -> None:
    write_data(host, "a.data", masses=(28.085, 36.5))
    with pytest.raises(InputError, match=message):
        run_text(SETUP.format(units="metal", data="a.data") + "run 1\n", FakeEngine(), elements=elements)


def test_element_that_the_model_does_not_know(host: Atoms, engine64: Engine) -> None:
    write_data(host, "a.data", masses=(28.085, 14.007))
    with pytest.raises(MLHError, match="knows only O, Si"):
        run_text(SETUP.format(units="metal", data="a.data") + "run 1\n", engine64)

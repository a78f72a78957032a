"""The settings of an engine: the same everywhere, and refused where they cannot be used."""

from __future__ import annotations

from dataclasses import fields

import pytest
from conftest import random_model
from typer.main import get_command

from mlh_driver import Engine, EngineSettings
from mlh_driver.cli.main import COMMANDS, app
from mlh_driver.cli.options import ENGINE_OPTIONS, as_options
from mlh_driver.engine_settings import EngineKeywords
from mlh_driver.errors import InputError, ModelFileError
from mlh_driver.interfaces.sockets.pes import MLHDriver
from mlh_driver.solvers import make_solver
from mlh_driver.solvers.base import ERROR_PER_ATOM_meV, Solver

NAMES = [field.name for field in fields(EngineSettings)]
DEFAULTS = {field.name: field.default for field in fields(EngineSettings)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"electronic_temperature_K": -5.0}, r"electronic_temperature_K is -5\.0; give zero or a positive"),
        ({"electronic_temperature_K": float("nan")}, "electronic_temperature_K is nan"),
        ({"error_per_atom_meV": 0.0}, r"error_per_atom_meV is 0\.0; give a positive number of meV"),
        ({"error_per_atom_meV": float("inf")}, "error_per_atom_meV is inf"),
        ({"dtype": "float16"}, "dtype is 'float16'; choose float32 or float64"),
        ({"threads": -1}, "threads is -1; give a number"),
        ({"threads": "two"}, "threads is 'two', a str; give a whole number"),
        ({"threads": 2.0}, r"threads is 2\.0, a float; give a whole number"),
        ({"electronic_temperature_K": "300"}, "electronic_temperature_K is '300', a str; give a number"),
        ({"error_per_atom_meV": None}, "error_per_atom_meV is None, a NoneType; give a number"),
        ({"device": 0}, "device is 0, a int; give text"),
    ],
)
def test_values_that_cannot_be_used_are_named_with_a_remedy(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        EngineSettings(**values)
    assert not isinstance(caught.value, ModelFileError)
    with pytest.raises(InputError, match=message):
        Engine(random_model(), **values)


def test_the_tolerated_error_is_in_meV_per_atom(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, float]] = []

    def noted(name: str, error_meV: float) -> Solver:
        asked.append((name, error_meV))
        return make_solver(name, error_meV)

    monkeypatch.setattr("mlh_driver.engine.make_solver", noted)
    Engine(random_model(), solver="sp2", error_per_atom_meV=0.25)
    Engine(random_model(), solver="sp2")
    assert asked == [("sp2", 0.25), ("sp2", ERROR_PER_ATOM_meV)]
    with pytest.raises(InputError, match="no setting 'error_per_atom', but 'error_per_atom_meV'"):
        Engine(random_model(), error_per_atom=0.1)


def test_keywords_and_options_are_the_settings() -> None:
    assert list(ENGINE_OPTIONS) == NAMES
    assert ["model", *EngineKeywords.__annotations__] == NAMES


WITH_ENGINE = ("predict", "evaluate", "ipi", "lammps", "serve", "vacancies", "melt-quench")


@pytest.mark.parametrize("name", WITH_ENGINE)
def test_every_command_with_an_engine_has_every_option_with_the_same_default(name: str) -> None:
    parameters = {parameter.name: parameter for parameter in get_command(app).commands[name].params}
    of_labels = {"melt-quench": {"electronic_temperature_K": 2000.0}, "evaluate": {"sampling": "gamma"}}
    assert {setting: parameters[setting].default for setting in NAMES} == DEFAULTS | of_labels.get(name, {})


def test_settings_are_told_as_options() -> None:
    assert as_options(EngineSettings()) == ""
    told = as_options(EngineSettings(model="a b.pt", electronic_temperature_K=2000.0, threads=3))
    assert told == "--model 'a b.pt' --electronic-temperature 2000.0 --threads 3"


def test_every_command_that_makes_an_engine_is_tested_here() -> None:
    """One that has any of the options has all of them."""
    commands = get_command(app).commands
    options = {name: {parameter.name for parameter in commands[name].params} for name in COMMANDS}
    assert {name for name in COMMANDS if "solver" in options[name]} == set(WITH_ENGINE)


def test_parameters_of_ipi_are_read_as_numbers_and_unknown_ones_are_refused() -> None:
    found = EngineSettings.parse({"solver": "foe", "electronic_temperature_K": "500", "threads": "2"})
    assert found == EngineSettings(solver="foe", electronic_temperature_K=500.0, threads=2)
    with pytest.raises(InputError, match="electronic_temperature_K is 'warm'; give a number"):
        EngineSettings.parse({"electronic_temperature_K": "warm"})
    with pytest.raises(InputError, match=r"no setting 'temperature'.*threads"):
        MLHDriver(template="init.xyz", temperature=300.0, verbosity="high")

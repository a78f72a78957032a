"""What every force engine does, whichever it is, and who takes it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import random_model, small_system
from fake_engine import Engine as FakeEngine
from processes import DRIVER, launching

from mlh_driver import Engine, ForceEngine, MLHCalculator, System
from mlh_driver.data import LabelledStructure
from mlh_driver.errors import InputError, NonFiniteError, StructureError
from mlh_driver.evaluation import evaluate_structure
from mlh_driver.interfaces.sockets.remote import RemoteEngine
from mlh_driver.model_files import model_digest


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the untrained model in double precision."""
    folder = tmp_path_factory.mktemp("server")
    random_model().save(folder / "random.pt")
    with launching(folder) as start:
        options = ["--unix", f"{folder}/socket", "--model", "random.pt", "--dtype", "float64"]
        start(*DRIVER, "serve", *options).wait_for("listening on unix socket")
        yield f"unix:{folder}/socket"


@pytest.fixture(params=["model in this process", "model in a server", "stand-in of the tests"])
def engine(request: pytest.FixtureRequest) -> Iterator[ForceEngine]:
    if request.param == "model in this process":
        made: ForceEngine = Engine(random_model())
    elif request.param == "model in a server":
        made = RemoteEngine(request.getfixturevalue("address"))
    else:
        made = FakeEngine()
    with closing(made):
        yield made


def test_an_extrapolation_that_is_no_number_is_refused() -> None:
    results = FakeEngine().compute(small_system())
    with pytest.raises(NonFiniteError, match="an extrapolation of nan"):
        replace(results, extrapolation=math.nan).check_finite()


def test_results_are_complete_and_belong_to_the_structure_asked_for(engine: ForceEngine) -> None:
    system = small_system()
    results = engine.compute(system).check_finite()
    for name in ("energies", "charges", "extrapolations"):
        assert getattr(results, name).shape == (len(system),)
    assert results.forces.shape == (len(system), 3)
    assert results.energies.sum() == pytest.approx(results.energy, abs=1e-8)
    np.testing.assert_allclose(results.stress, results.stress.T, atol=1e-10)
    assert all(np.isfinite(value) for value in results.observables().values())
    part = System(system.numbers[:6], system.positions[:6], 1.2 * system.cell)
    assert engine.compute(part).forces.shape == (6, 3)


def test_unknown_elements_are_refused_and_the_next_call_is_answered(engine: ForceEngine) -> None:
    system = small_system()
    expected = engine.compute(system).energy
    with pytest.raises(StructureError, match="know"):
        engine.check_species(np.array([8, 79]))
    engine.check_species(system.numbers)
    assert engine.compute(system).energy == pytest.approx(expected, abs=1e-8)


def test_closing_twice_does_no_harm(engine: ForceEngine) -> None:
    engine.compute(small_system())
    engine.close()
    engine.close()


@pytest.mark.filterwarnings("ignore:force call 1")  # random weights predict anything
def test_any_engine_stands_behind_the_calculator(engine: ForceEngine) -> None:
    atoms = small_system().to_ase()
    atoms.calc = MLHCalculator(engine=engine)
    expected = engine.compute(System.from_ase(atoms))
    assert atoms.get_potential_energy() == pytest.approx(expected.energy, abs=1e-8)
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-8)


def test_any_engine_is_evaluated(engine: ForceEngine) -> None:
    """H is compared where there is one: a server does not send it."""
    system = small_system()
    results = engine.compute(system)
    orbitals = 4 * len(system)
    label = LabelledStructure(
        name="x",
        system=system,
        energy=results.energy - len(system),
        forces=results.forces,
        stress=results.stress,
        hamiltonian=np.diag(np.arange(orbitals, dtype=float)),
    )
    errors = evaluate_structure(engine, label)
    assert errors.energy_eV_atom == pytest.approx(1.0)
    assert abs(errors.forces_eV_A).max() < 1e-8
    assert (errors.hamiltonian is not None) == isinstance(engine, Engine)


@pytest.mark.filterwarnings("ignore:force call 1")  # random weights predict anything
def test_a_calculator_with_a_server_has_its_results(address: str) -> None:
    atoms = small_system().to_ase()
    atoms.calc = MLHCalculator(server=address)
    expected = Engine(random_model()).compute(System.from_ase(atoms))
    assert atoms.get_potential_energy() == pytest.approx(expected.energy, abs=1e-2)  # stored in float32
    assert atoms.calc.last_results.band_gap == pytest.approx(expected.band_gap, abs=1e-3)
    told = atoms.calc.todict()
    assert told["server"] == f"unix socket {address.removeprefix('unix:')}"
    assert told["model_digest"] == model_digest(Path(address.removeprefix("unix:")).with_name("random.pt"))
    assert (told["dtype"], told["model"]) == ("float64", expected.provenance["model"])
    atoms.calc.engine.close()


def test_settings_beside_an_engine_or_a_server_are_refused() -> None:
    with pytest.raises(InputError, match=r"give engine=\.\.\. alone"):
        MLHCalculator(engine=FakeEngine(), solver="sp2")
    with pytest.raises(InputError, match=r"model, solver: without effect with server=.*mlh-driver serve"):
        MLHCalculator("asio2-minimal", server="unix:nowhere", solver="sp2")

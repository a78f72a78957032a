"""Cells that are too narrow for one point of the Brillouin zone are repeated, in whatever way they come."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from conftest import CRISTOBALITE, random_model, small_system
from typer.testing import CliRunner

from mlh_driver import Engine, System
from mlh_driver.cli.main import app
from mlh_driver.data import LabelledStructure, hdf5
from mlh_driver.errors import InputError
from mlh_driver.evaluation import evaluate_structure
from mlh_driver.model import Model
from mlh_driver.results import EXTENSIVE, OBSERVABLES, PER_ATOM, Results
from mlh_driver.small_cells import CellRepeater, repeated
from mlh_driver.system import widths
from mlh_driver.workflows.melt_quench.levels import read_levels, write_levels


def wide_model() -> Model:
    """As if it had been trained on cells of 12 Å."""
    model = random_model()
    return replace(model, metadata=model.metadata.model_copy(update={"narrowest_cell_A": 12.0}))


def test_a_narrow_cell_is_computed_as_the_repeated_one() -> None:
    """The random cell of 5.8 Å, smaller than the range of the network, in double precision."""
    system, model = small_system(), wide_model()
    narrow = Engine(model).compute(system)
    assert narrow.repeats == (2, 2, 2)
    wide = Engine(model, sampling="gamma").compute(repeated(system, narrow.repeats))
    assert wide.repeats == (1, 1, 1)
    assert narrow.energy == pytest.approx(wide.energy / 8, abs=1e-8)
    np.testing.assert_allclose(
        narrow.forces, wide.forces[: len(system)], atol=1e-5
    )  # by the mesh of the potential
    np.testing.assert_allclose(narrow.stress, wide.stress, atol=1e-9)
    np.testing.assert_allclose(narrow.charges, wide.charges[-len(system) :], atol=1e-5)
    assert narrow.energies.sum() == pytest.approx(narrow.energy, abs=1e-8)
    assert narrow.band_gap == pytest.approx(wide.band_gap, abs=1e-8)
    gamma = Engine(model, sampling="gamma").compute(system)
    assert abs(gamma.energy - narrow.energy) > 0.01


def test_every_result_is_of_an_atom_of_the_cell_or_intensive() -> None:
    """Who adds one has to say which: by the name alone it would be taken for intensive."""
    intensive = {"stress", *OBSERVABLES} - set(EXTENSIVE)
    of_the_call = {"timings", "provenance", "repeats"}
    names = [field.name for field in fields(Results)]
    assert set(names) == {"forces", *PER_ATOM, *EXTENSIVE} | intensive | of_the_call


def test_forces_in_a_narrow_cell_are_the_derivative_of_its_energy() -> None:
    system, engine = small_system(), Engine(wide_model())
    force = engine.compute(system).forces[4, 1]
    energies = []
    for shift in (-1e-4, 1e-4):
        positions = system.positions.copy()
        positions[4, 1] += shift
        energies.append(engine.compute(System(system.numbers, positions, system.cell)).energy)
    assert (energies[0] - energies[1]) / 2e-4 == pytest.approx(force, abs=1e-5)


def test_the_shipped_model_gives_a_unit_cell_the_energy_of_the_crystal() -> None:
    engine, unit_cell = Engine(), System.from_ase(CRISTOBALITE)
    narrow = engine.compute(unit_cell)
    wide = engine.compute(System.from_ase(CRISTOBALITE.repeat((3, 3, 2))))
    assert narrow.repeats == (2, 2, 2)
    assert narrow.energy / 12 == pytest.approx(wide.energy / 216, abs=0.002)
    gamma = engine.with_settings(sampling="gamma").compute(unit_cell)
    assert abs(gamma.energy / 12 - wide.energy / 216) > 0.05


def test_levels_along_a_melt_quench_span_the_gap_of_the_repeated_cell(tmp_path: Path) -> None:
    engine = Engine()
    write_levels([(0, CRISTOBALITE)], 1.0, engine, tmp_path / "levels.csv")
    levels = read_levels(tmp_path / "levels.csv")
    gap = engine.compute(System.from_ase(CRISTOBALITE)).band_gap
    assert levels["lumo_eV"] - levels["homo_eV"] == pytest.approx([gap], abs=2e-3)


def test_labels_at_gamma_are_compared_at_gamma() -> None:
    system, model = small_system(), wide_model()
    gamma = Engine(model, sampling="gamma").compute(system)
    label = LabelledStructure("narrow", system, gamma.energy, gamma.forces, stress=gamma.stress)
    assert abs(evaluate_structure(Engine(model), label).energy_eV_atom) < 1e-9
    narrow = Engine(model).compute(system)
    meshed = replace(label, energy=narrow.energy, forces=narrow.forces, stress=narrow.stress)
    assert abs(evaluate_structure(Engine(model), meshed, "auto").energy_eV_atom) < 1e-9
    assert abs(evaluate_structure(Engine(model), meshed).energy_eV_atom) > 1e-4


def test_the_command_says_which_cells_it_compares_at_gamma(tmp_path: Path) -> None:
    label = LabelledStructure("narrow", System.from_ase(CRISTOBALITE), -3900.0, np.zeros((12, 3)))
    hdf5.append(tmp_path / "data.h5", label, "test", {"description": "x"})
    command = ["evaluate", str(tmp_path / "data.h5")]
    at_gamma, meshed = (CliRunner().invoke(app, [*command, *more]) for more in ([], ["--sampling", "auto"]))
    assert "compared at Gamma: narrow. If their labels have more points" in at_gamma.stderr
    assert not meshed.stderr.strip() and at_gamma.exit_code == meshed.exit_code == 0
    assert at_gamma.stdout != meshed.stdout


def test_widths_are_those_between_opposite_faces() -> None:
    hexagonal = bulk("Mg").cell.array
    assert widths(hexagonal) == pytest.approx([3.21 * 0.75**0.5, 3.21 * 0.75**0.5, 5.213], abs=0.01)


def test_a_cell_that_breathes_around_the_least_width_keeps_its_repeats() -> None:
    def cube(side: float, n_atoms: int = 1) -> System:
        return System(
            np.full(n_atoms, 8), np.zeros((n_atoms, 3)) + np.arange(n_atoms)[:, None], side * np.eye(3)
        )

    repeats = CellRepeater(10.0)
    walk = [*np.arange(5.2, 4.4, -0.05), *np.arange(4.4, 5.61, 0.05)]
    found = {round(side, 2): [] for side in walk}
    for side in walk:
        found[round(side, 2)].append(repeats(cube(side))[0])
    assert [found[side] for side in (5.2, 4.9, 4.6, 4.4, 5.6)] == [[2, 3], [2, 3], [2, 3], [3], [2]]
    assert repeats(cube(4.9, n_atoms=2)) == (3, 3, 3)  # other atoms, another run
    assert repeats(cube(5.2, n_atoms=2)) == (2, 2, 2)  # no step of a trajectory: as if it were alone
    assert CellRepeater(0.0)(cube(4.9)) == (1, 1, 1)
    exchanged = cube(4.85, n_atoms=2)
    repeats(cube(4.9, n_atoms=2))
    assert repeats(replace(exchanged, numbers=[8, 14])) == (3, 3, 3)  # a trial of Monte Carlo


def test_other_vectors_of_a_wide_lattice_make_it_no_narrow_cell() -> None:
    sheared = np.array([[10.0, 0, 0], [10, 10, 0], [30, 20, 10]])
    assert widths(sheared).min() < 5.0
    assert CellRepeater(10.0)(System([8], np.zeros((1, 3)), sheared)) == (1, 1, 1)
    assert CellRepeater(11.0)(System([8], np.zeros((1, 3)), sheared)) != (1, 1, 1)


def test_predict_tells_the_repeats_and_unknown_samplings_are_refused(tmp_path: Path) -> None:
    system = small_system()
    system.to_ase().write(tmp_path / "narrow.xyz", format="extxyz")
    wide_model().save(tmp_path / "wide.pt")
    command = ["predict", str(tmp_path / "narrow.xyz"), "--model", str(tmp_path / "wide.pt")]
    assert "2 x 2 x 2" in CliRunner().invoke(app, command, catch_exceptions=False).output
    command += ["--json", "--sampling"]
    report = CliRunner().invoke(app, [*command, "gamma"], catch_exceptions=False).output
    assert json.loads(report)[0]["repeats"] == [1, 1, 1]
    with pytest.raises(InputError, match="sampling is 'k'; choose auto or gamma"):
        CliRunner().invoke(app, [*command, "k"], catch_exceptions=False)

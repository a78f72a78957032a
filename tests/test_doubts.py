"""What must not pass without a word: broken chemistry, crushed cells, elements in the wrong places."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import vesin
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers
from fake_engine import Engine as Fake
from processes import REPOSITORY
from typer.testing import CliRunner

from mlh_driver import Engine, MLHCalculator, System
from mlh_driver.cli.main import app
from mlh_driver.errors import InputError, MLHError, NonFiniteError, StructureError
from mlh_driver.interfaces.alarm import Alarm
from mlh_driver.results import Results
from mlh_driver.system import described


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine()


@pytest.fixture
def glass() -> Atoms:
    return ase.io.read(REPOSITORY / "examples" / "glass.xyz")


def computed(engine: Engine, atoms: Atoms) -> Results:
    return engine.compute(System.from_ase(atoms))


def nearest(atoms: Atoms, center: int, symbol: str) -> np.ndarray:
    """Atoms of an element by their distance from another atom."""
    distances = atoms.get_distances(center, range(len(atoms)), mic=True)
    distances[(atoms.numbers != atomic_numbers[symbol]) | (distances == 0.0)] = np.inf
    return np.argsort(distances)


def silicon(atoms: Atoms) -> int:
    return int(np.flatnonzero(atoms.numbers == 14)[0])


def test_good_structures_raise_no_doubt(engine: Engine, glass: Atoms) -> None:
    assert computed(engine, glass).doubts() == {}
    assert computed(engine, ase.io.read(REPOSITORY / "examples" / "vacancy.xyz")).doubts() == {}


def test_a_huge_force_is_doubted(engine: Engine, glass: Atoms) -> None:
    results = computed(engine, glass)
    forces = results.forces.copy()
    forces[7] = [0.0, 150.0, 0.0]
    torn = replace(results, forces=forces)
    assert "force of 150 eV/Å on atom 7" in torn.doubts()["largest_force"]
    assert [warning.startswith("step 3: the force of 150") for warning in Alarm()("step 3", torn)] == [True]


def test_a_surface_cut_through_glass_is_doubted(engine: Engine, glass: Atoms) -> None:
    glass.wrap()
    glass.cell[2, 2] += 15.0
    assert {"charge_deviation", "band_gap"} <= computed(engine, glass).doubts().keys()


def test_a_torn_tetrahedron_is_doubted(engine: Engine, glass: Atoms) -> None:
    del glass[nearest(glass, silicon(glass), "O")[:3]]
    assert "charge_deviation" in computed(engine, glass).doubts()


def test_a_bond_inside_the_wall_is_doubted_at_its_atoms(engine: Engine, glass: Atoms) -> None:
    center = silicon(glass)
    other = int(nearest(glass, center, "O")[0])
    glass.set_distance(center, other, 1.2, fix=0, mic=True)
    results = computed(engine, glass)
    assert results.extrapolation > 2.0
    assert set(np.flatnonzero(results.extrapolations > 2.0)) == {center, other}


@pytest.mark.parametrize("factor", [0.5, 0.6])
def test_a_crushed_cell_is_refused_at_once(engine: Engine, glass: Atoms, factor: float) -> None:
    glass.set_cell(factor * glass.cell, scale_atoms=True)
    with pytest.raises(StructureError, match=r"positions in Å.*O64Si32 at .* g/cm3; the closest"):
        computed(engine, glass)


def test_a_nearly_empty_cell_is_refused_at_once(engine: Engine, glass: Atoms) -> None:
    glass.set_cell([300.0] * 3)
    with pytest.raises(StructureError, match=r"2.7e\+07 Å.3 are too much for 96 atoms"):
        computed(engine, glass)


def test_a_nearly_flat_cell_is_refused_before_neighbors_are_looked_for(glass: Atoms) -> None:
    glass.set_cell([[11.0, 0.0, 0.0], [11.0, 1e-8, 0.0], [0.0, 0.0, 11.0]])
    with pytest.raises(StructureError, match=r"two opposite faces are 1e-08 Å apart, and 0.5 Å is the least"):
        System.from_ase(glass)


def test_charges_and_spins_that_are_left_out_are_warned_of_once(glass: Atoms) -> None:
    glass.calc = MLHCalculator(engine=Fake())
    glass.set_initial_charges(np.where(glass.numbers == 14, 1.5, -0.75))
    glass.get_potential_energy()  # partial charges of a neutral cell; a warning would be an error here
    charged = glass.get_initial_charges()
    charged[0] += 1.0
    glass.set_initial_charges(charged)
    with pytest.warns(
        UserWarning, match="charges that add up to 1 e, and this is left out: .* neutral cells"
    ):
        glass.get_potential_energy()
    glass.rattle(0.01)
    glass.get_potential_energy()
    glass.set_initial_magnetic_moments([1.0, -1.0] + [0.0] * 94)
    with pytest.warns(UserWarning, match="magnetic moments, and this is left out: .* closed shells"):
        glass.get_potential_energy()


def test_exchanged_elements_are_refused_or_doubted_with_the_closest_atoms(
    engine: Engine, glass: Atoms
) -> None:
    glass.numbers = 22 - glass.numbers  # 8 and 14
    refused_or_doubted(engine, glass)


def test_silicon_is_refused_or_doubted_by_a_model_of_silica(engine: Engine) -> None:
    refused_or_doubted(engine, bulk("Si", cubic=True) * (2, 2, 2))


def refused_or_doubted(engine: Engine, atoms: Atoms) -> None:
    try:
        assert "are units and elements right?" in computed(engine, atoms).doubts()["extrapolation"]
    except MLHError as error:
        assert "closest atoms" in str(error)


def test_a_description_names_the_closest_atoms(glass: Atoms) -> None:
    glass.positions[5] = glass.positions[40] + [0.0, 0.0, 0.4]
    words = described(System.from_ase(glass))
    assert "2.2 g/cm3" in words
    assert "5" in words
    assert "40" in words
    assert "0.40 Å apart" in words
    alone = System(np.array([8]), np.zeros((1, 3)), 10.0 * np.eye(3))
    assert "apart" not in described(alone)


def test_a_crushed_structure_is_described_by_few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 Å around each atom of a cell in the wrong unit are more pairs than memory holds."""
    found = []

    class Counting(vesin.NeighborList):
        def compute(self, **where: Any) -> Any:
            answer = super().compute(**where)
            found.append(len(answer[0]))
            return answer

    monkeypatch.setattr(vesin, "NeighborList", Counting)
    fractions = np.random.default_rng(0).random((100, 3))
    fractions[7] = fractions[70] + [0.001, 0.0, 0.0]
    words = described(System(np.full(100, 14), fractions, np.eye(3)))
    assert "Si 7" in words
    assert "Si 70" in words
    assert found[0] < 20 * 100


def test_predict_prints_the_doubts(tmp_path: Path, glass: Atoms) -> None:
    glass.set_distance(silicon(glass), nearest(glass, silicon(glass), "O")[0], 1.2, fix=0, mic=True)
    ase.io.write(tmp_path / "short.xyz", glass)
    printed = CliRunner().invoke(app, ["predict", str(tmp_path / "short.xyz")], catch_exceptions=False).output
    assert "beyond the edge (1) of the training" in printed


def test_a_long_run_is_warned_of_each_kind_and_not_in_every_step(engine: Engine, glass: Atoms) -> None:
    good, alarm = computed(engine, glass), Alarm()
    assert alarm("step 1", good) == []
    far = replace(good, extrapolation=3.0, charge_deviation=0.3, band_gap=0.1)
    messages = alarm("step 2", far)
    assert len(messages) == 3
    assert all(message.startswith("step 2: ") for message in messages)
    assert alarm("step 3", far) == []
    assert len(alarm("step 4", replace(far, extrapolation=7.0, band_gap=0.04))) == 2


def test_a_structure_that_cannot_be_computed_stops_no_other(
    glass: Atoms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Fake):
        """Not the second structure."""

        def compute(self, system: System) -> Results:
            results = super().compute(system)
            if self._calls == 2:
                raise NonFiniteError("a force is infinite")
            return results

    monkeypatch.setattr("mlh_driver.cli.predict.build_engine", lambda settings: Failing())
    ase.io.write(tmp_path / "three.xyz", [glass] * 3, format="extxyz")
    (tmp_path / "a[b].xyz").write_bytes((tmp_path / "three.xyz").read_bytes())
    named = CliRunner().invoke(app, ["predict", str(tmp_path / "a[b].xyz"), "--all"])
    assert "a[b]_0: 96 atoms" in named.output
    command = ["predict", str(tmp_path / "three.xyz"), "--all", "--out", str(tmp_path / "out.xyz")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1 and "left out: three_1: a force is infinite" in done.output
    assert [atoms.info["name"] for atoms in ase.io.iread(tmp_path / "out.xyz")] == ["three_0", "three_2"]
    cluster = glass.copy()
    cluster.pbc = False
    ase.io.write(tmp_path / "two.xyz", [cluster] * 2, format="extxyz")
    for out, message in (
        ("three.xyz", "is one of the structures"),
        ("no/out.xyz", "there is no folder"),
        ("out.cif", "is extended XYZ"),
    ):
        with pytest.raises(InputError, match=message):
            CliRunner().invoke(app, [*command[:-1], str(tmp_path / out)], catch_exceptions=False)
    none = CliRunner().invoke(app, ["predict", str(tmp_path / "two.xyz"), *command[2:]])
    assert none.exit_code == 1 and "left out: two_0: pbc is" in none.output
    assert len(ase.io.read(tmp_path / "out.xyz", ":")) == 2  # what was there before

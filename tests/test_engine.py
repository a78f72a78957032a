"""Energy, forces, stress and observables of the engine."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import make_supercell
from ase.calculators.mixing import AverageCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from conftest import MINIMAL_SIO2, random_model, small_system
from derivatives import assert_exact_forces, assert_exact_stress
from processes import Launcher, serve

import mlh_driver
from mlh_driver import Engine, EngineSettings, MLHCalculator, System
from mlh_driver.cli.options import build_engine
from mlh_driver.errors import InputError, NonFiniteError, SolverError, StructureError
from mlh_driver.graph import GraphBuilder
from mlh_driver.model import Model
from mlh_driver.model_files import model_digest
from mlh_driver.results import OBSERVABLES
from mlh_driver.solvers import ElectronicProblem, ElectronicState


@pytest.mark.parametrize("temperature_K", [0.0, 300.0, 8000.0])
def test_forces_are_the_derivative_of_the_energy(temperature_K: float) -> None:
    """Small triclinic cell, several images per pair, with and without fractional occupations."""
    assert_exact_forces(Engine(random_model(), electronic_temperature_K=temperature_K), small_system())


@pytest.mark.parametrize("temperature_K", [0.0, 8000.0])
def test_stress_is_the_derivative_of_the_energy(temperature_K: float) -> None:
    engine = Engine(random_model(), electronic_temperature_K=temperature_K)
    for seed in range(3):
        assert_exact_stress(engine, small_system(), seed)


def test_shipped_model_has_exact_forces_and_stress(engine64: Engine, host: Atoms) -> None:
    host = host.copy()
    host.rattle(0.05, seed=2)
    assert_exact_forces(engine64, System.from_ase(host), step_A=5e-4)
    assert_exact_stress(engine64, System.from_ase(host))


def test_energy_is_extensive(engine64: Engine, host: Atoms) -> None:
    """Doubling a cell that is large enough for Gamma doubles the energy and repeats the forces."""
    single = engine64.compute(System.from_ase(host))
    doubled = engine64.compute(System.from_ase(make_supercell(host, np.diag([2, 1, 1]))))
    per_atom = (doubled.energy - 2 * single.energy) / (2 * len(host))
    assert abs(per_atom) < 5e-3
    blocks = doubled.forces.reshape(2, len(host), 3)
    np.testing.assert_allclose(blocks[0], blocks[1], atol=1e-8)


def test_local_terms_are_exactly_extensive() -> None:
    """The double-counting energies of a repeated cell repeat, images or not."""
    engine, system = Engine(random_model()), small_system()
    twice = System.from_ase(make_supercell(system.to_ase(), np.diag([1, 2, 1])))
    one = engine.model.network(engine.graphs.build(system)).energies
    two = engine.model.network(engine.graphs.build(twice)).energies
    np.testing.assert_allclose(two.reshape(2, -1), np.stack([one, one]), atol=1e-12)


def test_observables_are_consistent(engine64: Engine, vacancy: Atoms) -> None:
    results = engine64.compute(System.from_ase(vacancy))
    assert results.energies.sum() == pytest.approx(results.energy, abs=1e-9)
    assert results.charges.sum() == pytest.approx(0.0, abs=1e-9)
    assert results.charges[vacancy.numbers == 14].mean() > 1 > results.charges[vacancy.numbers == 8].mean()
    assert results.homo < results.fermi_level < results.lumo
    assert results.band_gap == pytest.approx(results.lumo - results.homo)
    assert set(results.observables()) == set(OBSERVABLES)
    assert results.extrapolation == pytest.approx(results.extrapolations.max())
    assert {"graph", "network", "solver", "gradient"} <= set(results.timings)


def test_extrapolation_rises_away_from_the_training_data(engine64: Engine, host: Atoms) -> None:
    values = [engine64.compute(System.from_ase(host)).extrapolation]
    for scale in (0.9, 0.87):
        squeezed = host.copy()
        squeezed.set_cell(host.cell * scale, scale_atoms=True)
        values.append(engine64.compute(System.from_ase(squeezed)).extrapolation)
    assert values == sorted(values)
    assert values[0] < 1 < values[-1]


def test_neighbor_list_reuse_changes_nothing() -> None:
    """A walk with wraps, strain and a jump: one engine that reuses, a fresh one each time."""
    model, rng = random_model(), np.random.default_rng(5)
    reusing, system = Engine(model), small_system()
    for step in range(12):
        jump = 0.6 if step == 8 else 0.01
        cell = system.cell @ (np.eye(3) + 0.002 * rng.normal(size=(3, 3)))
        images = rng.integers(-2, 3, size=(len(system), 3))
        positions = system.positions + jump * rng.normal(size=system.positions.shape) + images @ cell
        system = System(system.numbers, positions, cell)
        kept, fresh = reusing.compute(system), Engine(model).compute(system)
        assert kept.energy == pytest.approx(fresh.energy, abs=1e-9)
        np.testing.assert_allclose(kept.forces, fresh.forces, atol=1e-9)
    assert 1 < reusing.graphs.rebuilds < 12


@pytest.mark.parametrize(("approach_A", "scale"), [(0.35, 1.0), (0.0, 0.85)])
def test_a_list_is_not_reused_where_a_pair_may_have_come_within_the_cutoff(
    approach_A: float, scale: float
) -> None:
    builder = GraphBuilder(MINIMAL_SIO2, 5.0)
    numbers, cell = np.array([14, 8]), 30.0 * np.eye(3)
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 5.65, 0.0]])
    assert builder.build(System(numbers, positions, cell)).pair_index.shape[1] == 0
    moved = positions + approach_A * np.array([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
    assert builder.build(System(numbers, scale * moved, scale * cell)).pair_index.shape[1] == 1


def test_results_of_each_atom_follow_the_order_of_the_atoms() -> None:
    engine, system = Engine(random_model()), small_system()
    order = np.random.default_rng(0).permutation(len(system))
    results = engine.compute(system)
    shuffled = engine.compute(System(system.numbers[order], system.positions[order], system.cell))
    for name in ("energies", "forces", "charges", "extrapolations"):
        np.testing.assert_allclose(getattr(shuffled, name), getattr(results, name)[order], atol=1e-8)


def test_settings_of_the_command_line_have_their_units() -> None:
    settings = EngineSettings(random_model(), "sp2", electronic_temperature_K=300.0, error_per_atom_meV=0.1)
    engine = build_engine(settings)
    assert engine.kT == pytest.approx(300.0 * units.kB, rel=1e-6)
    assert engine.solver.error_per_atom_meV == 0.1


def test_a_solver_of_ones_own_replaces_the_engines() -> None:
    class Stubborn:
        name = "stubborn"

        def solve(self, problem: ElectronicProblem) -> ElectronicState:
            raise SolverError("never")

    engine = Engine(random_model())
    engine.solver = Stubborn()
    with pytest.raises(SolverError, match="never"):
        engine.compute(small_system())


def test_atoms_moved_in_place_are_seen_to_have_moved() -> None:
    model, atoms = random_model(), small_system().to_ase()
    reusing = Engine(model)
    for step in (0.0, 0.4, 0.4):
        atoms.positions[0] += step
        kept = reusing.compute(System.from_ase(atoms))
        assert kept.energy == pytest.approx(Engine(model).compute(System.from_ase(atoms)).energy, abs=1e-9)
    assert reusing.graphs.rebuilds > 1


def test_calculator_serves_ase(model64: Model, host: Atoms) -> None:
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    atoms = host.copy()
    atoms.calc = MLHCalculator(model64)
    before = atoms.get_potential_energy()
    assert atoms.get_stress().shape == (6,)
    assert set(atoms.calc.results) == {"energy", "free_energy", "forces", "stress", "energies", "charges"}
    assert atoms.calc.last_results.band_gap > 3.0
    SinglePointCalculator(atoms, **atoms.calc.results)
    FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=0.01, steps=3)
    assert atoms.get_potential_energy() < before
    assert atoms.calc.results["energy"] == atoms.calc.results["free_energy"]
    assert atoms.get_properties(["energy", "forces"])["energy"] == atoms.get_potential_energy()


def test_observables_survive_files(model64: Model, host: Atoms, tmp_path: Path) -> None:
    """Extended XYZ keeps all, a trajectory those of the structure, a database what it is given as data."""
    atoms = host.copy()
    atoms.calc = MLHCalculator(model64, annotate=True)
    atoms.get_potential_energy()
    results = atoms.calc.last_results
    same = host.copy()
    same.calc = atoms.calc
    same.get_potential_energy()  # which ASE knows already
    assert same.info["band_gap"] == atoms.info["band_gap"]
    for suffix in ("traj", "xyz"):
        ase.io.write(tmp_path / f"frame.{suffix}", atoms)
        found = ase.io.read(tmp_path / f"frame.{suffix}")
        for name in OBSERVABLES:
            assert found.info[name] == pytest.approx(getattr(results, name))
        assert found.get_potential_energy() == pytest.approx(results.energy)
    np.testing.assert_allclose(found.arrays["extrapolations"], results.extrapolations, atol=1e-7)
    with ase.db.connect(tmp_path / "frames.db") as database:
        database.write(atoms, data=dict(atoms.info))
        assert database.get(id=1).data["band_gap"] == pytest.approx(results.band_gap)


def test_files_tell_what_computed_the_numbers(host: Atoms, tmp_path: Path) -> None:
    calculator = MLHCalculator(dtype="float64", electronic_temperature_K=500.0)
    told = {
        "model": "asio2-minimal",
        "model_digest": model_digest("asio2-minimal"),
        "solver": "auto",
        "electronic_temperature_K": 500.0,
        "error_per_atom_meV": 0.1,
        "sampling": "auto",
        "dtype": "float64",
        "mlh_driver_version": mlh_driver.__version__,
    }
    assert calculator.todict() == told
    calculator.todict()["solver"] = "foe"  # of a copy
    for same in (copy.copy(calculator), copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator))):
        assert same.todict() == told
    atoms = host.copy()
    atoms.calc = calculator
    atoms.get_potential_energy()
    with ase.db.connect(tmp_path / "frames.db") as database:
        database.write(atoms)
        assert database.get(id=1).calculator_parameters == told
    ase.io.write(tmp_path / "frame.traj", atoms)
    assert ase.io.read(tmp_path / "frame.traj").calc.parameters == told
    ase.io.write(tmp_path / "frame.xyz", atoms)
    assert "model_digest" not in MLHCalculator(random_model()).todict()


def test_of_a_server_files_tell_the_address(start: Launcher) -> None:
    _, address = serve(start, "fake")
    calculator = MLHCalculator(server=address)
    told = {"server": f"unix socket {start.folder}/socket"}
    assert calculator.todict() == copy.deepcopy(calculator).todict() == told
    calculator.engine.close()


def test_doubts_are_python_warnings_and_not_in_every_step(host: Atoms) -> None:
    atoms = host.copy()
    atoms.calc = MLHCalculator()
    del atoms[:3]  # broken bonds
    with pytest.warns(UserWarning, match="force call 1: .*; energy and forces may be wrong"):
        atoms.get_potential_energy()
    atoms.rattle(1e-4)
    atoms.get_potential_energy()  # a second warning would be an error here
    del atoms[:3]
    with pytest.warns(UserWarning, match="force call 3: "):  # of other atoms
        atoms.get_potential_energy()


def test_after_an_error_the_calculator_has_no_results(model64: Model, host: Atoms) -> None:
    calculator = MLHCalculator(model64)
    calculator.get_potential_energy(host)
    flat = host.copy()
    flat.pbc = False
    for _ in range(2):
        with pytest.raises(StructureError, match="pbc"):
            calculator.calculate(flat, ["energy"])
        with pytest.raises(StructureError, match="pbc"):
            calculator.get_potential_energy(flat)


def test_settings_of_a_calculator_cannot_be_changed_without_effect(model64: Model) -> None:
    with pytest.raises(InputError, match="electronic_temperature_K cannot be changed: make a new"):
        MLHCalculator(model64).set(electronic_temperature_K=9000.0)


def test_calculators_can_be_mixed(model64: Model, host: Atoms) -> None:
    single, both = MLHCalculator(model64), AverageCalculator([MLHCalculator(model64), MLHCalculator(model64)])
    assert both.get_potential_energy(host) == pytest.approx(single.get_potential_energy(host), abs=1e-8)
    np.testing.assert_allclose(both.get_forces(host), single.get_forces(host), atol=1e-10)


def test_clear_errors_for_structures_that_cannot_be_computed(model64: Model) -> None:
    engine = Engine(model64)
    with pytest.raises(StructureError, match=r"atom 1 is C .*knows only O, Si"):
        engine.compute(System(np.array([8, 6]), np.zeros((2, 3)), 9 * np.eye(3)))
    with pytest.raises(StructureError, match="position of atom 0"):
        System(np.array([8]), np.array([[np.nan, 0, 0]]), 9 * np.eye(3))
    with pytest.raises(StructureError, match="singular"):
        System(np.array([8]), np.zeros((1, 3)), np.diag([9.0, 9.0, 0.0]))
    with pytest.raises(StructureError, match="pbc"):
        System.from_ase(Atoms("O", cell=[9, 9, 9]))
    for wrong in ([[8]], [8.5], ["O"], 8):
        with pytest.raises(StructureError, match="numbers"):
            System(wrong, np.zeros((1, 3)), 9 * np.eye(3))
    with pytest.raises(StructureError, match=r"velocities have shape \(5,\); 1 atoms need \(1, 3\)"):
        System([8], np.zeros((1, 3)), 9 * np.eye(3), np.zeros(5))
    with pytest.raises(InputError, match=r"a System, not Atoms; .*System\.from_ase"):
        engine.compute(Atoms("O", cell=[9, 9, 9], pbc=True))
    small = small_system()
    in_nm = System(small.numbers, 0.1 * small.positions, 0.1 * small.cell)
    with pytest.raises(StructureError, match=r"736\.\d times as dense as .* in Å.* atoms, O 1 and O 10"):
        engine.compute(in_nm)
    with pytest.raises(StructureError, match=r"neighbors each within .* is the cell in Å\?"):
        Engine(random_model()).compute(in_nm)  # whose training structures are not known
    with pytest.raises(InputError, match="-5"):
        Engine(model64, electronic_temperature_K=-5)
    with pytest.raises(InputError, match="magic"):
        Engine(model64, solver="magic")
    with pytest.raises(InputError, match="loaded already, in float64 on cpu"):
        engine.with_settings(dtype="float32")
    with pytest.raises(InputError, match="loaded already, in float32"):
        Engine(Engine().model, dtype="float64")
    assert engine.settings.dtype == "float64"


@pytest.mark.parametrize("amplitude_A", [0.0, 0.4])
@pytest.mark.parametrize("solver", ["dense", "foe"])
def test_an_energy_without_bottom_is_not_returned(
    model64: Model, host: Atoms, amplitude_A: float, solver: str
) -> None:
    """In a crushed or shaken glass, forces or H grow beyond measure, unless their bounds are known."""
    crushed = host.copy()
    crushed.set_cell(crushed.cell * (1.0 if amplitude_A else 0.8), scale_atoms=True)
    crushed.rattle(amplitude_A, seed=0)
    system = System.from_ase(crushed)
    if solver == "dense":
        bounded = Engine(model64, electronic_temperature_K=2000.0).compute(system)
        assert bounded.energy > Engine(model64).compute(System.from_ase(host)).energy + 0.1 * len(host)
        assert bounded.extrapolation > 2.0
    unbounded = copy.deepcopy(model64)
    unbounded.network.bounds.lift()
    with pytest.raises(NonFiniteError, match=r"far outside the .*the closest atoms, Si \d+ and O \d+"):
        Engine(unbounded, solver=solver).compute(system)


def test_a_structure_that_an_engine_has_seen_cannot_be_moved(host: Atoms) -> None:
    """Its pairs are kept until atoms have moved from where they are in it."""
    system = System(host.numbers, host.positions, host.cell.array, np.zeros((len(host), 3)))
    for name in ("numbers", "positions", "cell", "velocities"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(system, name)[0] += 1


def test_atoms_on_top_of_each_other_are_refused(model64: Model) -> None:
    system = System(np.array([8, 8, 14]), np.array([[0.0, 0, 0], [0, 0, 0], [3, 0, 0]]), 12 * np.eye(3))
    with pytest.raises(StructureError, match=r"atoms 0 and 1 .* is one of them there twice"):
        Engine(model64).compute(system)

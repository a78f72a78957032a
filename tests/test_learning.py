"""Active learning: the tutorial in a reduced form, from seeds to a served model, with real DFT labels."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from conftest import SMALL_NETWORK, network_section, random_model, small_system
from fake_engine import Engine as FakeEngine
from fake_labeler import SomeLabeler
from processes import copy_case
from typer.testing import CliRunner

from mlh_driver import Engine, MLHCalculator
from mlh_driver.basis import OrbitalBasis
from mlh_driver.cli.main import app
from mlh_driver.data import read_splits, read_structure
from mlh_driver.errors import InputError, LimitReached, NonFiniteError, StructureError
from mlh_driver.files import alone_in
from mlh_driver.interfaces.lammps import LammpsError
from mlh_driver.learning.explore import Start, displaced, explore
from mlh_driver.learning.loop import ActiveLearning, splits
from mlh_driver.learning.settings import ExploreSettings, read_learn_settings
from mlh_driver.learning.thermometer import temperature_K
from mlh_driver.learning.watch import MOST_FRAMES, WatchedEngine
from mlh_driver.model import Model, load_model
from mlh_driver.reference import Calculation, PyscfLabeler, PyscfSettings, label_into
from mlh_driver.results import Results
from mlh_driver.system import System

pytest.importorskip("pyscf", reason="labels need PySCF")

LEARN = """
seeds = ["seed.xyz"]
training = "train.toml"
output = "run"
rounds = 2
frames_per_round = 2

[explore]
steps = 20
rattle_A = 0.03

[target]
forces_rmse_meV_A = 0.001
"""

TRAIN = """
name = "hydrogen"
output = "ignored"
reference = "PBE"
valid_range = "a test"

SPECIES
NETWORK
[hamiltonian]
steps = 60
learning_rate = 1e-2

[energy]
steps = 200
learning_rate = 1e-2

[joint]
steps = 100
learning_rate = 3e-3
"""


NETWORK = replace(SMALL_NETWORK, lmax=2, pair_cutoff_A=3.5, message_cutoff_A=3.0, hop_cutoff_A=2.0)


def molecule() -> Atoms:
    return Atoms("H2", positions=[[0, 0, 0], [0.75, 0, 0]], cell=[5, 5, 4.8], pbc=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Settings for a hydrogen molecule in a box; the species section comes from the command."""
    ase.io.write(tmp_path / "seed.xyz", molecule())
    species = CliRunner().invoke(app, ["species", "H"]).stdout
    assert "electrons = [1]" in species
    (tmp_path / "train.toml").write_text(
        TRAIN.replace("SPECIES", species).replace("NETWORK", network_section(NETWORK))
    )
    (tmp_path / "learn.toml").write_text(LEARN)
    return tmp_path


@pytest.mark.filterwarnings("ignore:force call 1. extrapolation")  # of a model that has seen two frames
@pytest.mark.slow
def test_from_nothing_to_a_model_with_an_interruption(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Interrupted(PyscfLabeler):
        def calculate(self, atoms: Atoms, workdir: Path) -> Calculation:
            calls.append(len(atoms))
            if len(calls) == 3:
                raise KeyboardInterrupt
            return super().calculate(atoms, workdir)

    labeler = Interrupted(PyscfSettings(ke_cutoff_Ha=50.0))
    monkeypatch.setattr("mlh_driver.learning.loop.make_labeler", lambda *_, **__: labeler)
    command = ["learn", str(folder / "learn.toml"), "--threads", "1"]
    assert CliRunner().invoke(app, command).exit_code != 0  # in the second round
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0
    assert len(calls) == 5  # four labels and the interrupted one: nothing was calculated twice
    run = folder / "run"
    assert read_splits(run / "labels.h5") == {"train": ["r0_0", "r1_0"], "validation": ["r0_1", "r1_1"]}
    (row,) = [json.loads(line) for line in (run / "report.jsonl").read_text().splitlines()]
    assert (row["round"], row["labels"]) == (1, 1)  # the other one is for validation
    assert row["forces_rmse_meV_A"] > 0
    assert (run / "report.png").stat().st_size > 5_000
    assert (run / "round_1" / "hydrogen.pt").exists()  # not on target, so trained on
    with open(folder / "learn.toml", "a") as file:  # the forces are 0.001 there
        file.write("energy_meV_atom = 1e6\n")
    text = (folder / "learn.toml").read_text().replace("0.001", "1e6")
    (folder / "learn.toml").write_text(text)
    assert ActiveLearning(read_learn_settings(folder / "learn.toml"), print)._on_target(row)
    atoms = ase.io.read(folder / "seed.xyz")
    atoms.calc = MLHCalculator(run / "hydrogen.pt")
    assert atoms.get_potential_energy() == pytest.approx(-31.7, abs=1.5)  # PBE


def test_a_round_without_frames_to_train_on_can_be_started_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = ase.io.read(folder / "seed.xyz")
    long.cell[0, 0] = 7.0
    ase.io.write(folder / "seed.xyz", long)
    monkeypatch.setattr("mlh_driver.learning.loop.make_labeler", lambda *_, **__: SomeLabeler())
    learning = ActiveLearning(read_learn_settings(folder / "learn.toml"), print)
    with pytest.raises(InputError, match="no frame for training of round 0 could be labelled"):
        learning.run()
    assert learning.labeler.calls == 1  # nothing for validation alone
    assert not (folder / "run" / "round_0" / "frames.xyz").exists()
    assert (folder / "run" / "round_0" / "given_up_1" / "frames.xyz").exists()  # of days


def test_every_seed_is_trained_on(folder: Path) -> None:
    """And no seed is always the last of a round, which is for validation."""
    seeds = [ase.io.read(folder / "seed.xyz") for _ in range(3)]
    for k, seed in enumerate(seeds):
        seed.info["name"] = f"s{k}"
        seed.cell[2, 2] += k
    ase.io.write(folder / "seed.xyz", seeds)
    (folder / "learn.toml").write_text(LEARN.replace("frames_per_round = 2", "frames_per_round = 3"))
    learning = ActiveLearning(read_learn_settings(folder / "learn.toml"), print)
    rounds = [learning._starts(round_) for round_ in range(4)]
    drawn = [[round(start.atoms.cell[2, 2] - 4.8) for start in starts] for starts in rounds]
    assert all(sorted(seeds) == [0, 1, 2] for seeds in drawn)
    assert len({seeds[-1] for seeds in drawn}) > 1
    assert len({start.seed for starts in rounds for start in starts}) == 12
    assert {round(atoms.cell[2, 2] - 4.8) for atoms in learning._displaced(0)} == {0, 1, 2}


def test_the_engine_of_exploration_may_be_in_double_precision(folder: Path) -> None:
    asked = 'steps = 20\nengine = {dtype = "float64", solver = "dense"}'
    (folder / "learn.toml").write_text(LEARN.replace("steps = 20", asked))
    random_model().save(folder / "random.pt")
    learning = ActiveLearning(read_learn_settings(folder / "learn.toml"), print)
    model = learning._loaded(str(folder / "random.pt"))
    engine = Engine(model, **learning.settings.explore.engine)
    assert engine.provenance()["dtype"] == "float64"


def test_other_atoms_in_a_script_are_another_start() -> None:
    """As after ``delete_atoms``."""
    system = small_system()
    watch = WatchedEngine(FakeEngine(), ExploreSettings())
    for n_atoms in (len(system), len(system) - 1, 2):
        for way in (0.0, 0.1):
            positions = system.positions[:n_atoms] + way * np.arange(n_atoms)[:, None]
            watch.compute(System(system.numbers[:n_atoms], positions, system.cell))
    assert watch.steps == 3


def test_two_processes_do_not_learn_in_one_output(folder: Path) -> None:
    learning = ActiveLearning(read_learn_settings(folder / "learn.toml"), print)
    with alone_in(folder / "run"), pytest.raises(InputError, match="another process is at work in"):
        learning.run()
    assert not (folder / "run" / "round_0").exists()


def test_data_of_another_reference_are_refused_before_any_label(folder: Path) -> None:
    seed = ase.io.read(folder / "seed.xyz")
    seed.calc = SinglePointCalculator(seed, energy=-30.0, forces=np.zeros((2, 3)))
    ase.io.write(folder / "mine.extxyz", seed)
    mine, data = str(folder / "mine.extxyz"), str(folder / "mine.h5")
    converted = CliRunner().invoke(app, ["convert", mine, "--reference", "LDA", "--out", data])
    assert converted.exit_code == 0
    with open(folder / "train.toml", "a") as file:
        file.write('[[data]]\npath = "mine.h5"\nvalidation = []\n')
    result = CliRunner().invoke(app, ["learn", str(folder / "learn.toml")])
    assert isinstance(result.exception, InputError)
    assert "another reference than the labels to come" in str(result.exception)
    assert not (folder / "run").exists()


def test_frames_that_the_data_could_hold_already_need_another_prefix(folder: Path) -> None:
    frames = {"r0_1": molecule(), "seed": molecule()}
    label_into(folder / "first.h5", frames, SomeLabeler(), "train", lambda line: None)
    with open(folder / "train.toml", "a") as file:
        file.write('[[data]]\npath = "first.h5"\nvalidation = []\nlearn = "hamiltonian"\n')
    settings = read_learn_settings(folder / "learn.toml")
    with pytest.raises(InputError, match=r"first.h5 holds r0_1, .*another prefix"):
        ActiveLearning(settings, print)
    ActiveLearning(settings.model_copy(update={"prefix": "s"}), print)


def test_first_frames_are_displaced_and_strained() -> None:
    seed = Atoms("H2", positions=[[0, 0, 0], [0.75, 0, 0]], cell=[20, 20, 20], pbc=True)
    settings = ExploreSettings(rattle_A=0.1, strain=0.01)
    frames = [displaced(seed, settings, np.random.default_rng(k)) for k in range(200)]
    moves = np.array(
        [frame.get_scaled_positions(wrap=False) - seed.get_scaled_positions() for frame in frames]
    )
    assert np.std(20 * moves) == pytest.approx(0.1, rel=0.1)
    strains = np.array([frame.cell.array / 20 - np.eye(3) for frame in frames])
    assert np.std(strains[:, range(3), range(3)]) == pytest.approx(0.01, rel=0.1)
    np.testing.assert_allclose(strains, strains.transpose(0, 2, 1))


def a_start(
    folder: Path, atoms: Atoms, n_frames: int = 1, seed: int = 0, temperature_K: float = 300.0
) -> Start:
    return Start(folder / f"run_{seed}", atoms, temperature_K, n_frames, (seed,))


def test_dynamics_end_at_the_edge_and_keep_the_strangest_frame_before(tmp_path: Path, host: Atoms) -> None:
    model = load_model("asio2-minimal")
    (calm,), outcome = explore(a_start(tmp_path, host, temperature_K=100.0), model, ExploreSettings(steps=10))
    assert outcome.finished
    assert outcome.steps == 10
    assert f"Langevin dynamics, run_0, step {np.argmax(outcome.extrapolations) + 1}" in calm.info["note"]
    hot = a_start(tmp_path, host, seed=1, temperature_K=10000.0)
    (frame,), outcome = explore(hot, model, ExploreSettings(steps=1000, timestep_fs=0.5))
    assert 0.7 < max(outcome.extrapolations) <= 1.5
    assert outcome.end.startswith("extrapolation ") or "the model has no answer" in outcome.end
    assert f"10000 K, extrapolation {max(outcome.extrapolations):.2f}" in frame.info["note"]
    log = (hot.folder / "langevin.log").read_text()
    assert log.startswith("Time[ps]") and len(log.splitlines()) > outcome.steps
    assert "warning: force call" in log


def test_a_seed_beyond_the_edge_is_displaced(tmp_path: Path, host: Atoms) -> None:
    """So that the frames of a round differ, and none is the seed itself."""
    model = load_model("asio2-minimal")
    settings = ExploreSettings(limits={"extrapolation": 1e-3})
    frames = [explore(a_start(tmp_path, host, seed=k), model, settings)[0][0] for k in range(2)]
    assert abs(frames[0].positions - frames[1].positions).max() > 0.01
    assert "displaced" in frames[0].info["note"]
    golden = host.copy()
    golden.numbers[0] = 79
    with pytest.raises(StructureError, match="Au"):
        explore(a_start(tmp_path, golden, seed=2), model, settings)
    with pytest.raises(InputError, match="solver 'lapack' is unknown"):
        explore(a_start(tmp_path, host, seed=3), model, ExploreSettings(engine={"solver": "lapack"}))


def watched(steps: int, settings: ExploreSettings, engine: object) -> WatchedEngine:
    """A watch that has seen ``steps`` steps of an atom that moves, after the start."""
    watch = WatchedEngine(engine, settings)  # type: ignore[arg-type]
    for step in range(steps + 1):
        watch.compute(System([8, 14], [[0.01 * step, 0.0, 0.0], [1.6, 0.0, 0.0]], 5.0 * np.eye(3)))
    return watch


class Bump(FakeEngine):
    """Its extrapolation has a maximum of 1.4 at step 130."""

    def compute(self, system: System) -> Results:
        results = super().compute(system)
        return replace(results, extrapolation=1.4 - 1e-4 * abs(system.positions[0, 0] / 0.01 - 130))


def test_frames_of_a_run_are_the_strangest_and_others_spread_over_it() -> None:
    first, *others = watched(1000, ExploreSettings(apart_steps=10), Bump()).frames(6)
    assert (first.step, round(first.extrapolation, 3)) == (130, 1.4)
    steps = np.array([0, *(frame.step for frame in others), 1000])
    assert len(others) == 5
    assert (np.diff(steps)[1:-1] > 150).all()
    assert (np.diff(steps) < 250).all()


def test_frames_of_a_short_run_stay_apart() -> None:
    steps = sorted(frame.step for frame in watched(140, ExploreSettings(apart_steps=50), Bump()).frames(6))
    assert steps == [50, 130]
    assert watched(0, ExploreSettings(), Bump()).frames(6) == []


def test_frames_of_a_long_run_are_bounded() -> None:
    watch = watched(2000, ExploreSettings(apart_steps=1), FakeEngine())
    steps = [frame.step for frame in watch.frames(11)[1:]]
    assert len(watch._kept) <= MOST_FRAMES
    assert min(np.diff(steps)) > 150
    assert max(np.diff(steps)) < 250


def test_a_structure_asked_for_again_is_no_step() -> None:
    """LAMMPS does so at the start of each run of a script, with the atoms wrapped into the cell by then."""
    watch = watched(3, ExploreSettings(), FakeEngine())
    watch.compute(System([8, 14], [[0.03 - 5.0, 0.0, 0.0], [1.6, 5.0, 0.0]], 5.0 * np.eye(3)))
    assert watch.steps == 3
    watch.compute(System([8, 14], [[0.03, 0.0, 0.0], [1.6, 0.0, 0.0]], 5.1 * np.eye(3)))
    assert watch.steps == 4


def test_limits_end_a_run_on_either_side() -> None:
    with pytest.raises(LimitReached, match=r"band_gap 5.50 is below 6"):
        watched(0, ExploreSettings(lower_limits={"band_gap": 6.0}), FakeEngine())
    with pytest.raises(LimitReached, match=r"fermi_level 0.10 is above 0"):
        watched(0, ExploreSettings(limits={"band_gap": 5.6, "fermi_level": 0.0}), FakeEngine())
    with pytest.raises(LimitReached, match=r"the model has no answer: forces"):
        watched(3, ExploreSettings(), Unanswering())


class Unanswering(FakeEngine):
    def compute(self, system: System) -> Results:
        raise NonFiniteError("forces of 1e9 eV/Å")


SCRIPT = """
variable seed index 1
variable n index 15
units metal
read_data start.data
pair_style zero 2.0
pair_coeff * *
fix mlh all external pf/callback 1 1
velocity all create 300 ${seed} loop geom
thermo 5
thermo_style custom step temp pe
fix move all nve
run ${n}
run ${n}
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A LAMMPS script of two runs of 15 steps, in a folder with its data."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    atoms = molecule()
    atoms.positions += 2.0  # away from the faces: the springs of the stand-in do not know of periodic images
    ase.io.write(folder / "start.data", atoms, format="lammps-data", masses=True)
    (folder / "in.md").write_text(SCRIPT)
    return folder / "in.md"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Explorations run on the stand-in for the engine, at once, with the faults named."""

    def use(faults: str) -> None:
        monkeypatch.setattr("mlh_driver.learning.explore.Engine", lambda model, **_: FakeEngine(faults))

    use("fake")
    return use


ANY_MODEL: Any = None


def of_script(script: Path, **changes: Any) -> ExploreSettings:
    return ExploreSettings(script=script, variables={"seed": "{seed}"}, apart_steps=5, **changes)


def test_a_script_of_lammps_runs_with_its_own_seed_in_its_own_folder(
    tmp_path: Path, script: Path, fake: Callable[[str], None]
) -> None:
    here = Path.cwd()
    runs = [explore(a_start(tmp_path, molecule(), 4, k), ANY_MODEL, of_script(script)) for k in range(2)]
    assert Path.cwd() == here
    assert [(outcome.end, outcome.steps) for _, outcome in runs] == [("finished", 30)] * 2
    assert [len(frames) for frames, _ in runs] == [4, 4]
    for k, (frames, _) in enumerate(runs):
        notes = [re.fullmatch(r"in.md, run_(\d), step (\d+), (\d+) K, .*", f.info["note"]) for f in frames]
        assert {note[1] for note in notes} == {str(k)}
        steps = sorted(int(note[2]) for note in notes)
        assert min(np.diff(steps)) >= 4
        assert steps[-1] >= 20
        assert all(int(note[3]) > 1 for note in notes)
    assert sorted(path.name for path in script.parent.iterdir()) == ["in.md", "start.data"]
    first, second = (np.concatenate([f.positions for f in frames]) for frames, _ in runs)
    assert abs(first - second).max() > 1e-3  # of another seed
    shutil.rmtree(tmp_path / "inputs")
    again, outcome = explore(a_start(tmp_path, molecule(), 4, 0), ANY_MODEL, of_script(script))
    assert outcome == runs[0][1]  # read, not run
    np.testing.assert_array_equal(again[0].positions, runs[0][0][0].positions)


def test_some_frames_of_a_run_are_relaxed(
    tmp_path: Path, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine()
    monkeypatch.setattr("mlh_driver.learning.explore.Engine", lambda model, **_: engine)
    monkeypatch.setattr("mlh_driver.learning.explore.RELAXED_eV_A", 0.01)  # forces of the run are small
    frames, _ = explore(
        a_start(tmp_path, molecule(), 4), ANY_MODEL, of_script(script, frames_per_run=4, relaxed_per_run=2)
    )
    is_relaxed = ["relaxed" in atoms.info["note"] for atoms in frames]
    assert sorted(is_relaxed) == [False, False, True, True]
    for atoms, expected in zip(frames, is_relaxed, strict=True):
        largest = np.linalg.norm(engine.compute(System.from_ase(atoms)).forces, axis=1).max()
        assert (largest < 0.01) == expected
        assert "step" in atoms.info["note"]


def test_a_frame_that_cannot_be_relaxed_is_kept_as_it_is(
    tmp_path: Path, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlh_driver.learning.explore.MOST_RELAXATION_STEPS", 0)
    monkeypatch.setattr("mlh_driver.learning.explore.Engine", lambda model, **_: FakeEngine())
    frames, _ = explore(
        a_start(tmp_path, molecule(), 2), ANY_MODEL, of_script(script, frames_per_run=2, relaxed_per_run=1)
    )
    assert not any("relaxed" in atoms.info["note"] for atoms in frames)


def test_a_script_ends_where_a_limit_is_passed(
    tmp_path: Path, script: Path, fake: Callable[[str], None]
) -> None:
    fake("fake,strange=1")
    start = a_start(tmp_path, molecule(), 3)
    frames, outcome = explore(start, ANY_MODEL, of_script(script, limits={"extrapolation": 3000.0}))
    assert outcome.end == "extrapolation 4096.00 is above 3000"
    assert (outcome.steps, outcome.finished) == (10, False)
    assert any("step 10, " in frame.info["note"] and "2048" in frame.info["note"] for frame in frames)


def test_a_run_that_was_killed_starts_again(
    tmp_path: Path, script: Path, fake: Callable[[str], None]
) -> None:
    start = a_start(tmp_path, molecule())
    start.folder.mkdir()
    (start.folder / "half").touch()
    assert explore(start, ANY_MODEL, of_script(script))[1].finished
    assert not (start.folder / "half").exists()


def test_mistakes_in_a_script_are_errors_and_later_failures_end_the_run(
    tmp_path: Path, script: Path, fake: Callable[[str], None]
) -> None:
    start = a_start(tmp_path, molecule())
    script.write_text(SCRIPT.replace("fix mlh", "fxi mlh"))
    with pytest.raises(LammpsError, match="fxi"):
        explore(start, ANY_MODEL, of_script(script))
    script.write_text(SCRIPT + "stop_here\n")
    (frame,), outcome = explore(start, ANY_MODEL, of_script(script))
    assert "Unknown command: stop_here" in outcome.end
    assert outcome.steps == 30
    assert "in.md" in frame.info["note"]


@pytest.mark.parametrize(
    ("explore_section", "message"),
    [
        ('script = "in.md"\nvariables = {seed = 1}', 'no variable of the script is "{seed}"'),
        ('script = "in.md"\nipi = "a.xml"\nvariables = {seed = "{seed}"}', "script and ipi are both given"),
        ('variables = {seed = "{seed}"}', "variables are those of a LAMMPS script"),
        ("engine = {sovler = 'dense'}", "no setting 'sovler', but 'solver'"),
        ("engine = {threads = 2}", "threads: there is another place for it"),
        ("limits = {extrapolaton = 1.0}", "extrapolaton.*are no observables; there are band_gap"),
        ('script = "in.none"\nvariables = {seed = "{seed}"}', "in.none, which does not exist"),
        ('script = "in.md"\nvariables = {seed = "{seed}"}', "has the command quit"),
        ('ipi = "seed.xyz"', "is not valid XML"),
        ('ipi = "a.xml"', "has 0 elements <ffsocket>"),
        ('ipi = "b.xml"', "no <file> in <initialize>"),
    ],
)
def test_explorations_that_cannot_run_are_refused_before_any_label(
    folder: Path, explore_section: str, message: str
) -> None:
    (folder / "in.md").write_text('print "a" # quit\nif "1 > 0" then quit\n')
    (folder / "a.xml").write_text("<simulation/>")
    (folder / "b.xml").write_text("<simulation><ffsocket/></simulation>")
    (folder / "learn.toml").write_text(LEARN.replace("[explore]", f"[explore]\n{explore_section}"))
    with pytest.raises(InputError, match=message):
        ActiveLearning(read_learn_settings(folder / "learn.toml"), print)


@pytest.fixture
def ipi_input(tmp_path: Path) -> Path:
    """The nve input over TCP, 15 steps, with the start's own seed."""
    case = copy_case("nve", tmp_path)
    text = (case / "input.xml").read_text().replace("4000", "15").replace('stride="10"', 'stride="5"')
    (case / "input.xml").write_text(text.replace('mode="unix"', 'mode="inet"'))
    return case / "input.xml"


@pytest.mark.slow
def test_ipi_runs_with_its_own_seed(
    tmp_path: Path, ipi_input: Path, host: Atoms, fake: Callable[[str], None]
) -> None:
    settings = ExploreSettings(ipi=ipi_input, apart_steps=5)
    frames, outcome = explore(a_start(tmp_path, host, 3), ANY_MODEL, settings)
    assert (outcome.end, outcome.steps) == ("finished", 15)
    assert all(re.match(r"input.xml, run_0, step \d+, [1-4]\d\d K, ", f.info["note"]) for f in frames)
    assert "<seed>31415</seed>" in ipi_input.read_text()
    assert "<seed>31415</seed>" not in (tmp_path / "run_0" / "input.xml").read_text()


@pytest.mark.slow
def test_ipi_ends_where_a_limit_is_passed(
    tmp_path: Path, ipi_input: Path, host: Atoms, fake: Callable[[str], None]
) -> None:
    fake("fake,strange=1")
    settings = ExploreSettings(ipi=ipi_input, limits={"extrapolation": 3000.0})
    _, outcome = explore(a_start(tmp_path, host), ANY_MODEL, settings)
    assert (outcome.end, outcome.steps) == ("extrapolation 4096.00 is above 3000", 10)
    assert (tmp_path / "run_0" / "RESTART").exists()  # i-PI has ended, in order
    ipi_input.write_text(ipi_input.read_text().replace("total_steps", "total_stepz"))
    with pytest.raises(InputError, match=r"i-PI ended before it opened its socket; .*i-pi.log says why"):
        explore(a_start(tmp_path, host, seed=1), ANY_MODEL, settings)


def test_frames_are_held_out() -> None:
    names = [f"r1_{k}" for k in range(7)]
    assert list(splits(names, ()).values()) == ["train"] * 6 + ["validation"]
    third = {"r1_2": "test", "r1_5": "test", "r1_6": "validation"}
    assert splits(names, 3) == dict.fromkeys(names, "train") | third
    some = {"r1_6": "test", "r1_0": "test", "r1_5": "validation"}
    assert splits(names, ("r1_6", "r?_0", "r2_*")) == dict.fromkeys(names, "train") | some
    assert splits(["r1_0"], ()) == {"r1_0": "train"}


@pytest.fixture
def hydrogen_model(folder: Path) -> Model:
    """A model of random weights, of the settings for training but for the energy of its atoms."""
    hydrogen = OrbitalBasis(species=("H",), shells=((0,),), occupations=((0.5,),))
    model = random_model(hydrogen, NETWORK)
    metadata = model.metadata.model_copy(update={"atom_energies_eV": (0.0,)})
    return Model(metadata, model.network, model.indicator)


@pytest.mark.slow
def test_a_script_of_lammps_explores_with_a_model(
    tmp_path: Path, script: Path, hydrogen_model: Model
) -> None:
    settings = of_script(script, limits={"extrapolation": 1e6})
    frames, outcome = explore(a_start(tmp_path, molecule(), 3), hydrogen_model, settings)
    assert (outcome.end, outcome.steps, len(frames)) == ("finished", 30, 3)
    for frame in frames:  # the note is that of this structure
        step, extrapolation = re.findall(r"step (\d+), .*extrapolation (\S+)", frame.info["note"])[0]
        assert float(extrapolation) == pytest.approx(outcome.extrapolations[int(step) - 1], abs=0.006)
    assert max(outcome.extrapolations) > min(outcome.extrapolations)


EXPLORE_WITH_LAMMPS = """
script = "inputs/in.md"
variables = {seed = "{seed}", n = 8}
frames_per_run = 2
apart_steps = 5
"""


@pytest.mark.slow
def test_a_round_that_explores_with_lammps_holds_frames_out_and_is_not_repeated(
    folder: Path,
    script: Path,
    hydrogen_model: Model,
    fake: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second start reads what the first has made, runs and labels alike."""
    hydrogen_model.save(folder / "random.pt")
    train = (folder / "train.toml").read_text()
    train = re.sub(r"steps = \d+", "steps = 2", train)
    train = re.sub(r"atom_energy_eV = \S+", "atom_energy_eV = 0.0", train)
    (folder / "train.toml").write_text(f'start_from = "random.pt"\n{train}')
    learn = LEARN.replace("rounds = 2", "rounds = 1")
    learn = learn.replace("frames_per_round = 2", "frames_per_round = 4\nhold_out = 2")
    (folder / "learn.toml").write_text(learn.replace("[explore]", f"[explore]{EXPLORE_WITH_LAMMPS}"))
    labeler = SomeLabeler()
    monkeypatch.setattr("mlh_driver.learning.loop.make_labeler", lambda *_, **__: labeler)
    lines: list[str] = []
    settings = read_learn_settings(folder / "learn.toml")
    ActiveLearning(settings, lines.append).run()
    run = folder / "run"
    (row,) = [json.loads(line) for line in (run / "report.jsonl").read_text().splitlines()]
    assert (row["round"], row["runs"], row["runs_finished"], row["steps"]) == (0, 2, 2, [16, 16])
    assert row["extrapolation_median"] == row["extrapolation_90"] == row["extrapolation_largest"] == 0.5
    assert (run / "report.png").stat().st_size > 5_000
    assert any("round 0, run_01: finished after step 16" in line for line in lines)
    by_split = {"train": ["r0_0"], "validation": ["r0_2"], "test": ["r0_1", "r0_3"]}
    assert read_splits(run / "labels.h5") == by_split
    note = read_structure(run / "labels.h5", "r0_1").info["note"]
    assert note.startswith("in.md, run_00, step ")
    outcomes = [path.stat().st_mtime_ns for path in sorted(run.glob("round_0/run_*.json"))]
    ActiveLearning(settings, print).run()
    assert labeler.calls == 4
    assert [path.stat().st_mtime_ns for path in sorted(run.glob("round_0/run_*.json"))] == outcomes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"numbers": [2, 2]}, "seed 'seed': .*He"),
        ({"pbc": (True, True, False)}, "seed 'seed': .*pbc"),
        ({"numbers": [1]}, "seed 'seed': .*electrons"),
    ],
)
def test_seeds_that_cannot_be_learned_are_refused_before_any_label(
    folder: Path, change: dict[str, object], message: str
) -> None:
    numbers = change.get("numbers", [1, 1])
    positions = [[0.75 * k, 0, 0] for k in range(len(numbers))]
    seed = Atoms(numbers=numbers, positions=positions, cell=[5, 5, 4.8], pbc=change.get("pbc", True))
    ase.io.write(folder / "seed.xyz", seed)
    with pytest.raises(InputError, match=message):
        ActiveLearning(read_learn_settings(folder / "learn.toml"), print)


def test_electrons_that_the_labels_do_not_have_are_refused_before_any_label(folder: Path) -> None:
    path = folder / "train.toml"
    path.write_text(path.read_text().replace("electrons = [1]", "electrons = [2]"))
    with pytest.raises(
        InputError, match=r"seed 'seed' has 4 electrons by the species .*, and 2 in the labels"
    ):
        ActiveLearning(read_learn_settings(folder / "learn.toml"), print)


def test_temperatures_of_a_run_are_read_up_to_a_line_cut_off(tmp_path: Path) -> None:
    assert temperature_K(tmp_path, 1, 2) is None
    head = "# column   1     --> step : of the run\n# column   2     --> temperature{kelvin} : now\n"
    (tmp_path / "slurm-4711.out").write_text("the job is going on\n")
    (tmp_path / "run.out").write_text(f"{head} 0.0e+00 3.0e+02 \n 2.0e+00 4.0e+02 \n 3.0e+00 3.")
    assert temperature_K(tmp_path, 1, 3) == 350.0
    assert temperature_K(tmp_path, 1, 1) is None  # of a run before

"""Melt-quenches as users run them, but short: LAMMPS and i-PI with the shipped model, killed on the way."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list
from processes import DRIVER, ENVIRONMENT, REPOSITORY, Launcher, eventually
from typer.testing import CliRunner

from mlh_driver import Engine, Results, System
from mlh_driver.cli.main import app
from mlh_driver.constants import HARTREE_eV, KELVIN_eV
from mlh_driver.errors import InputError, MLHError, NonFiniteError
from mlh_driver.interfaces.lammps import read_log
from mlh_driver.model_files import find_model
from mlh_driver.system import mass_density
from mlh_driver.workflows.melt_quench import (
    PRESETS,
    MeltQuenchSettings,
    RandomStart,
    Run,
    carry_out,
    find_runs,
    how_far,
    prepare,
    preset,
    relax_glass,
    seconds_per_step,
)
from mlh_driver.workflows.melt_quench.monitor import Monitor, Status
from mlh_driver.workflows.melt_quench.packing import packed, random_start, shortest_distances

GLASS = REPOSITORY / "examples" / "glass.xyz"
SHORT = (
    "--melt",
    "0.012",
    "--rate",
    "320000",
    "--anneal",
    "0.006",
    "--every",
    "1",
    "--save",
    "4",
    "--fmax",
    "8",
)
MELT, STEPS = 12, 28
COMMAND = (*DRIVER, "melt-quench", "--structure", str(GLASS), *SHORT)


@pytest.fixture(scope="module")
def glass() -> Atoms:
    return ase.io.read(GLASS)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine("asio2-minimal")


def tiny(**changes: object) -> MeltQuenchSettings:
    short = {"melt_ps": 0.002, "quench_K_ps": 1.6e6, "anneal_ps": 0.002, "frame_steps": 1, "restart_steps": 2}
    return preset("quick", {**short, "relax_eV_A": 50.0, **changes})


def last_step(logs: Iterable[Path]) -> int:
    """The last step of a line of LAMMPS (step, temperature, energy) or i-PI (step, time, energy)."""
    row = re.compile(r"(?m)^ +(\S+) +\S+ +-\d")
    return max((int(float(step)) for log in logs for step in row.findall(log.read_text())), default=-1)


def killed_after(start: Launcher, step: int, logs: str, *options: str) -> None:
    """Start the command, and kill it when one of its logs has come to a step."""
    program = start(*COMMAND, "--out", "run", *options)
    run = start.folder / "run"
    assert eventually(lambda: last_step(run.glob(logs)) >= step or program.process.poll() is not None)
    assert program.process.poll() is None, program.output
    program.process.kill()
    program.process.wait()


def resumed_at(start: Launcher) -> int:
    """Step from which the last program went on."""
    return int(start.programs[-1].output.split("goes on from step ")[1].split()[0])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """A run that nothing disturbs, and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    done = subprocess.run(
        [*COMMAND, "--out", "run"], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return Run.read(folder / "run"), done.stderr + done.stdout


@pytest.mark.slow
def test_a_run_ends_with_a_relaxed_glass_and_its_report(whole: tuple[Run, str], glass: Atoms) -> None:
    run, printed = whole
    assert "28 steps of 1 fs (melt 12, quench 10, anneal 6), 3500 to 300 K by 320000 K/ps" in printed
    assert "about 1 min: 28 steps of" in printed
    assert "first sharp diffraction peak cannot be resolved" in printed
    assert re.search(r"the glass has \d+ % of the Si-O bonds of its start", printed)
    report = json.loads((run.folder / "report.json").read_text())
    assert report["settings"]["melt_temperature_K"] == 3500
    assert report["glass"]["largest force (eV/Å)"] < 8.0
    assert report["structure"]["figures"]["density (g/cm3)"] == pytest.approx(2.2, abs=0.001)
    found = run.glass
    assert sorted(found.symbols) == sorted(glass.symbols)
    assert found.get_potential_energy() < run.columns()["PotEng"][-1] + 100  # 8 eV/Å is far from a minimum
    steps = [step for step, _ in run.md.frames()]
    assert steps == run.columns()["Step"].tolist() == list(range(STEPS + 1))
    for name in ("run.png", "structure.png", "structure.csv", "glass-structure_factor.csv"):
        assert (run.folder / name).stat().st_size > 500
    assert not (run.folder / "mlh_guard.xyz").exists()


@pytest.mark.slow
def test_a_run_killed_in_melt_and_quench_goes_on_as_if_nothing_had_been(
    whole: tuple[Run, str], start: Launcher
) -> None:
    """Temperature and conserved energy, with the thermostat's share, are those of the other run."""
    killed_after(start, 6, "log.*.lammps")
    killed_after(start, MELT + 6, "log.*.lammps")
    assert 4 <= resumed_at(start) < MELT
    last = start(*COMMAND, "--out", "run")
    assert last.status(300) == 0, last.output
    assert MELT + 4 <= resumed_at(start) < STEPS
    columns, undisturbed = Run.read(start.folder / "run").columns(), whole[0].columns()
    assert columns["Step"].tolist() == undisturbed["Step"].tolist()
    np.testing.assert_allclose(columns["Temp"], undisturbed["Temp"], rtol=1e-3)
    np.testing.assert_allclose(columns["Econserve"], undisturbed["Econserve"], atol=2e-3)
    assert np.ptp(undisturbed["Temp"]) > 1000
    frames = list(Run.read(start.folder / "run").md.frames())
    assert [step for step, _ in frames] == list(range(STEPS + 1))


@pytest.mark.slow
def test_a_run_in_ipi_killed_in_the_quench_goes_on(start: Launcher) -> None:
    killed_after(start, 5, "quench.out", "--engine", "ipi")
    last = start(*COMMAND, "--out", "run", "--engine", "ipi")
    assert last.status(300) == 0, last.output
    assert MELT + 4 <= resumed_at(start) < STEPS
    run = Run.read(start.folder / "run")
    columns = run.columns()
    assert columns["Step"].tolist() == list(range(STEPS + 1))
    quench = columns["Econserve"][MELT + 1 :]
    assert np.ptp(columns["Econserve"][: MELT + 1]) < 0.15 and np.ptp(quench) < 0.15
    assert abs(np.diff(columns["Temp"])).max() < 400
    assert [step for step, _ in run.md.frames()] == columns["Step"].tolist()
    assert json.loads((run.folder / "report.json").read_text())["glass"]["largest force (eV/Å)"] < 8.0
    assert not list(run.folder.glob("#*"))


@pytest.mark.slow
def test_dry_run_writes_inputs_of_a_random_start_that_run_by_hand(start: Launcher) -> None:
    """By the line that it prints, from the folder in which it was typed."""
    own = start.folder / "my own.pt"
    own.symlink_to(find_model("asio2-minimal"))
    command = (
        *DRIVER,
        "melt-quench",
        *SHORT,
        "--seed",
        "3",
        "--atoms",
        "72",
        "--density",
        "2.1",
        "--dry-run",
        "--model",
        own.name,
    )
    program = start(*command, "--out", "run")
    assert program.status() == 0, program.output
    folder, typed = re.search("by hand: cd (.*) && mlh-driver lammps (.*)\n", program.output).groups()
    assert folder == "run"
    run = Run.read(start.folder / "run")
    assert sorted(path.name for path in run.folder.iterdir()) == [
        "in.melt_quench", "settings.json", "start.data", "start.xyz",
    ]  # fmt: skip
    assert str(run.start.symbols) == "Si24O48"
    assert mass_density(run.start) == pytest.approx(2.1)
    lengths = ("-var", "melt", "2", "-var", "quench", "1", "-var", "anneal", "1")
    by_hand = start(*DRIVER, "lammps", *shlex.split(typed), *lengths, folder=run.folder)
    assert by_hand.status() == 0, by_hand.output
    columns = read_log(run.folder / "log.lammps")
    assert columns["Step"].tolist() == [0, 1, 2, 2, 3, 3, 4]
    assert columns["Temp"][0] == pytest.approx(3500)
    assert columns["extrapolation"][0] < 1.5


def test_constant_pressure_changes_the_cell(tmp_path: Path, glass: Atoms, engine: Engine) -> None:
    run = prepare(tmp_path / "run", glass, tiny(ensemble="npt", pressure_bar=1e5), engine)
    run.md.carry_out(engine)
    density = run.columns()["Density"]
    assert len(density) == 7 and np.ptp(density) > 1e-6
    assert mass_density(run.md.final()) == pytest.approx(density[-1], rel=1e-4)


class Failing:
    """An engine that fails at a call."""

    def __init__(self, engine: Engine, call: int) -> None:
        self.engine, self.call = engine, call
        self.check_species, self.close = engine.check_species, engine.close

    def compute(self, system: System) -> Results:
        self.call -= 1
        if self.call < 0:
            raise NonFiniteError("the model returned a force of 2e+03 eV/Å on atom 5")
        return self.engine.compute(system)


@pytest.mark.parametrize("md", ["lammps", "ipi"])
def test_a_run_that_leaves_the_range_says_what_to_do_and_goes_on_from_its_restart(
    tmp_path: Path, glass: Atoms, engine: Engine, md: str
) -> None:
    run = prepare(tmp_path / "run", glass, tiny(engine=md), engine)
    seen: list[Status] = []
    with pytest.raises(NonFiniteError) as caught:
        carry_out(run, Failing(engine, 5), seen.append)
    message = str(caught.value)
    assert message.startswith("the quench left the range of the model at step 4 of 6 at some ")
    assert "atom 5" in message and "--melt-temperature" in message and "mlh_guard.xyz" in message
    assert [status.step for status in seen][:3] == [0, 1, 2] and seen[-1].stage == "quench"
    good, bad = ase.io.read(run.folder / "mlh_guard.xyz", index=":")
    assert good.info["why"] == "last good structure" and np.isfinite(good.get_forces()).all()
    assert "atom 5" in bad.info["why"] and 0 < abs(bad.positions - good.positions).max() < 0.2
    _, step = run.md.restart()
    assert step in (2, 3)
    carry_out(run, engine, seen.append)
    assert run.glass is not None and run.columns()["Step"][-1] == 6


def test_restart_files_take_turns_also_over_several_sessions(
    tmp_path: Path, glass: Atoms, engine: Engine
) -> None:
    run = prepare(tmp_path / "run", glass, tiny(frame_steps=3), engine)
    for end in (2, 4):  # each session writes one
        with pytest.raises(NonFiniteError):
            run.md.carry_out(Failing(engine, 4))
        assert run.md.restart()[1] == end
    assert run.md.restart()[0].name == "melt_quench.restart.b"
    (run.folder / "melt_quench.restart.b").unlink()
    assert run.md.restart()[1] == 2
    run.md.carry_out(engine)
    assert run.columns()["Step"].tolist() == [0, 2, 3, 4, 6]  # every third, and the ends of the stages


def test_stages_of_i_pi_join_wherever_its_checkpoints_are(
    tmp_path: Path, glass: Atoms, engine: Engine
) -> None:
    """The melt ends at a checkpoint of the second name and not of the first."""
    run = prepare(tmp_path / "run", glass, tiny(engine="ipi", melt_ps=0.003, restart_steps=2), engine)
    run.md.carry_out(engine)
    for stage, last in (("melt", 3), ("quench", 4)):
        state = ElementTree.parse(run.folder / f"{stage}.restart").getroot()
        assert state.findtext("step") == str(last)
    columns = run.columns()
    assert columns["Step"].tolist() == [step for step, _ in run.md.frames()] == list(range(8))
    momenta, masses = (np.fromstring(state.findtext(f".//{name}").strip(" []\n"), sep=",") for name in "pm")
    kinetic = 0.5 * (momenta.reshape(-1, 3) ** 2).sum(axis=1) @ (1.0 / masses)
    temperature = kinetic * HARTREE_eV / (1.5 * (len(glass) - 1) * KELVIN_eV)
    assert columns["Temp"][-1] == pytest.approx(temperature, rel=1e-4)


def test_a_run_stopped_in_its_relaxation_keeps_its_last_frame_and_line(
    tmp_path: Path, glass: Atoms, engine: Engine
) -> None:
    run = prepare(tmp_path / "run", glass, tiny(), engine)
    run.md.carry_out(engine)
    before = run.columns()
    run.md.carry_out(engine)
    assert [step for step, _ in run.md.frames()] == before["Step"].tolist() == list(range(7))
    assert {name: values.tolist() for name, values in run.columns().items()} == {
        name: values.tolist() for name, values in before.items()
    }


def test_a_run_in_ipi_without_its_first_forces_has_not_begun(
    tmp_path: Path, glass: Atoms, engine: Engine
) -> None:
    run = prepare(tmp_path / "run", glass, tiny(engine="ipi"), engine)
    for header in ("", "# column   1     --> step : The current simulation time step.\n"):
        (run.folder / "melt.out").write_text(header)
        (run.folder / "melt.observables_0").touch()
        assert how_far(run) == "not begun"


def test_a_relaxation_that_is_stopped_goes_on_and_one_without_end_makes_no_glass(
    tmp_path: Path, glass: Atoms, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(tmp_path / "run", glass, tiny(relax_eV_A=1.0), engine)
    run.md.carry_out(engine)
    monkeypatch.setattr("mlh_driver.workflows.melt_quench.run.MOST_RELAXATION_STEPS", 1)
    seen: list[Status] = []
    with pytest.raises(MLHError, match=r"after 1 steps, above 1.0; started again, .* goes on from there"):
        relax_glass(run, engine, seen.append)
    assert run.glass is None
    monkeypatch.undo()
    with pytest.raises(NonFiniteError):
        relax_glass(run, Failing(engine, 3), seen.append)
    relax_glass(run, engine, seen.append)
    assert [status.step for status in seen] == list(range(len(seen))) and len(seen) > 4
    assert seen[-1].results.largest_force < 1.0
    assert run.glass.get_potential_energy() == seen[-1].results.energy < seen[0].results.energy


def test_temperature_that_is_shown_is_that_of_lammps(tmp_path: Path, glass: Atoms, engine: Engine) -> None:
    """Of velocities between two steps, so between the two temperatures that LAMMPS writes, nearly."""
    seen: list[Status] = []
    run = prepare(tmp_path / "run", glass, tiny(timestep_fs=0.25, melt_ps=0.001), engine)
    run.md.carry_out(Monitor(engine, run.settings, 0, seen.append))
    logged = run.columns()
    shown = {status.step: status.temperature_K for status in seen if status.temperature_K is not None}
    assert list(shown) == logged["Step"].tolist()[1:]
    for step, temperature in shown.items():
        middle = np.mean(logged["Temp"][step - 1 : step + 1])
        assert temperature == pytest.approx(middle, rel=0.01)


def test_a_folder_with_other_settings_or_other_content_is_refused(
    tmp_path: Path, glass: Atoms, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(tmp_path / "run", glass, tiny(), engine)
    assert prepare(run.folder, glass, tiny(), engine) == run
    with pytest.raises(InputError, match=r"settings.seed is 1 there and 2 now. Give the same ones"):
        prepare(run.folder, glass, tiny(seed=2), engine)
    moved = glass.copy()
    moved.positions[0] += 0.01
    with pytest.raises(InputError, match="digest"):
        prepare(run.folder, moved, tiny(), engine)
    with pytest.raises(InputError, match="n_atoms"):
        prepare(run.folder, RandomStart(), tiny(), engine)
    warm = Engine(engine.model, electronic_temperature_K=2000.0)
    with pytest.raises(InputError, match="electronic_temperature_K is 300"):
        prepare(run.folder, glass, tiny(), warm)
    rough = Engine(engine.model, solver="foe", error_per_atom_meV=50.0)
    with pytest.raises(
        InputError, match=r"model\.solver is auto there and foe now; model\.error_per_atom_meV is 0\.1"
    ):
        prepare(run.folder, glass, tiny(), rough)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(InputError, match="exists and holds no run"):
        prepare(tmp_path / "other", glass, tiny(), engine)
    (tmp_path / ".editor").mkdir()
    (tmp_path / ".editor" / "settings.json").write_text('{"theme": "dark"}')
    assert find_runs([tmp_path]) == [run]
    with pytest.raises(InputError, match="exists and holds no run"):
        prepare(tmp_path / ".editor", glass, tiny(), engine)
    for command in ("report", "status"):
        shown = CliRunner().invoke(app, [command, str(tmp_path / ".editor")])
        assert isinstance(shown.exception, InputError), shown
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    linked = prepare(tmp_path / "link", glass, tiny(), engine)
    (linked.folder / "log.byhand.lammps").touch()
    assert Run.read(tmp_path / "link").settings == tiny() and how_far(linked) == "not begun"
    shown = CliRunner().invoke(app, ["status", str(tmp_path / "link")])
    assert shown.exit_code == 0 and shown.output == "not begun\n"
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(InputError, match=r"\. is the folder at work; name another by --out"):
        prepare(Path(), glass, tiny(), engine)


def test_a_restart_file_cut_off_by_a_kill_is_passed_over(
    tmp_path: Path, glass: Atoms, engine: Engine
) -> None:
    run = prepare(tmp_path / "run", glass, tiny(), engine)
    run.md.carry_out(engine)
    files = [run.folder / f"melt_quench.restart{ending}" for ending in ("", ".a", ".b")]
    path, step = run.md.restart()
    assert path in files[:2] and step == 6
    content = files[0].read_bytes()
    files[0].write_bytes(content[:-500])
    files[1].write_bytes(content[:3000])
    path, step = run.md.restart()
    assert path == files[2] and step == 4
    files[2].write_bytes(b"garbage" + content[-16:])
    assert run.md.restart() == (None, 0)


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path, glass: Atoms, engine: Engine) -> None:
    run = prepare(tmp_path / "run", glass, tiny(), engine)

    class Second(Exception):
        """The second process has met the lock."""

    def try_again(status: Status) -> None:
        with pytest.raises(InputError, match="another process is at work"):
            carry_out(run, engine, lambda status: None)
        raise Second

    with pytest.raises(Second):
        carry_out(run, engine, try_again)


@pytest.mark.parametrize("seed", range(1, 9))
def test_packing_has_no_overlaps(seed: int) -> None:
    distances = {frozenset(("Si",)): 2.15, frozenset(("Si", "O")): 1.37, frozenset(("O",)): 2.07}
    numbers = np.array([14] * 32 + [8] * 64)
    atoms = packed(numbers, np.array([11.32, 11.32, 11.32]), distances, seed)
    assert (atoms.numbers == numbers).all() and (atoms.cell.lengths() == 11.32).all()
    for pair, least in distances.items():
        a, b = min(pair), max(pair)
        assert neighbor_list("d", atoms, {(a, b): 3.0}).min() > least
    other = packed(numbers, np.array([11.32, 11.32, 11.32]), distances, seed + 1)
    assert abs(other.positions - atoms.positions).max() > 1.0


def test_random_starts_are_liquids_that_the_model_knows(engine: Engine) -> None:
    """Packed alone, the extrapolation is 10 to 40."""
    start = random_start(RandomStart(n_atoms=72, density_g_cm3=2.3), tiny(), engine)
    assert str(start.symbols) == "Si24O48"
    assert mass_density(start) == pytest.approx(2.3)
    found = neighbor_list("d", start, 3.0)
    assert found.min() > 0.9 * min(shortest_distances(engine).values())
    _, results = seconds_per_step(engine, start)
    assert results.extrapolation < 2.0


def test_starts_and_settings_that_cannot_be_are_refused(engine: Engine) -> None:
    with pytest.raises(InputError, match="97 atoms are no whole number of SiO2; give 96 or 99"):
        random_start(RandomStart(n_atoms=97), tiny(), engine)
    with pytest.raises(InputError, match="no chemical formula"):
        random_start(RandomStart(composition="Sand", density_g_cm3=1.0), tiny(), engine)
    with pytest.raises(InputError, match="no chemical formula such as SiO2: it is empty"):
        random_start(RandomStart(composition="", density_g_cm3=1.0), tiny(), engine)
    with pytest.raises(InputError, match="melt_ps: Input should be a finite number"):
        preset("quick", {"melt_ps": float("inf")})
    with pytest.raises(InputError, match="knows only"):
        random_start(RandomStart(composition="GeO2", density_g_cm3=3.6), tiny(), engine)
    with pytest.raises(InputError, match="the density is too high"):
        random_start(RandomStart(n_atoms=24, density_g_cm3=12.0), tiny(), engine)
    with pytest.raises(InputError, match="there is no preset 'fast'; choose quick, standard, slow"):
        preset("fast", {})
    with pytest.raises(InputError, match="npt runs in LAMMPS only"):
        preset("quick", {"engine": "ipi", "ensemble": "npt"})
    with pytest.raises(InputError, match="pressure_bar is 1000, but the volume is constant; choose ensemble"):
        preset("quick", {"pressure_bar": 1000.0})
    with pytest.raises(
        InputError, match=r"^preset quick: final_temperature_K is .* below melt_temperature_K, 200"
    ):
        preset("quick", {"melt_temperature_K": 200.0})
    with pytest.raises(ValueError, match="the density of GeO2 is not known"):
        RandomStart(composition="GeO2")


def test_options_that_cannot_be_are_named_without_the_words_of_pydantic() -> None:
    for options, message in (
        (("--composition", "GeO2"), "^random start: the density of GeO2 is not known; give it by --density"),
        (("--final-temperature", "4000"), "^preset standard: final_temperature_K is 4000"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            CliRunner().invoke(app, ["melt-quench", *options], catch_exceptions=False)
        assert "Value error" not in str(caught.value)


def test_presets_are_what_they_are_called() -> None:
    assert preset("standard", {}) == MeltQuenchSettings()
    steps = [preset(name, {}).steps for name in PRESETS]
    assert steps == sorted(steps) and steps[0] == 6200
    settings = preset("quick", {"timestep_fs": 0.5})
    assert settings.lengths == {"melt": 4000, "quench": 6400, "anneal": 2000}
    assert [settings.stage_at(step) for step in (0, 4000, 4001, 12400)] == [
        "melt",
        "melt",
        "quench",
        "anneal",
    ]


def test_the_shipped_inputs_are_links_to_the_templates_of_the_package() -> None:
    import mlh_driver.workflows.melt_quench as workflow

    templates = Path(workflow.__file__).parent / "inputs"
    shipped = [
        *(REPOSITORY / "lammps_inputs/melt_quench").iterdir(),
        *(REPOSITORY / "ipi_inputs/melt_quench").iterdir(),
    ]
    linked = {path.resolve() for path in shipped if path.is_symlink()}
    assert linked == set(templates.iterdir())

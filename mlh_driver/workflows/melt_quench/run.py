"""The folder of a melt-quench, and the way through it.

========================  ===========================================================================
``settings.json``         what was asked for; another request is refused here
``start.xyz``             the structure to start from
inputs                    of LAMMPS (``in.melt_quench``, ``start.data``) or i-PI (``*.xml``, ``init.xyz``)
``relaxation.traj``       the steps of the relaxation
``glass.xyz``             the relaxed glass, with energy, forces, stress and observables
``mlh_guard.xyz``         structures out of the model's range, and the last good one before, if there were any
``report.json``           how the run went, the glass, its structure
``run.png``               temperature, energies, gap and extrapolation
``levels.csv``, ``.png``  of :mod:`~mlh_driver.workflows.melt_quench.levels`
``structure.*`` and CSV   of :mod:`mlh_driver.analysis.report`
========================  ===========================================================================
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from mlh_driver.analysis import Structure, summary, write_report
from mlh_driver.analysis.network import bonds_kept, has_network
from mlh_driver.analysis.plots import draw_levels, plot_thermo
from mlh_driver.analysis.report import as_json
from mlh_driver.engine import Engine
from mlh_driver.engine_settings import DECISIVE
from mlh_driver.errors import NO_RESULT, InputError, MLHError
from mlh_driver.files import alone_in, read_json, write_json
from mlh_driver.force_engine import ForceEngine
from mlh_driver.interfaces.guard import GUARD_FILE, GUARDED, GuardedEngine, Rule
from mlh_driver.model import Model
from mlh_driver.model_files import model_digest
from mlh_driver.results import EDGE, Results, SMALL_GAP_eV, TOLERATED_e
from mlh_driver.settings import validated
from mlh_driver.structures import bare, read_frames
from mlh_driver.system import Array, System, mass_density
from mlh_driver.workflows.melt_quench.ipi import IpiRun
from mlh_driver.workflows.melt_quench.lammps import LammpsRun
from mlh_driver.workflows.melt_quench.levels import LEVELS, read_levels, write_levels
from mlh_driver.workflows.melt_quench.monitor import Monitor, RunProgress, Status
from mlh_driver.workflows.melt_quench.packing import random_start
from mlh_driver.workflows.melt_quench.settings import MeltQuenchSettings, RandomStart
from mlh_driver.workflows.relaxation import relax
from mlh_driver.workflows.run_folder import SETTINGS, check_same

START, GLASS = "start.xyz", "glass.xyz"
MOST_RELAXATION_STEPS = 1000
TIMED_CALLS, TIMED_SHIFT_A = 2, 0.01
#: A figure of a run; a liquid that has forgotten its start keeps the few bonds that chance makes.
KEPT = "share of the Si-O bonds of the start"
#: Of the columns of a run, those that have to be read with it.
RANGE = ("extrapolation", "charge_deviation")


def holds_run(folder: Path) -> bool:
    """Whether the folder is that of a melt-quench; other programs have a settings.json, too."""
    try:
        return {"settings", "start", "model"} <= read_json(folder / SETTINGS).keys()
    except (OSError, ValueError, AttributeError):
        return False


@dataclass(frozen=True)
class Run:
    """A melt-quench in its folder."""

    folder: Path
    settings: MeltQuenchSettings

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The run in a folder that was prepared; raises InputError if there is none, or one of no use."""
        path = folder / SETTINGS
        if not holds_run(folder):
            raise InputError(f"{folder} holds no run of 'mlh-driver melt-quench' ({SETTINGS})")
        return cls(folder, validated(MeltQuenchSettings, read_json(path)["settings"], str(path)))

    @property
    def md(self) -> LammpsRun | IpiRun:
        """The dynamics: inputs, restart, log and frames."""
        kind = IpiRun if self.settings.engine == "ipi" else LammpsRun
        return kind(self.folder, self.settings)

    @property
    def start(self) -> Atoms:
        return _read(self.folder / START)

    @property
    def glass(self) -> Atoms | None:
        """The relaxed glass, if the run has come so far."""
        path = self.folder / GLASS
        return _read(path) if path.exists() else None

    def columns(self) -> dict[str, Array]:
        """What was logged: Step, Time in ps, Temp, PotEng, gap, extrapolation and so on."""
        columns = self.md.columns()
        return columns | {"Time": columns["Step"] * self.settings.timestep_fs / 1e3}

    def levels(self) -> dict[str, Array]:
        """Those along a finished run, none of one that is not."""
        return read_levels(self.folder / LEVELS)


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs of which folders are given, or that lie in them; raises InputError if there are none."""
    files = [
        file
        for folder in folders
        for file in (sorted(folder.glob(SETTINGS)) or sorted(folder.glob(f"*/{SETTINGS}")))
        if holds_run(file.parent)
    ]
    if not files:
        raise InputError(
            f"no runs in {', '.join(map(str, folders))}; make some with 'mlh-driver melt-quench'"
        )
    return [Run.read(file.parent) for file in files]


def prepare(
    folder: str | Path, start: RandomStart | Atoms, settings: MeltQuenchSettings, engine: Engine
) -> Run:
    """Write the inputs into a new folder; or take the run that is there, if it is the same.

    Raises InputError where the folder holds a run of other settings, or something else.
    """
    asked = request(start, settings, engine)
    folder = Path(folder)
    folder = folder.resolve() if folder.is_symlink() else folder
    if holds_run(folder):
        before = read_json(folder / SETTINGS)
        before["model"] = asked["model"] | before["model"]  # the first runs did not name all settings
        check_same(folder, before, asked)
        return Run(folder, settings)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and holds no run; give a new folder by --out")
    if folder.exists() and folder.samefile(Path.cwd()):
        raise InputError(f"{folder} is the folder at work; name another by --out, which a run can make")
    if isinstance(start, Atoms):
        System.from_ase(start)  # refuses what has no cell
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if isinstance(start, RandomStart):
        atoms = random_start(start, settings, engine)
    else:
        atoms = bare(start, wrapped=True)
    engine.check_species(atoms.numbers)
    run = Run(partial, settings)
    run.md.write_inputs(atoms)
    ase.io.write(partial / START, atoms, format="extxyz")
    write_json(partial / SETTINGS, asked)
    partial.replace(folder)
    return Run(folder, settings)


def request(start: RandomStart | Atoms, settings: MeltQuenchSettings, engine: Engine) -> dict[str, Any]:
    """Everything that decides on the result."""
    if isinstance(start, RandomStart):
        given: dict[str, Any] = start.model_dump()
    else:
        content = b"".join(array.tobytes() for array in (start.numbers, start.positions, start.cell.array))
        given = {"formula": start.get_chemical_formula(), "digest": hashlib.sha256(content).hexdigest()[:16]}
    chosen = engine.settings
    model = {
        "name": engine.model.metadata.name,
        "digest": None if isinstance(chosen.model, Model) else model_digest(chosen.model),
        **{name: getattr(chosen, name) for name in DECISIVE},
    }
    return {"settings": settings.model_dump(), "start": given, "model": model}


def seconds_per_step(engine: ForceEngine, atoms: Atoms) -> tuple[float, Results]:
    """Measured on the structure, shaken a little before each call; and the results of the first call."""
    results = engine.compute(System.from_ase(atoms))  # compiles, and builds what later calls reuse
    shaken = atoms.copy()
    begin = time.monotonic()
    for seed in range(TIMED_CALLS):
        shaken.rattle(TIMED_SHIFT_A, seed=seed)
        engine.compute(System.from_ase(shaken))
    return (time.monotonic() - begin) / TIMED_CALLS, results


def carry_out(run: Run, engine: Engine, progress: RunProgress) -> Structure:
    """Melt, quench, anneal, relax and analyze, each unless it was done before; returns the glass's structure.

    Raises the model's error where the dynamics leaves its range, and InputError if another process is at it.
    """
    with alone_in(run.folder):
        if run.glass is None:
            _move(run, engine, progress)
            relax_glass(run, engine, progress)
        if not (run.folder / LEVELS).exists():
            write_levels(list(run.md.frames()), run.settings.timestep_fs, engine, run.folder / LEVELS)
        return _report(run)


def _move(run: Run, engine: ForceEngine, progress: RunProgress) -> None:
    """The dynamics, from its last restart to its end, guarded."""
    rules = {name: Rule("dump", guarded.limit) for name, guarded in GUARDED.items()}
    guarded = GuardedEngine(engine, rules, run.folder / GUARD_FILE)
    _, step = run.md.restart()
    monitor = Monitor(guarded, run.settings, step, progress)
    try:
        run.md.carry_out(monitor)
    except NO_RESULT as error:
        raise type(error)(_left_range(run.settings, monitor, error)) from error


def _left_range(settings: MeltQuenchSettings, monitor: Monitor, error: MLHError) -> str:
    at = "" if monitor.temperature_K is None else f" at some {monitor.temperature_K:.0f} K"
    return (
        f"the {settings.stage_at(monitor.step)} left the range of the model at step {monitor.step} of "
        f"{settings.steps}{at}: {error}. Melt less hot (--melt-temperature), take a shorter time step "
        "(--timestep 0.5), or teach the model such structures (mlh-driver learn); other settings need "
        "another --out"
    )


def relax_glass(run: Run, engine: ForceEngine, progress: RunProgress) -> None:
    """Relax the end of the dynamics at fixed cell, to ``glass.xyz``; raises MLHError if that has no end."""

    def show(step: int, results: Results) -> None:
        progress(Status("relaxation", step, MOST_RELAXATION_STEPS, None, None, results))

    found = relax(
        bare(run.md.final(), wrapped=True),
        engine,
        run.folder,
        run.settings.relax_eV_A,
        MOST_RELAXATION_STEPS,
        show,
    )
    found.write(run.folder / GLASS, name=f"{run.folder.name}_relaxed_T0")


def _report(run: Run) -> Structure:
    """Write what was found; the structure is that of the relaxed glass."""
    glass, columns = run.glass, run.columns()
    assert glass is not None
    structure = summary([bare(glass, wrapped=True)])
    write_report({"glass": structure}, run.folder)
    plot_thermo({run.folder.name: columns}, run.folder / "run.png")
    levels = run.levels()
    if levels:
        draw_levels({run.folder.name: levels}).savefig(run.folder / "levels.png", dpi=150)
    report = {
        **read_json(run.folder / SETTINGS),
        "version": version("mlh-driver"),
        "run": run_figures(columns) | ({KEPT: bonds_kept(run.start, glass)} if has_network(glass) else {}),
        "glass": glass_figures(glass),
        "levels": {name: values.tolist() for name, values in levels.items()},
        "structure": as_json({"glass": structure})["glass"],
    }
    write_json(run.folder / "report.json", report)
    return structure


def run_figures(columns: dict[str, Array]) -> dict[str, float]:
    """How a run went, from the lines of its log."""
    figures = {
        "last step": float(columns["Step"][-1]),
        "temperature at the end (K)": float(columns["Temp"][-1]),
    }
    if "extrapolation" in columns:
        figures |= {
            "share of steps with extrapolation up to 1": float((columns["extrapolation"] <= EDGE).mean()),
            "share of steps with reason for doubt": float(
                doubtful(columns["gap"], *(columns[name] for name in RANGE)).mean()
            ),
            "smallest gap (eV)": float(columns["gap"].min()),
        }
        figures |= {f"largest {name}": float(columns[name].max()) for name in RANGE}
    return figures


def doubtful(gap_eV: Array, extrapolation: Array, charge_deviation: Array) -> NDArray[np.bool_]:
    """Where one of these passes the limit of :meth:`~mlh_driver.results.Results.doubts`."""
    return (gap_eV < SMALL_GAP_eV) | (extrapolation > EDGE) | (charge_deviation > TOLERATED_e)


def glass_figures(glass: Atoms) -> dict[str, float]:
    """Of the relaxed glass, as it is in its file."""
    return {
        "energy (eV/atom)": float(glass.get_potential_energy() / len(glass)),
        "largest force (eV/Å)": float(np.linalg.norm(glass.get_forces(), axis=1).max()),
        "density (g/cm3)": mass_density(glass),
        **{name: float(glass.info[name]) for name in ("band_gap", *RANGE)},
    }


def _read(path: Path) -> Atoms:
    (atoms,) = read_frames([path], last_only=True).values()
    return atoms

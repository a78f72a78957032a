"""``mlh-driver melt-quench``"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from mlh_driver.cli import consoles
from mlh_driver.cli.campaigns import (
    SchedulerOption,
    SlurmOption,
    WorkersOption,
    campaign_bars,
    campaign_engine,
    campaign_pool,
)
from mlh_driver.cli.options import as_options, option, with_engine_options, with_options
from mlh_driver.cli.progress_bars import progress_bars
from mlh_driver.engine_settings import EngineSettings
from mlh_driver.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

    from mlh_driver.analysis import Structure
    from mlh_driver.engine import Engine
    from mlh_driver.workflows.melt_quench import MeltQuenchSettings, RandomStart, Run
    from mlh_driver.workflows.melt_quench.monitor import RunProgress, Status

#: That of the labels of melts. Where the gap closes, electrons at 300 K would be in states that no label has;
#: with a gap of 2 eV and more energy and forces are those at 300 K.
ELECTRONIC_TEMPERATURE_K = 2000.0
MOST_KEPT = 0.3
"""Share of the bonds of the start: a melt of 2 ps at 4500 K keeps 0.5 to 0.95, one of 8 ps 0.1."""
LINE_EVERY_S = 60.0
"""Seconds between lines where the output is no terminal."""


#: Type, option, metavar and help of each setting that the preset decides unless it is given.
SETTINGS: dict[str, tuple[type, str, str, str]] = {
    "melt_temperature_K": (float, "--melt-temperature", "K", "Temperature of the melt; default 3500."),
    "final_temperature_K": (float, "--final-temperature", "K", "Temperature at the end; default 300."),
    "melt_ps": (float, "--melt", "PS", "Time in the melt."),
    "quench_K_ps": (float, "--rate", "K/PS", "Cooling rate."),
    "anneal_ps": (float, "--anneal", "PS", "Time at the final temperature."),
    "timestep_fs": (float, "--timestep", "FS", "Time step; default 1."),
    "ensemble": (str, "--ensemble", "NAME", "nvt or npt; default nvt."),
    "pressure_bar": (float, "--pressure", "BAR", "Of npt; default 0."),
    "engine": (str, "--engine", "NAME", "lammps or ipi; default lammps."),
    "seed": (int, "--seed", "N", "Of packing and velocities; default 1."),
    "frame_steps": (int, "--every", "STEPS", "Between frames, and between lines of the log; default 50."),
    "restart_steps": (int, "--save", "STEPS", "Between restart files; default 100."),
    "relax_eV_A": (float, "--fmax", "EV/Å", "Largest force of the relaxed glass; default 0.05."),
}
RANDOM: dict[str, tuple[type, str, str, str]] = {
    "composition": (str, "--composition", "FORMULA", "Of a random start; default SiO2."),
    "n_atoms": (int, "--atoms", "N", "Of a random start; default 96."),
    "density_g_cm3": (float, "--density", "G/CM3", "Of a random start; default 2.2, of silica."),
}


def _with_given(name: str, table: dict[str, tuple[type, str, str, str]]) -> Any:
    """Options in place of a parameter, which is the dictionary of those that were given."""
    options = [
        option(key, None, Annotated[kind | None, typer.Option(flag, metavar=metavar, help=text)])  # type: ignore[valid-type]
        for key, (kind, flag, metavar, text) in table.items()
    ]

    def given(**values: Any) -> dict[str, Any]:
        return {key: value for key, value in values.items() if value is not None}

    return lambda command: with_options(command, name, given, options)


@partial(with_engine_options, electronic_temperature_K=ELECTRONIC_TEMPERATURE_K)
@_with_given("changes", SETTINGS)
@_with_given("random", RANDOM)
@partial(consoles.resumable, how="the same command goes on from the last restart file")
def melt_quench(
    settings: EngineSettings,
    changes: dict[str, Any],
    random: dict[str, Any],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of the run; the same command goes on in it.")
    ] = Path("melt_quench"),
    preset: Annotated[
        str, typer.Option("--preset", help="quick (1000 K/ps), standard (100 K/ps) or slow (10 K/ps).")
    ] = "standard",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the inputs, tell the time, and stop.")
    ] = False,
    structure: Annotated[
        Path | None, typer.Option("--structure", metavar="FILE", help="Start from it, not from random atoms.")
    ] = None,
    copies: Annotated[
        int, typer.Option("--copies", min=1, help="So many glasses, with seeds from --seed on.")
    ] = 1,
    workers: WorkersOption = 1,
    scheduler: SchedulerOption = "",
    slurm: SlurmOption = 0,
) -> None:
    """Make a glass: melt, quench, anneal, relax, analyze.

    Starts from atoms packed at random, or from a structure. Runs LAMMPS or i-PI on inputs that it writes, and
    tells before how long that takes. Killed at any moment, the same command goes on. The folder ends with
    [bold]glass.xyz[/], [bold]report.json[/], figures and tables. With [bold]--copies[/] there is such a
    folder for each seed, and mean and spread over the glasses beside them.

    Example: [bold]mlh-driver melt-quench --preset quick --seed 7 --out glass7[/]
    """
    from mlh_driver.workflows.melt_quench import preset as settings_of
    from mlh_driver.workflows.melt_quench import run_copies

    chosen = settings_of(preset, changes)
    start = _start(structure, random)
    console = consoles.for_messages()
    if (workers > 1 or scheduler or slurm) and copies == 1:
        raise InputError("--workers, --scheduler and --slurm share out copies; ask for several by --copies")
    engine = campaign_engine(settings)
    first = _first(out, start, chosen, settings, copies, engine)
    _tell_time(first, engine, console)
    if dry_run:
        console.print(f"inputs are in {first.folder}; by hand: {_by_hand(first, settings)}")
        return
    if copies == 1:
        _one(first, engine, console)
        return
    console.print(f"{copies} copies, each some such time; mlh-driver status {out} looks at them")
    with campaign_pool(workers, settings.threads, scheduler, slurm) as pool, campaign_bars() as progress:
        run_copies(out, start, chosen, settings, copies, pool=pool, progress=progress)
    _print_copies(out, chosen, copies)


def _by_hand(run: Run, settings: EngineSettings) -> str:
    """What to type for the dynamics of the run, a file of a model by its full path."""
    options = as_options(settings.with_full_path())
    return f"cd {shlex.quote(str(run.folder))} && {run.md.by_hand} {options}".rstrip()


def _first(
    out: Path,
    start: RandomStart | Atoms,
    chosen: MeltQuenchSettings,
    settings: EngineSettings,
    copies: int,
    engine: Engine,
) -> Run:
    """The single run, or the first of the copies; a folder with others is refused before it gets one more."""
    from mlh_driver.workflows.melt_quench import check_copies, copy_name, prepare

    if copies == 1:
        return prepare(out, start, chosen, engine)
    check_copies(out, start, chosen, settings, copies)
    return prepare(out / copy_name(chosen), start, chosen, engine)


def _one(run: Run, engine: Any, console: Console) -> None:
    from mlh_driver.workflows.melt_quench import carry_out

    with _shown(console) as progress:
        found = carry_out(run, engine, progress)
    _print_result(run, found)


def _print_copies(out: Path, chosen: MeltQuenchSettings, copies: int) -> None:
    """Mean and spread of all figures over the glasses that there are, and what is missing."""
    from rich.table import Table

    from mlh_driver.workflows.melt_quench import copy_name, settings_of_copies, write_comparison

    names = {copy_name(each) for each in settings_of_copies(chosen, copies)}
    found = write_comparison(out)
    console = consoles.for_results()
    table = Table(
        "quantity", title=f"{len(found.structures)} of {len(names | found.structures.keys())} glasses"
    )
    for column in ("mean", "spread", "lowest", "highest"):
        table.add_column(column, justify="right")
    table.add_column("published")
    for name, one in found.spreads.items():
        numbers = (one.mean, one.spread, one.lowest, one.highest)
        shown = ("-" if number is None else f"{number:.4g}" for number in numbers)
        table.add_row(name, *shown, str(found.figures[name][0] or ""))
    console.print(table)
    console.print(f"wrote glasses.xyz, glasses.json, tables, figures and report.html to {out}")
    for state in found.failed:
        typer.echo(f"{state.name} failed: {state.note}", err=True)
    if names - found.structures.keys():
        raise typer.Exit(1)


def _start(structure: Path | None, random: dict[str, Any]) -> RandomStart | Atoms:
    """What to start from; raises InputError for options of both kinds."""
    from mlh_driver.settings import validated
    from mlh_driver.structures import read_frames
    from mlh_driver.workflows.melt_quench import RandomStart

    if structure is None:
        return validated(RandomStart, random, "random start")
    if random:
        raise InputError(
            f"{', '.join(random)}: of no use with --structure, which has atoms and density of its own; leave "
            "one out"
        )
    (atoms,) = read_frames([structure], last_only=True).values()
    return atoms


def _tell_time(run: Run, engine: Any, console: Console) -> None:
    """How many steps are left, and how long they take; whether the start is within the model's range."""
    from mlh_driver.workflows.melt_quench import seconds_per_step

    atoms, settings = run.start, run.settings
    seconds, results = seconds_per_step(engine, atoms)
    _, done = run.md.restart()
    left = settings.steps - done
    lengths = ", ".join(f"{stage} {length}" for stage, length in settings.lengths.items())
    console.print(
        f"{atoms.get_chemical_formula()}, {settings.steps} steps of {settings.timestep_fs:g} fs ({lengths}), "
        f"{settings.melt_temperature_K:g} to {settings.final_temperature_K:g} K by "
        f"{settings.quench_K_ps:g} K/ps"
    )
    if done:
        console.print(f"goes on from step {done}")
    if left:
        console.print(f"about {_duration(left * seconds)}: {left} steps of {seconds:.2f} s, measured now")
    for doubt in results.doubts().values():
        console.print(f"the start: {doubt}")


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(seconds / 60, 1):.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 100 * 3600 else f"{seconds / 86400:.1f} days"


def _described(status: Status) -> str:
    results = status.results
    if status.stage == "relaxation":
        largest = f"largest force {results.largest_force:.3f} eV/Å"
        return f"{results.energy:.3f} eV, {largest}, gap {results.band_gap:.2f} eV"
    temperature = "" if status.temperature_K is None else f"{status.temperature_K:.0f} K, "
    speed = "" if status.steps_per_s is None else f", {status.steps_per_s:.1f} steps/s"
    return (
        f"{temperature}{results.energy:.3f} eV, gap {results.band_gap:.2f} eV, "
        f"extrapolation {results.extrapolation:.2f}{speed}"
    )


@contextmanager
def _shown(console: Console) -> Iterator[RunProgress]:
    """A bar for the dynamics and one for the relaxation; a line a minute where there is no terminal."""
    if not console.is_terminal:
        yield _line_a_minute(console)
        return
    with progress_bars(console, width=15) as draw:
        yield lambda status: draw(
            status.stage == "relaxation", status.stage, status.step, status.steps, _described(status)
        )


def _line_a_minute(console: Console) -> RunProgress:
    import time

    last = -LINE_EVERY_S

    def show(status: Status) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_EVERY_S or status.step == status.steps:
            last = now
            left = status.steps - status.step
            time_left = (
                f", {_duration(left / status.steps_per_s)} left" if status.steps_per_s and left else ""
            )
            console.print(f"{status.stage} {status.step}/{status.steps}: {_described(status)}{time_left}")

    return show


def _print_result(run: Run, structure: Structure) -> None:
    """The glass, its structure, and what to know before either is believed."""
    import json

    from mlh_driver.analysis.report import table
    from mlh_driver.results import EDGE, SMALL_GAP_eV, TOLERATED_e
    from mlh_driver.workflows.melt_quench.run import KEPT

    report = json.loads((run.folder / "report.json").read_text())
    console = consoles.for_results()
    console.print(table({"glass": structure}))
    for part in ("run", "glass"):
        console.print(f"{part}: " + "; ".join(f"{name}: {value:.4g}" for name, value in report[part].items()))
    for remark in structure.remarks():
        console.print(remark)
    if (kept := report["run"].get(KEPT, 0.0)) > MOST_KEPT:
        console.print(
            f"the glass has {100 * kept:.0f} % of the Si-O bonds of its start, which the melt has not "
            "forgotten: melt longer or hotter"
        )
    share = report["run"]["share of steps with reason for doubt"]
    if share > 0:
        console.print(
            f"in {100 * share:.0f} % of the run the model gave reason for doubt (extrapolation above "
            f"{EDGE:g}, charge deviation above {TOLERATED_e:g} or gap below {SMALL_GAP_eV:g} eV): check the "
            "glass against DFT before you use it"
        )
    console.print(f"wrote glass.xyz, report.json, run.png, structure.png and tables to {run.folder}")

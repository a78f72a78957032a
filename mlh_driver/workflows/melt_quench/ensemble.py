"""Several melt-quenches that differ in their seed alone: a campaign, one task for each copy.

Beside the files of :mod:`~mlh_driver.workflows.campaign`, the folder has a folder ``seedN`` for each copy,
which is that of :mod:`~mlh_driver.workflows.melt_quench.run`, and goes on as that does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ase import Atoms

from mlh_driver.engine_settings import EngineSettings
from mlh_driver.errors import InputError
from mlh_driver.interfaces.lammps.library import LARGEST_SEED
from mlh_driver.workflows.campaign import (
    CampaignProgress,
    Inputs,
    Pool,
    State,
    Task,
    check_campaign,
    in_this_process,
    open_campaign,
    states,
)
from mlh_driver.workflows.melt_quench.run import Run, carry_out, glass_figures, prepare, request
from mlh_driver.workflows.melt_quench.settings import MeltQuenchSettings, RandomStart
from mlh_driver.workflows.run_folder import SETTINGS
from mlh_driver.workflows.task_inputs import atoms_fields, atoms_from, engine_fields, engine_for


def run_copies(
    folder: Path,
    start: RandomStart | Atoms,
    settings: MeltQuenchSettings,
    engine: EngineSettings,
    copies: int,
    *,
    pool: Pool = in_this_process,
    progress: CampaignProgress | None = None,
) -> list[State]:
    """Carry out the copies with seeds from that of the settings on, or go on with them; returns those that
    failed. A larger number of copies adds to a smaller one.

    Raises InputError, before anything is computed, where the folder holds a run of other settings, or a
    single one.
    """
    described = check_copies(folder, start, settings, engine, copies)
    inputs = {"start": _start_fields(start), "engine": described["engine"]}
    tasks = [
        Task(copy_name(each), make_glass, {**inputs, "settings": each.model_dump()})
        for each in settings_of_copies(settings, copies)
    ]
    with open_campaign(folder, described, copies) as campaign:
        campaign.run(tasks, pool, "copies", progress)
    return [state for state in states(folder) if state.status == "failed"]


def check_copies(
    folder: Path,
    start: RandomStart | Atoms,
    settings: MeltQuenchSettings,
    engine: EngineSettings,
    copies: int,
) -> dict[str, Any]:
    """What the campaign holds of its settings.

    Raises InputError where the folder holds a run of other settings, or a single one, and where the seeds of
    the copies become too large.
    """
    if (last := settings.seed + copies - 1) > LARGEST_SEED:
        raise InputError(
            f"the seeds of {copies} copies end at {last}, and LAMMPS takes {LARGEST_SEED} at most: give a "
            "smaller --seed"
        )
    if (folder / SETTINGS).exists():
        raise InputError(f"{folder} holds a single melt-quench; give another folder by --out for copies")
    fields = engine_fields(engine)
    described = {
        "workflow": "melt-quench",
        "engine": fields,
        **request(start, settings, engine_for(fields)),
    }
    check_campaign(folder, described)
    return described


def settings_of_copies(settings: MeltQuenchSettings, copies: int) -> Iterator[MeltQuenchSettings]:
    """The same with seeds of their own."""
    for k in range(copies):
        yield settings.model_copy(update={"seed": settings.seed + k})


def copy_name(settings: MeltQuenchSettings) -> str:
    """Of its task and of its folder."""
    return f"seed{settings.seed}"


def make_glass(inputs: Inputs, folder: Path) -> dict[str, Any]:
    """The task of a copy; ``folder`` lies in the ``tasks`` of the campaign."""
    settings, engine = MeltQuenchSettings(**inputs["settings"]), engine_for(inputs["engine"])
    start = inputs["start"]
    begin = atoms_from(start) if "positions" in start else RandomStart(**start)
    run = prepare(folder.parent.parent / copy_name(settings), begin, settings, engine)
    carry_out(run, engine, lambda status: None)
    assert run.glass is not None
    return glass_figures(run.glass)


def how_far(run: Run) -> str:
    """Up to which step the log of a run goes."""
    try:
        step = int(run.columns()["Step"][-1])
    except InputError:  # no log yet
        return "not begun"
    return f"{run.settings.stage_at(step)}, step {step} of {run.settings.steps}"


def _start_fields(start: RandomStart | Atoms) -> dict[str, Any]:
    return start.model_dump() if isinstance(start, RandomStart) else atoms_fields(start)

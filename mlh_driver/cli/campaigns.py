"""What commands that run campaigns share: where tasks run, and how many are done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from mlh_driver.cli.progress_bars import progress_bars
from mlh_driver.errors import InputError

if TYPE_CHECKING:
    from mlh_driver.engine import Engine
    from mlh_driver.engine_settings import EngineSettings
    from mlh_driver.workflows.campaign import CampaignProgress, Pool

WorkersOption = Annotated[
    int, typer.Option("--workers", min=1, help="Processes, each with its share of the cores (dask).")
]
SchedulerOption = Annotated[
    str, typer.Option("--scheduler", help="Instead, address or scheduler file of a running dask.")
]
SlurmOption = Annotated[
    int,
    typer.Option(
        "--slurm", min=0, metavar="N", help="Instead, N jobs of SLURM; see mlh-driver slurm-script."
    ),
]


def campaign_engine(settings: EngineSettings) -> Engine:
    """The engine that tasks in this process get, too, so that its model is loaded once."""
    from mlh_driver.runtime import configure
    from mlh_driver.workflows.task_inputs import engine_fields, engine_for

    configure(settings.threads)
    return engine_for(engine_fields(settings))


@contextmanager
def campaign_pool(workers: int, threads: int, scheduler: str, slurm: int) -> Iterator[Pool]:
    """Where the tasks run; raises InputError for more than one place."""
    from mlh_driver.workflows.campaign import in_this_process
    from mlh_driver.workflows.cluster import existing_scheduler, slurm_jobs, worker_processes

    asked = {"--workers": workers > 1, "--scheduler": scheduler, "--slurm": slurm}
    if sum(map(bool, asked.values())) > 1:
        raise InputError(f"{' and '.join(name for name in asked if asked[name])} were given; choose one")
    if slurm:
        with slurm_jobs(slurm, threads) as pool:
            yield pool
    elif scheduler:
        with existing_scheduler(scheduler) as pool:
            yield pool
    elif workers > 1:
        with worker_processes(workers, threads) as pool:
            yield pool
    else:
        yield in_this_process


@contextmanager
def campaign_bars() -> Iterator[CampaignProgress]:
    """A bar for each kind of task."""
    with progress_bars(Console(stderr=True), elapsed=True) as draw:

        def show(stage: str, done: int, failed: int, total: int) -> None:
            draw(stage, stage, done + failed, total, f"{failed} failed" if failed else "")

        yield show


def holds_melt_quenches(run: Path) -> bool:
    """Whether the folder is that of ``mlh-driver melt-quench``, with copies or without."""
    from mlh_driver.files import read_json
    from mlh_driver.workflows.campaign import CAMPAIGN
    from mlh_driver.workflows.melt_quench.run import holds_run
    from mlh_driver.workflows.run_folder import SETTINGS

    path = run / CAMPAIGN
    if path.exists():
        return bool(read_json(path).get("workflow") == "melt-quench")
    return holds_run(run) or any(holds_run(path.parent) for path in run.glob(f"*/{SETTINGS}"))

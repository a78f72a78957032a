"""``mlh-driver slurm-script``"""

from __future__ import annotations

from typing import Annotated

import typer


def slurm_script(
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads of each job.")] = 1,
) -> None:
    """Print the job that --slurm of vacancies and melt-quench submits; submits nothing.

    Partition, memory, walltime and the like are read from [bold]jobqueue.yaml[/] of dask-jobqueue.

    Example: [bold]mlh-driver slurm-script --threads 4[/]
    """
    from mlh_driver.workflows.cluster import slurm_script as script

    typer.echo(script(threads))

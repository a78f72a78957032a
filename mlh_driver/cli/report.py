"""``mlh-driver report``"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mlh_driver.cli.campaigns import holds_melt_quenches
from mlh_driver.errors import InputError


class Export(StrEnum):
    """Formats of other programs."""

    chemiscope = "chemiscope"
    doped = "doped"


def report(
    run: Annotated[Path, typer.Argument(help="Folder of vacancies or of melt-quenches.")],
    export: Annotated[
        Export | None,
        typer.Option("--export", help="Of vacancies, also a file for another program."),
    ] = None,
) -> None:
    """One page of all results of a run: plots, tables, settings; of vacancies also structures in 3D.

    The file, [bold]report.html[/] in the folder, needs neither network nor this program. Of vacancies it has
    the numbers of vacancies.json, and a section about DFT after [bold]mlh-driver verify[/]. Of melt-quenches,
    finished or not, it has the structure of the glasses, with mean and spread over copies, and temperature,
    energy, gap and extrapolation along the runs.

    Example: [bold]mlh-driver report v1[/]
    """
    if holds_melt_quenches(run):
        if export:
            raise InputError(
                f"{run} holds melt-quenches, and --export {export} is for vacancies; leave it out"
            )
        from mlh_driver.workflows.melt_quench import write_comparison

        write_comparison(run)
    else:
        from mlh_driver.workflows.report import write_report

        write_report(run)
        if export:
            from mlh_driver.workflows.vacancy_exports import export_chemiscope, export_doped

            write = {Export.chemiscope: export_chemiscope, Export.doped: export_doped}[export]
            typer.echo(f"written: {write(run)}")
    typer.echo(f"written: {run / 'report.html'}")

"""``mlh-driver report``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(run: Annotated[Path, typer.Argument(help="Folder of a campaign of vacancies.")]) -> None:
    """One page of all results of a campaign: plots, structures in 3D, tables, settings.

    The file, [bold]report.html[/] in the folder, needs neither network nor this program. It has the numbers
    of vacancies.json, and a section about DFT after [bold]mlh-driver verify[/].

    Example: [bold]mlh-driver report v1[/]
    """
    from mlh_driver.workflows.report import write_report

    typer.echo(f"written: {write_report(run)}")

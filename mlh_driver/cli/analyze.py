"""``mlh-driver analyze``"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mlh_driver.cli import consoles
from mlh_driver.cli.options import ElementsOption, FormatOption, JsonOption, word_list


def analyze(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Structures or trajectories, in any format of ASE."),
    ],
    every_frame: Annotated[
        bool, typer.Option("--all", help="Mean over all frames of a file, in place of its last one.")
    ] = False,
    file_format: FormatOption = None,
    elements: ElementsOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for JSON, CSV and figures (PNG).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Structure of glasses and melts: g(r), S(q), angles, coordination, defects, rings, density.

    One column for each file; for SiO2 with published values beside it. Rings are primitive ones, on the
    unwrapped network.

    Example: [bold]mlh-driver analyze glass.xyz quench.lammpstrj --out analysis[/]
    """
    from mlh_driver.analysis import report as reports
    from mlh_driver.analysis import summary, write_report
    from mlh_driver.structures import read_trajectories

    frames = read_trajectories(files, file_format, word_list(elements))
    structures = {name: summary(images if every_frame else images[-1:]) for name, images in frames.items()}
    if out is not None:
        write_report(structures, out)
    if as_json:
        typer.echo(json.dumps(reports.as_json(structures), indent=2, ensure_ascii=False))
        return
    console = consoles.for_results()
    console.print(reports.table(structures))
    for remark in dict.fromkeys(remark for each in structures.values() for remark in each.remarks()):
        console.print(remark)
    if out is not None:
        console.print(f"wrote structure.json, structure.csv, structure.png and the curves to {out}")

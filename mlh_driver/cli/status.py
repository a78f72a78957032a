"""``mlh-driver status``"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from mlh_driver.cli import consoles
from mlh_driver.cli.campaigns import holds_melt_quenches
from mlh_driver.cli.options import JsonOption


def status(
    run: Annotated[Path, typer.Argument(help="Folder of a campaign, or of a melt-quench.")],
    as_json: JsonOption = False,
) -> None:
    """What is done, running and failed of a campaign, and why; how far a melt-quench is.

    Example: [bold]mlh-driver status vacancies[/]
    """
    from mlh_driver.files import read_json
    from mlh_driver.workflows.campaign import CAMPAIGN, MOST_ATTEMPTS, STATUSES, states
    from mlh_driver.workflows.melt_quench.run import holds_run

    if holds_run(run):
        (stage,) = _how_far(run).values()
        typer.echo(json.dumps({"status": stage}) if as_json else stage)
        return
    found = states(run)
    total = read_json(run / CAMPAIGN)["n_tasks"]
    if as_json:
        typer.echo(json.dumps({"tasks": total, "states": [asdict(state) for state in found]}, indent=2))
        return
    counts = Counter(dict.fromkeys(STATUSES, 0))
    counts.update(state.status for state in found)
    counts["waiting"] += total - len(found)  # the tasks of a host that is not relaxed have no folder yet
    where = _how_far(run) if holds_melt_quenches(run) else {}
    console = consoles.for_results()
    console.print(", ".join(f"{n} {name}" for name, n in counts.items() if n) + f"; {total} tasks in all")
    table = Table("task", "state", "failed attempts", "")
    for state in found:
        if state.status not in ("done", "waiting"):
            notes = [text for text in (where.get(state.name), state.note) if text]
            table.add_row(state.name, state.status, str(state.attempts), "; ".join(notes))
    if table.row_count:
        console.print(table)
    if counts["failed"]:
        console.print(
            f"the same command tries failed tasks again, {MOST_ATTEMPTS} times in all; error.json in the "
            "folder of a task says more, and without it the task starts afresh"
        )


def _how_far(folder: Path) -> dict[str, str]:
    """Stage and step of each copy."""
    from mlh_driver.workflows.melt_quench import find_runs, how_far

    return {run.folder.name: how_far(run) for run in find_runs([folder])}

"""The report of an active-learning run: ``report.jsonl``, a line per round, and ``report.png``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlh_driver.files import replacing
from mlh_driver.learning.explore import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURES = ("forces_rmse_meV_A", "energy_meV_atom", "levels_mae_meV", "H_mae_meV", "extrapolation")
"""Errors of each round, on frames that the model has not been trained on."""

QUANTILES = {"extrapolation_median": 0.5, "extrapolation_90": 0.9, "extrapolation_largest": 1.0}
"""Over all steps of all runs of a round."""

Row = dict[str, Any]


def figures_of_runs(outcomes: list[Outcome]) -> Row:
    """Runs of a round, those that finished, the steps that each came to, quantiles of the indicator."""
    figures: Row = {
        "runs": len(outcomes),
        "runs_finished": sum(outcome.finished for outcome in outcomes),
        "steps": [outcome.steps for outcome in outcomes],
    }
    values = np.concatenate([np.empty(0), *(outcome.extrapolations for outcome in outcomes)])
    if len(values):
        figures |= {key: round(float(np.quantile(values, q)), 3) for key, q in QUANTILES.items()}
    return figures


def read_rows(folder: Path) -> list[Row]:
    path = folder / "report.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add_row(row: Row, folder: Path) -> None:
    """Append a round to the report, and plot all of them."""
    rows = [*read_rows(folder), row]
    with replacing(folder / "report.jsonl") as partial:
        partial.write_text("".join(json.dumps(each) + "\n" for each in rows))
    plot(rows, folder / "report.png")


def plot(rows: list[Row], path: Path) -> None:
    """Errors on new frames against the number of labels trained on, and the runs of each round."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.2), layout="constrained")
    axes = figure.subplots(1, 3)
    _plot_errors(axes[0], rows, "forces_rmse_meV_A", "force error, RMSE (meV/Å)")
    _plot_errors(axes[1], rows, "energy_meV_atom", "energy error (meV/atom)")
    _plot_runs(axes[2], rows)
    figure.savefig(path, dpi=150)


def _plot_errors(axes: Axes, rows: list[Row], key: str, label: str) -> None:
    rows = [row for row in rows if key in row]
    axes.semilogy([row["labels"] for row in rows], [row[key] for row in rows], "o-")
    axes.set(xlabel="labels", ylabel=label)


def _plot_runs(axes: Axes, rows: list[Row]) -> None:
    """Quantiles of the indicator; how many runs finished stands below each round."""
    for key in QUANTILES:
        some = [row for row in rows if key in row]
        axes.plot([row["round"] for row in some], [row[key] for row in some], "o-", label=key.split("_")[1])
    axes.set_xticks(
        [row["round"] for row in rows],
        [f"{row['round']}\n{row['runs_finished']} of {row['runs']}" for row in rows],
    )
    axes.set(xlabel="round, and its runs that finished", ylabel="extrapolation")
    axes.legend()

"""``mlh-driver evaluate``"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mlh_driver.cli import consoles
from mlh_driver.cli.options import JsonOption, build_engine, with_engine_options
from mlh_driver.engine_settings import EngineSettings
from mlh_driver.errors import InputError, MLHError

if TYPE_CHECKING:
    from mlh_driver.data import LabelledStructure
    from mlh_driver.engine import Engine


class SplitErrors(TypedDict):
    """Figures of a split: their means, and those of each structure by its name."""

    mean: dict[str, float]
    structures: dict[str, dict[str, float]]


@partial(with_engine_options, sampling="gamma")
def evaluate(
    data: Annotated[Path, typer.Argument(help="Labelled structures: HDF5, or a folder of .npz files.")],
    settings: EngineSettings,
    as_json: JsonOption = False,
) -> None:
    """Compare a model with labelled structures: Hamiltonian, levels, energy, forces, stress.

    A structure that the model cannot compute is named, and left out; the exit status is then not zero. Labels
    by [bold]mlh-driver label[/] are those of the Gamma point, whatever the cell: so the default of
    [bold]--sampling[/] is another one here. For labels with more points, give [bold]--sampling auto[/].

    Example: [bold]mlh-driver evaluate examples/comparison/dft-minima.h5 --model asio2-minimal[/]
    """
    from mlh_driver.data import read_splits
    from mlh_driver.evaluation import CONVENTION, evaluate_structures, mean_summary

    splits = read_splits(data)
    if not any(splits.values()):
        raise InputError(f"{data} holds no structures")
    engine = build_engine(settings)
    console = consoles.for_results()
    report: dict[str, SplitErrors] = {}
    left_out: list[str] = []
    narrow: list[str] = []
    for split, names in splits.items():
        if not names:
            continue
        steps = track(names, description=split, console=Console(stderr=True), transient=True)
        labels = _readable(data, steps, left_out)
        if settings.sampling == "gamma":
            labels = _noting_narrow(labels, engine, narrow)
        errors, failures = evaluate_structures(engine, labels, settings.sampling)
        if errors:
            each = {error.name: error.summary() for error in errors}
            report[split] = {"mean": mean_summary(errors), "structures": each}
        left_out += failures
    if as_json:
        typer.echo(json.dumps({"convention": CONVENTION, "splits": report}, indent=2))
    else:
        for split, found in report.items():
            console.print(_table(split, **found))
        if report:
            console.print(CONVENTION)
    if narrow:
        typer.echo(
            f"narrower than the model's cells, and compared at Gamma: {', '.join(narrow)}. If their labels "
            "have more points of the Brillouin zone, give --sampling auto",
            err=True,
        )
    for failure in left_out:
        typer.echo(f"left out: {failure}", err=True)
    if left_out:
        raise typer.Exit(1)


def _readable(data: Path, names: Iterable[str], left_out: list[str]) -> Iterator[LabelledStructure]:
    """The structures that can be read; what is wrong with the others goes to ``left_out``."""
    from mlh_driver.data import read_structure

    for name in names:
        try:
            yield read_structure(data, name)
        except MLHError as error:
            left_out.append(f"{name}: {error}")


def _noting_narrow(
    labels: Iterable[LabelledStructure], engine: Engine, narrow: list[str]
) -> Iterator[LabelledStructure]:
    """The same; the names of cells that the engine would repeat by itself go to ``narrow``."""
    from mlh_driver.small_cells import ONCE

    repeats = engine.with_settings(sampling="auto").repeater
    for label in labels:
        if repeats(label.system) != ONCE:
            narrow.append(label.name)
        yield label


def _table(split: str, mean: dict[str, float], structures: dict[str, dict[str, float]]) -> Table:
    """Mean and largest magnitude of every figure, and the structure with the largest."""
    table = Table(title=f"{split}: {len(structures)} structures")
    table.add_column("figure")
    table.add_column("mean", justify="right")
    table.add_column("largest", justify="right")
    table.add_column("in")
    for figure, value in mean.items():
        with_figure = [name for name, values in structures.items() if figure in values]
        worst = max(with_figure, key=lambda name: abs(structures[name][figure]))
        table.add_row(figure, f"{value:.2f}", f"{structures[worst][figure]:.2f}", worst)
    return table

"""Glasses of finished melt-quench runs, averaged over the runs of one engine, beside published values.

    python examples/melt_quench/analyze.py melt_quench_output --output figures

Glasses are at minima of the model; those of the classical potential are relaxed with it here, so that all
are at a minimum of the same energy. ``glass.xyz`` of a run is ready for ``mlh-driver label``. Writes the
files of ``mlh-driver analyze``, and ``thermo-ENGINE.png``.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from ase import Atoms
from rich.console import Console
from run import is_finished

from mlh_driver import Engine
from mlh_driver.analysis import summary, write_report
from mlh_driver.analysis.plots import plot_thermo
from mlh_driver.analysis.report import table
from mlh_driver.workflows.melt_quench import Run, find_runs, relax_glass
from mlh_driver.workflows.melt_quench.run import glass_figures


def glass_of(run: Run, engine: Engine) -> Atoms:
    """The relaxed glass of a finished run, with a line about it."""
    if run.glass is None:
        relax_glass(run, engine, lambda status: None)
    glass = run.glass
    print(f"{run.folder.name}: " + ", ".join(f"{name} {x:.4f}" for name, x in glass_figures(glass).items()))
    return glass


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--model", default="asio2-minimal")
    parser.add_argument("--output", type=Path, default=Path("."), metavar="DIR")
    options = parser.parse_args()
    engine = Engine(options.model)
    glasses: defaultdict[str, list[Atoms]] = defaultdict(list)
    logs: defaultdict[str, dict] = defaultdict(dict)
    for run in filter(is_finished, find_runs(options.runs)):
        kind = run.folder.name.rsplit("-", 1)[0]
        glasses[kind].append(glass_of(run, engine))
        logs[kind][run.folder.name] = run.columns()
    structures = {kind: summary(frames) for kind, frames in glasses.items()}
    Console(width=150).print(table(structures))
    write_report(structures, options.output)
    for kind, columns in logs.items():
        plot_thermo(columns, options.output / f"thermo-{kind}.png")
    print(f"wrote structure.png, structure.json and thermo-*.png to {options.output}")


if __name__ == "__main__":
    main()

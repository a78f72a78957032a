"""Does the extrapolation indicator rise with the true error? Model against DFT, per structure.

    python examples/extrapolation.py DATA [DATA ...] [--output extrapolation.png]

Each DATA is a data set, such as ``examples/training/asio2-extra.h5`` (liquids, strained and new glasses).
Prints a table sorted by the indicator, the rank correlation with the force error, and a plot.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from mlh_driver import Engine
from mlh_driver.data import read_splits, read_structure
from mlh_driver.evaluation import StructureErrors, evaluate_structure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--model", default="asio2-minimal")
    parser.add_argument("--output", type=Path, default=Path("extrapolation.png"))
    options = parser.parse_args()
    engine = Engine(options.model)
    known = set(engine.model.metadata.training_data)
    names = [(path, name) for path in options.data for split in read_splits(path).values() for name in split]
    errors = [evaluate_structure(engine, read_structure(path, name)) for path, name in names]
    errors.sort(key=lambda error: error.extrapolation)
    table = Table("structure", "trained on")
    for title in ("extrapolation", "forces RMSE (meV/Å)", "energy (meV/atom)", "levels MAE (meV)"):
        table.add_column(title, justify="right")
    for error in errors:
        figures = error.summary()
        table.add_row(
            error.name,
            "yes" if error.name in known else "no",
            f"{error.extrapolation:.2f}",
            f"{figures['forces_rmse_meV_A']:.0f}",
            f"{figures['energy_meV_atom']:.1f}",
            f"{figures['levels_mae_meV']:.1f}",
        )
    Console().print(table)
    unseen = [error for error in errors if error.name not in known]
    report("all structures", errors)
    report("structures not trained on", unseen)
    plot(errors, known, options.output)


def force_error(error: StructureErrors) -> float:
    return error.summary()["forces_rmse_meV_A"]


def report(title: str, errors: list[StructureErrors]) -> None:
    rank = spearmanr([e.extrapolation for e in errors], [force_error(e) for e in errors]).statistic
    print(f"rank correlation of indicator and force error, {len(errors)} {title}: {rank:.2f}")


def plot(errors: list[StructureErrors], known: set[str], path: Path) -> None:
    figure, axis = plt.subplots(layout="constrained")
    for error in errors:
        color = "C0" if error.name in known else "C3"
        axis.plot(error.extrapolation, force_error(error), "o", color=color)
        axis.annotate(error.name, (error.extrapolation, force_error(error)), fontsize=6)
    axis.set(xlabel="extrapolation (1 = edge of the training data)", ylabel="force RMSE against DFT (meV/Å)")
    axis.set(yscale="log", title="blue: trained on, red: not")
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()

"""Plot the validation errors of a training log against the step, one panel per error.

python examples/plot_training.py examples/training/asio2-minimal.log.jsonl --output training.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt

STAGES = {"hamiltonian": "C0", "energy": "C1", "joint": "C2"}
PANELS = {
    "H_mae_meV": "H, MAE (meV)",
    "levels_mae_meV": "occupied levels, MAE (meV)",
    "energy_meV_atom": "energy (meV/atom)",
    "forces_rmse_meV_A": "forces, RMSE (meV/Å)",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path)
    parser.add_argument("--output", type=Path, default=Path("training.png"))
    options = parser.parse_args()
    records = [json.loads(line) for line in options.log.read_text().splitlines()]
    if not records:
        raise SystemExit(f"{options.log} has no records yet; the first comes with the first validation")
    figure, axes = plt.subplots(len(PANELS), 1, figsize=(7, 9), sharex=True, layout="constrained")
    for axis, (key, label) in zip(axes, PANELS.items(), strict=True):
        start = 0
        for stage, color in STAGES.items():
            rows = [record for record in records if record["stage"] == stage]
            points = [(start + row["step"], row[key]) for row in rows if key in row]
            if points:
                axis.plot(*zip(*points, strict=True), ".-", color=color, label=stage)
            start += rows[-1]["step"] if rows else 0
        axis.set(ylabel=label, yscale="log")
    for axis in axes[[0, -1]]:
        axis.legend()
    axes[-1].set_xlabel("step, all stages in a row")
    figure.savefig(options.output, dpi=150)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()

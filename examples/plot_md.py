"""Plot energy, temperature, band gap and extrapolation of a LAMMPS log.

    python examples/plot_md.py log.lammps --output md.png

The log needs the columns Step, Temp and PotEng or TotEng of thermo output; ``gap`` and ``extrapolation``,
named by ``thermo_modify colname`` as in the inputs, are drawn when they are there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

PANELS = {
    "PotEng": "potential energy (eV)",
    "TotEng": "total energy (eV)",
    "Temp": "temperature (K)",
    "gap": "band gap (eV)",
    "extrapolation": "extrapolation",
}


def read_thermo(log: Path) -> dict[str, NDArray[np.float64]]:
    """The columns of all runs in a log, one after the other; columns that not all runs have are left out."""
    runs: list[dict[str, list[float]]] = []
    names: list[str] = []
    for line in log.read_text().splitlines():
        words = line.split()
        if words[:1] == ["Step"]:
            names = words
            runs.append({name: [] for name in names})
        elif names and len(words) == len(names) and is_number(words[0]):
            for name, word in zip(names, words, strict=True):
                runs[-1][name].append(float(word))
        elif words[:2] == ["Loop", "time"]:
            names = []
    if not runs:
        raise SystemExit(f"{log} has no thermo output (no line that starts with 'Step')")
    common = [name for name in runs[0] if all(name in run for run in runs)]
    return {name: np.concatenate([run[name] for run in runs]) for name in common}


def is_number(word: str) -> bool:
    return word.lstrip("-").replace(".", "", 1).isdigit()


def plot(columns: dict[str, NDArray[np.float64]], path: Path) -> None:
    shown = [name for name in PANELS if name in columns]
    figure, axes = plt.subplots(
        len(shown), 1, sharex=True, figsize=(7, 1.8 * len(shown)), layout="constrained", squeeze=False
    )
    for axis, name in zip(axes[:, 0], shown, strict=True):
        axis.plot(columns["Step"], columns[name], lw=1.0)
        axis.set_ylabel(PANELS[name])
        axis.ticklabel_format(useOffset=False)
        if name == "extrapolation":
            axis.axhline(1.0, color="C3", lw=0.8, ls="--")
    axes[-1, 0].set_xlabel("step")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log", type=Path)
    parser.add_argument("--output", default="md.png", type=Path)
    options = parser.parse_args()
    plot(read_thermo(options.log), options.output)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()

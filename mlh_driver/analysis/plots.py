"""Figures of structures and of MD runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlh_driver.analysis.published import PUBLISHED
from mlh_driver.analysis.structure import Structure
from mlh_driver.errors import InputError
from mlh_driver.system import Array

#: Columns of a log and what they are.
PANELS = {
    "PotEng": "potential energy (eV)",
    "TotEng": "total energy (eV)",
    "Temp": "temperature (K)",
    "Press": "pressure (bar)",
    "gap": "band gap (eV)",
    "extrapolation": "extrapolation",
    "charge_deviation": "charge deviation (e)",
}
RING_SIZES = range(2, 11)
PAIRS = {"O-Si": "Si-O (Å)", "O-O": "O-O (Å)", "Si-Si": "Si-Si (Å)"}
#: Neighbors of an atom that are told apart.
ENVIRONMENTS = (*(f"Si with {n} O" for n in (3, 4, 5)), *(f"O with {n} Si" for n in (1, 2, 3)))


def plot_thermo(logs: Mapping[str, Mapping[str, Array]], path: Path) -> None:
    """Columns of logs (such as :func:`mlh_driver.analysis.read_log` returns) by the name of the run.

    Against ``Time`` in ps, where all have it, or else against ``Step``; other columns are those of PANELS.
    """
    shown = [name for name in PANELS if any(name in columns for columns in logs.values())]
    if not shown:
        raise InputError(f"the logs have none of the columns {', '.join(PANELS)}; see thermo_style of LAMMPS")
    abscissa = "Time" if all("Time" in columns for columns in logs.values()) else "Step"
    figure = Figure(figsize=(7, 1.8 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axis, name in zip(axes, shown, strict=True):
        for run, columns in logs.items():
            if name in columns:
                axis.plot(columns[abscissa], columns[name], lw=1.0, label=run)
        axis.set_ylabel(PANELS[name])
        axis.ticklabel_format(useOffset=False)
        if name == "extrapolation":
            axis.axhline(1.0, color="0.5", lw=0.8, ls="--")
    if len(logs) > 1:
        axes[0].legend(frameon=False, fontsize=7, ncols=4)
    axes[-1].set_xlabel("time (ps)" if abscissa == "Time" else "step")
    figure.savefig(path, dpi=150)


def plot_structures(structures: Mapping[str, Structure], path: Path) -> None:
    """g(r), angles, rings and coordination of structures by name; published ranges are gray."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(2, 3)
    for axis, (pair, title) in zip(axes[0], PAIRS.items(), strict=True):
        _band(axis, title)
        for name, structure in structures.items():
            axis.plot(structure.distribution.r_A, structure.distribution.g[pair], lw=1.0, label=name)
        axis.set(xlabel="r (Å)", ylabel=f"g(r), {title.removesuffix(' (Å)')}")
    _plot_angles(axes[1, 0], structures)
    rings = {name: [s.rings.get(size, 0.0) for size in RING_SIZES] for name, s in structures.items()}
    _band(axes[1, 1], "most frequent ring (Si)")
    _bars(axes[1, 1], RING_SIZES, rings)
    axes[1, 1].set(xticks=RING_SIZES, xlabel="Si in a primitive ring", ylabel="rings per cell")
    shares = {name: [s.figures()[key] for key in ENVIRONMENTS] for name, s in structures.items()}
    _bars(axes[1, 2], range(len(ENVIRONMENTS)), shares)
    axes[1, 2].set_xticks(range(len(ENVIRONMENTS)), ENVIRONMENTS, rotation=45)
    axes[1, 2].set(ylabel="share of the element")
    axes[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=150)


def _plot_angles(axis: Axes, structures: Mapping[str, Structure]) -> None:
    edges = np.arange(60.0, 181.0, 4.0)
    _band(axis, "Si-O-Si (deg)")
    _band(axis, "O-Si-O (deg)")
    for k, structure in enumerate(structures.values()):
        for angles, style in ((structure.si_o_si, "-"), (structure.o_si_o, "--")):
            density = np.histogram(angles.degrees, edges, density=True)[0]
            axis.plot(0.5 * (edges[1:] + edges[:-1]), density, style, color=f"C{k}", lw=1.0)
    axis.set(xlabel="angle (deg): Si-O-Si solid, O-Si-O dashed", ylabel="probability per degree")


def _band(axis: Axes, quantity: str) -> None:
    """Shade the published range; a line marks one that is a single value."""
    published = PUBLISHED[quantity]
    axis.axvspan(published.low, published.high, color="0.8", lw=1.5)


def _bars(axis: Axes, places: Sequence[int], heights: Mapping[str, Sequence[float]]) -> None:
    """A group of bars at each place, with one bar for every name."""
    width = 0.8 / len(heights)
    for k, values in enumerate(heights.values()):
        axis.bar(np.array(places) + (k + 0.5) * width - 0.4, values, width)

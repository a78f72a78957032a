"""Figures of structures and of MD runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlh_driver.analysis.published import Published
from mlh_driver.analysis.structure import SiliconOxygen, Structure
from mlh_driver.errors import InputError
from mlh_driver.results import EDGE, SMALL_GAP_eV, TOLERATED_e
from mlh_driver.system import Array

#: Columns of a log and what they are.
PANELS = {
    "PotEng": "potential energy (eV)",
    "TotEng": "total energy (eV)",
    "Econserve": "conserved energy (eV)",
    "Temp": "temperature (K)",
    "Press": "pressure (bar)",
    "gap": "band gap (eV)",
    "extrapolation": "extrapolation",
    "charge_deviation": "charge deviation (e)",
}
#: Where the engine begins to doubt its results.
DOUBTFUL = {"gap": SMALL_GAP_eV, "extrapolation": EDGE, "charge_deviation": TOLERATED_e}
RING_SIZES = range(2, 11)
#: Of pairs that are usually written in another order.
TITLES = {"O-Si": "Si-O"}
#: Neighbors of an atom that are told apart.
ENVIRONMENTS = (
    *(f"Si with {n} O" for n in (3, 4, 5)),
    "O with 1 Si, non-bridging",
    "O with 2 Si",
    "O with 3 Si",
)
Ranges = Mapping[str, Published]


def plot_thermo(logs: Mapping[str, Mapping[str, Array]], path: Path) -> None:
    """Write the picture of :func:`draw_thermo`."""
    draw_thermo(logs).savefig(path, dpi=150)


def draw_thermo(logs: Mapping[str, Mapping[str, Array]]) -> Figure:
    """Columns of logs (such as :func:`mlh_driver.interfaces.lammps.read_log` returns) by the name of the run.

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
        if name in DOUBTFUL:
            axis.axhline(DOUBTFUL[name], color="0.5", lw=0.8, ls="--")
    if len(logs) > 1:
        axes[0].legend(frameon=False, fontsize=7, ncols=4)
    axes[-1].set_xlabel("time (ps)" if abscissa == "Time" else "step")
    return figure


def draw_levels(runs: Mapping[str, Mapping[str, Array]]) -> Figure:
    """Columns ``homo_eV`` (solid) and ``lumo_eV`` (dashed) against ``time_ps``, by the name of the run."""
    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axis = figure.subplots()
    for k, (run, levels) in enumerate(runs.items()):
        axis.plot(levels["time_ps"], levels["homo_eV"], color=f"C{k}", lw=1.0, label=run)
        axis.plot(levels["time_ps"], levels["lumo_eV"], color=f"C{k}", lw=1.0, ls="--")
    axis.set(
        xlabel="time (ps)", ylabel="occupied (solid) and empty (dashed)\nlevel above the lowest band (eV)"
    )
    if len(runs) > 1:
        axis.legend(frameon=False, fontsize=7, ncols=4)
    return figure


def plot_structures(structures: Mapping[str, Structure], path: Path) -> None:
    """g(r), S(q), and of Si-O networks angles, rings and coordination; published ranges are gray.

    Structures have names.
    """
    pairs = sorted({pair for structure in structures.values() for pair in structure.distribution.g})
    networks = {name: s.network for name, s in structures.items() if s.network is not None}
    published = next((s.published for s in structures.values() if s.published), {})
    n_panels = len(pairs) + 1 + (3 if networks else 0)
    n_columns = min(4, n_panels)
    n_rows = -(-n_panels // n_columns)
    figure = Figure(figsize=(3.6 * n_columns, 3.6 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axis, pair in zip(axes, pairs, strict=False):
        _plot_distribution(axis, pair, structures, published)
    _plot_factor(axes[len(pairs)], structures, published)
    if networks:
        _plot_network(axes[len(pairs) + 1 :].tolist(), networks, published)
    for axis in axes[n_panels:]:
        axis.set_axis_off()
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def draw_spread(structures: Sequence[Structure]) -> Figure:
    """Mean and spread (standard deviation, N - 1; none of a single one) over structures of one composition:
    g(r), and of Si-O networks coordination and rings; published ranges are gray.
    """
    pairs, published = sorted(structures[0].distribution.g), structures[0].published
    networks = [structure.network for structure in structures if structure.network is not None]
    n_panels = len(pairs) + (2 if networks else 0)
    n_columns = min(3, n_panels)
    n_rows = -(-n_panels // n_columns)
    figure = Figure(figsize=(3.6 * n_columns, 3.3 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axis, pair in zip(axes, pairs, strict=False):
        _plot_distribution(axis, pair, {}, published)
        g = np.array([structure.distribution.g[pair] for structure in structures])
        r, mean, spread = structures[0].distribution.r_A, g.mean(axis=0), _spread(g)
        axis.fill_between(r, mean - spread, mean + spread, color="C0", alpha=0.3, lw=0)
        axis.plot(r, mean, color="C0", lw=1.0)
    if networks:
        shares = np.array([[network.figures()[key] for key in ENVIRONMENTS] for network in networks])
        rings = np.array([[network.rings.get(size, 0.0) for size in RING_SIZES] for network in networks])
        coordination, sizes = axes[len(pairs) : len(pairs) + 2]
        coordination.bar(range(len(ENVIRONMENTS)), shares.mean(axis=0), yerr=_spread(shares), capsize=2)
        _label_environments(coordination)
        sizes.bar(RING_SIZES, rings.mean(axis=0), yerr=_spread(rings), capsize=2)
        _label_rings(sizes, published)
    for axis in axes[n_panels:]:
        axis.set_visible(False)
    return figure


def _spread(values: Array) -> Array:
    """Standard deviation over the first axis, as in the tables."""
    return np.asarray(values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros_like(values[0]))


def _plot_distribution(axis: Axes, pair: str, structures: Mapping[str, Structure], published: Ranges) -> None:
    title = TITLES.get(pair, pair)
    _band(axis, published.get(f"{title} (Å)"), "published")
    for name, structure in structures.items():
        if pair in structure.distribution.g:
            axis.plot(structure.distribution.r_A, structure.distribution.g[pair], lw=1.0, label=name)
    axis.set(xlabel="r (Å)", ylabel=f"g(r), {title}")


def _plot_factor(axis: Axes, structures: Mapping[str, Structure], published: Ranges) -> None:
    """Points, not a line: between them the cell has no waves."""
    _band(axis, published.get("first sharp diffraction peak (1/Å)"))
    for name, structure in structures.items():
        if structure.factor.neutron is not None:
            axis.plot(structure.factor.q_per_A, structure.factor.neutron, ".", ms=3, label=name)
        else:
            for pair, values in structure.factor.s.items():
                axis.plot(structure.factor.q_per_A, values, ".", ms=3, label=f"{name}, {pair}")
    axis.set(xlabel="q (1/Å)", ylabel="S(q)")


def _plot_network(axes: Sequence[Axes], networks: Mapping[str, SiliconOxygen], published: Ranges) -> None:
    _plot_angles(axes[0], networks, published)
    rings = {name: [n.rings.get(size, 0.0) for size in RING_SIZES] for name, n in networks.items()}
    _bars(axes[1], RING_SIZES, rings)
    _label_rings(axes[1], published)
    shares = {name: [n.figures()[key] for key in ENVIRONMENTS] for name, n in networks.items()}
    _bars(axes[2], range(len(ENVIRONMENTS)), shares)
    _label_environments(axes[2])


def _label_rings(axis: Axes, published: Ranges) -> None:
    _band(axis, published.get("most frequent ring (Si)"))
    axis.set(xticks=RING_SIZES, xlabel="Si in a primitive ring", ylabel="rings per cell")


def _label_environments(axis: Axes) -> None:
    axis.set_xticks(range(len(ENVIRONMENTS)), [key.split(",")[0] for key in ENVIRONMENTS], rotation=45)
    axis.set(ylabel="share of the element")


def _plot_angles(axis: Axes, networks: Mapping[str, SiliconOxygen], published: Ranges) -> None:
    edges = np.arange(60.0, 181.0, 4.0)
    _band(axis, published.get("Si-O-Si (deg)"))
    _band(axis, published.get("O-Si-O (deg)"))
    for k, network in enumerate(networks.values()):
        for angles, style in ((network.si_o_si, "-"), (network.o_si_o, "--")):
            if len(angles.degrees):
                density = np.histogram(angles.degrees, edges, density=True)[0]
                axis.plot(0.5 * (edges[1:] + edges[:-1]), density, style, color=f"C{k}", lw=1.0)
    axis.set(xlabel="angle (deg): Si-O-Si solid, O-Si-O dashed", ylabel="probability per degree")


def _band(axis: Axes, published: Published | None, label: str | None = None) -> None:
    """Shade the published range, if there is one; a line marks one that is a single value."""
    if published is not None:
        axis.axvspan(published.low, published.high, color="0.8", lw=1.5, zorder=0, label=label)


def _bars(axis: Axes, places: Sequence[int], heights: Mapping[str, Sequence[float]]) -> None:
    """A group of bars at each place, with one bar for every name."""
    width = 0.8 / len(heights)
    for k, values in enumerate(heights.values()):
        axis.bar(np.array(places) + (k + 0.5) * width - 0.4, values, width)

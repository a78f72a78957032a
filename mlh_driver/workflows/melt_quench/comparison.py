"""Glasses of several melt-quenches: mean and spread over the copies, as files and as a page.

=============================  ======================================================================
``glasses.xyz``                the relaxed glasses
``glasses.json``, ``.csv``     mean, spread, lowest and highest of each figure; in JSON also all copies
``glasses-g.csv``              g(r) by pair, mean and spread
``glasses.png``                g(r), coordination and rings
``runs.png``                   temperature, energy, gap and extrapolation along the runs
``levels.png``                 highest occupied and lowest empty level along them
``report.html``                all of it as a page, of a single run, too
=============================  ======================================================================
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from matplotlib.figure import Figure

from mlh_driver.analysis import Published, Structure, summary
from mlh_driver.analysis.plots import draw_levels, draw_spread, draw_thermo
from mlh_driver.analysis.report import rows
from mlh_driver.errors import InputError
from mlh_driver.files import read_json, replacing, write_csv, write_json
from mlh_driver.structures import bare
from mlh_driver.system import Array
from mlh_driver.workflows.campaign import CAMPAIGN, State, states
from mlh_driver.workflows.melt_quench.ensemble import how_far
from mlh_driver.workflows.melt_quench.run import Run, find_runs, glass_figures
from mlh_driver.workflows.pages import REPORT, embedded, render
from mlh_driver.workflows.run_folder import SETTINGS, flattened


@dataclass(frozen=True)
class Spread:
    """A figure over copies.

    mean, spread: and its standard deviation (N - 1), None for a single copy
    copies: how many have it
    """

    mean: float
    spread: float | None
    lowest: float
    highest: float
    copies: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None where no copy has a value; NaN is none."""
        known = np.array([value for value in values if not math.isnan(value)])
        if not len(known):
            return None
        spread = float(known.std(ddof=1)) if len(known) > 1 else None
        return cls(float(known.mean()), spread, float(known.min()), float(known.max()), len(known))


@dataclass(frozen=True)
class Comparison:
    """Of the runs in a folder, finished or not.

    structures: of the glasses, by the name of their folder
    figures:    of each quantity what is published, and its values in the order of ``structures``
    logs:       columns of the runs that have any
    failed:     copies whose last attempt failed, with the reasons
    """

    folder: Path
    runs: list[Run]
    structures: dict[str, Structure]
    figures: dict[str, tuple[Published | None, list[float]]]
    logs: dict[str, dict[str, Array]]
    failed: list[State]

    @classmethod
    def of(cls, folder: Path) -> Comparison:
        """Raises InputError for a folder without runs, or with glasses of different elements."""
        runs = find_runs([folder])
        glasses = {run.folder.name: glass for run in runs if (glass := run.glass) is not None}
        _check_elements(glasses)
        structures = {name: summary([bare(glass, wrapped=True)]) for name, glass in glasses.items()}
        of_glasses = [glass_figures(glass) for glass in glasses.values()]
        figures: dict[str, tuple[Published | None, list[float]]] = {
            name: (None, [each[name] for each in of_glasses]) for name in (of_glasses or [{}])[0]
        }
        figures |= {quantity: (published, values) for quantity, values, published in rows(structures)}
        logs: dict[str, dict[str, Array]] = {}
        for run in runs:
            try:
                logs[run.folder.name] = run.columns()
            except InputError:  # not begun
                continue
        campaign = (folder / CAMPAIGN).exists()
        failed = [state for state in states(folder) if state.status == "failed"] if campaign else []
        return cls(folder, runs, structures, figures, logs, failed)

    @property
    def spreads(self) -> dict[str, Spread]:
        """Of all figures that have a value."""
        found = {name: Spread.of(values) for name, (_, values) in self.figures.items()}
        return {name: spread for name, spread in found.items() if spread is not None}

    @property
    def unfinished(self) -> dict[str, str]:
        """Runs without a glass, and how far they are."""
        return {run.folder.name: how_far(run) for run in self.runs if run.folder.name not in self.structures}


def _check_elements(glasses: Mapping[str, Atoms]) -> None:
    elements = {name: "-".join(sorted(set(glass.symbols))) for name, glass in glasses.items()}
    if len(set(elements.values())) > 1:
        raise InputError(
            f"the glasses are of different elements ({', '.join(f'{n}: {e}' for n, e in elements.items())}); "
            "give each kind a folder of its own"
        )


def write_comparison(folder: str | Path) -> Comparison:
    """Write the files named above of the glasses that there are; of a single run the page alone.

    Raises InputError for a folder without runs.
    """
    folder = Path(folder)
    found = Comparison.of(folder)
    single = (folder / SETTINGS).exists()
    pictures = {"runs": draw_thermo(found.logs)} if found.logs else {}
    levels = {run.folder.name: along for run in found.runs if (along := run.levels())}
    if levels:
        pictures["levels"] = draw_levels(levels)
    if found.structures:
        pictures["glasses"] = draw_spread(list(found.structures.values()))
    if found.structures and not single:
        _write_tables(found)
    pngs = {name: _png(figure) for name, figure in pictures.items()}
    if not single:
        for name, png in pngs.items():
            (folder / f"{name}.png").write_bytes(png)
    content = _content(found, pngs)
    with replacing(folder / REPORT) as partial:
        partial.write_text(render("melt_quench.html", content), encoding="utf-8")
    return found


def _settings(found: Comparison) -> dict[str, Any]:
    """Of the copies of a campaign, or those that all runs share."""
    path = found.folder / CAMPAIGN
    paths = [path] if path.exists() else [run.folder / SETTINGS for run in found.runs]
    first, *others = (flattened(read_json(path)) for path in paths)
    return {name: value for name, value in first.items() if all(o.get(name) == value for o in others)}


def _content(found: Comparison, pngs: dict[str, bytes]) -> dict[str, Any]:
    return {
        "run": found.folder.resolve().name,
        "structures": found.structures,
        "spreads": found.spreads,
        "figures": found.figures,
        "remarks": list(dict.fromkeys(r for s in found.structures.values() for r in s.remarks())),
        "unfinished": found.unfinished,
        "failed": found.failed,
        "pictures": {name: embedded(png) for name, png in pngs.items()},
        "settings": _settings(found),
        "version": version("mlh-driver"),
    }


def _write_tables(found: Comparison) -> None:
    folder, spreads = found.folder, found.spreads
    with replacing(folder / "glasses.xyz") as partial:
        ase.io.write(partial, [run.glass for run in found.runs if run.glass is not None], format="extxyz")
    copies = {
        name: {key: _known(values[k]) for key, (_, values) in found.figures.items()}
        for k, name in enumerate(found.structures)
    }
    content = {
        "figures": {name: asdict(spread) for name, spread in spreads.items()},
        "copies": copies,
        "unfinished": found.unfinished,
        "failed": [asdict(state) for state in found.failed],
    }
    write_json(folder / "glasses.json", content)
    columns = ("mean", "spread", "lowest", "highest", "copies")
    table = [[name, *(asdict(spread)[column] for column in columns)] for name, spread in spreads.items()]
    write_csv(folder / "glasses.csv", [["quantity", *columns], *table])
    distributions = [structure.distribution for structure in found.structures.values()]
    curves = {"r (A)": distributions[0].r_A}
    for pair in distributions[0].g:
        g = np.array([distribution.g[pair] for distribution in distributions])
        curves |= {f"{pair} mean": g.mean(axis=0)}
        curves |= {f"{pair} spread": g.std(axis=0, ddof=1)} if len(g) > 1 else {}
    write_csv(folder / "glasses-g.csv", [list(curves), *np.transpose(list(curves.values())).tolist()])


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()

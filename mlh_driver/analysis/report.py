"""What an analysis found, as a table to read and as files.

=================================  ==================================================================
``structure.json``                 everything: figures, rings, coordination, published values, remarks
``structure.csv``                  the rows of the table
``NAME-radial_distribution.csv``   g(r) by pair
``NAME-structure_factor.csv``      S(q), number of wave vectors, as neutrons see it and by pair
``structure.png``                  all of it, drawn
=================================  ==================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from mlh_driver.analysis.plots import RING_SIZES, plot_structures
from mlh_driver.analysis.published import Published
from mlh_driver.analysis.structure import Structure
from mlh_driver.files import write_csv, write_json
from mlh_driver.system import Array

Structures = Mapping[str, Structure]


def rows(structures: Structures) -> Iterator[tuple[str, list[float], Published | None]]:
    """Quantity, its value in each structure (NaN where there is none), and what is published."""
    figures = [structure.figures() for structure in structures.values()]
    published = {name: value for s in structures.values() for name, value in s.published.items()}
    for quantity in dict.fromkeys(name for each in figures for name in each):
        yield quantity, [each.get(quantity, math.nan) for each in figures], published.get(quantity)
    networks = [structure.network for structure in structures.values()]
    for size in RING_SIZES if any(networks) else ():
        counts = [network.rings.get(size, 0.0) if network else math.nan for network in networks]
        yield f"rings of {size} Si per cell", counts, None


def table(structures: Structures) -> Table:
    """A row for each figure, a column for each structure; published values where one of them is SiO2.

    Their sources are numbered, and named below the table.
    """
    found = list(rows(structures))
    sources = list(dict.fromkeys(published.source for _, _, published in found if published))
    caption = "\n".join(f"({k}) {source}" for k, source in enumerate(sources, start=1))
    shown = Table("quantity", caption=caption, caption_justify="left")
    for name in structures:
        shown.add_column(name, justify="right")
    if sources:
        shown.add_column("published")
    for quantity, values, published in found:
        reference = [f"{published} ({sources.index(published.source) + 1})"] if published else []
        shown.add_row(quantity, *("-" if math.isnan(x) else f"{x:.4g}" for x in values), *reference)
    return shown


def as_json(structures: Structures) -> dict[str, Any]:
    """Everything but the curves, by the name of the structure; null for what there is none of."""
    return {name: _json_of(structure) for name, structure in structures.items()}


def write_report(structures: Structures, folder: str | Path) -> None:
    """Write the files; the folder is made where there is none."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "structure.json", as_json(structures))
    lines: list[Sequence[Any]] = [("quantity", *structures, "published low", "published high", "source")]
    for quantity, values, published in rows(structures):
        reference = (published.low, published.high, published.source) if published else ("", "", "")
        lines.append((quantity, *("" if math.isnan(x) else x for x in values), *reference))
    write_csv(folder / "structure.csv", lines)
    for name, structure in structures.items():
        curves = {"r (A)": structure.distribution.r_A, **structure.distribution.g}
        _write_columns(folder / f"{name}-radial_distribution.csv", curves)
        factor = structure.factor
        curves = {"q (1/A)": factor.q_per_A, "wave vectors": factor.n_vectors.astype(float)}
        curves |= {"neutrons": factor.neutron} if factor.neutron is not None else {}
        _write_columns(folder / f"{name}-structure_factor.csv", curves | factor.s)
    plot_structures(structures, folder / "structure.png")


def _json_of(structure: Structure) -> dict[str, Any]:
    network = structure.network
    figures = {name: None if math.isnan(x) else x for name, x in structure.figures().items()}
    return {
        "formula": structure.formula,
        "frames": structure.n_frames,
        "figures": figures,
        "rings": network.rings if network else None,
        "coordination": asdict(network.coordination) if network else None,
        "published": {name: asdict(value) for name, value in structure.published.items()},
        "remarks": structure.remarks(),
    }


def _write_columns(path: Path, columns: Mapping[str, Array]) -> None:
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    write_csv(path, [tuple(columns), *values])

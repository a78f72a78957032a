"""A campaign of vacancies as one page that works from a disk, without network: ``RUN/report.html``.

The page is made of the files that :mod:`~mlh_driver.workflows.vacancy_files` wrote, and of those of
:mod:`~mlh_driver.workflows.verify` where there are any; nothing is computed anew. Its scripts, plotly.js and
3Dmol.js, are in ``page/vendored``, and are written into each page, as are the data, as JSON.

A structure is shown with the vacancy, or the place between two of them, in the middle of the cell. Images of
atoms close to it are added, since 3Dmol.js draws no bonds across the cell.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from numpy.typing import NDArray

from mlh_driver.files import read_json, replacing
from mlh_driver.structures import read_frames
from mlh_driver.workflows.pages import REPORT, as_script, embedded, number, render, text
from mlh_driver.workflows.run_folder import flattened
from mlh_driver.workflows.sites import FARTHEST_BOND, index_in_defect, index_without_two
from mlh_driver.workflows.vacancy_files import (
    FIGURE,
    PAIR_STRUCTURES,
    STRUCTURES,
    read_hosts,
    read_results,
)
from mlh_driver.workflows.verify import VERIFICATION, VERIFICATION_FIGURE
from mlh_driver.workflows.verify_relaxed import RELAXATIONS

SCRIPTS = ("vendored/plotly-basic.min.js", "vendored/3Dmol-min.js", "report.js")
#: Around the vacancy, in Å: atoms and images of atoms within are drawn as balls.
REACH_A = 6.0
#: In all structures of a page together, images included: half a MB.
MOST_ATOMS = 20_000


@dataclass(frozen=True)
class Column:
    """A column of ``vacancies.json``, as the page shows it."""

    name: str
    title: str
    digits: int = 3


def _columns(energy: str) -> list[Column]:
    """Of the table of sites; all numbers among them can be axes."""
    title = "E_f (eV)" if energy == "formation_eV" else "E from atom (eV)"
    return [
        Column("name", "site"),
        Column(energy, title),
        Column("relaxation_eV", "relaxed by (eV)"),
        Column("pair_before_A", "pair before (Å)"),
        Column("pair_A", "pair (Å)"),
        Column("level_eV", "level above VBM (eV)"),
        Column("level_on_pair", "level on pair", 2),
        Column("band_gap_eV", "gap (eV)", 2),
        Column("bond_1_A", "bond 1 before (Å)"),
        Column("bond_2_A", "bond 2 before (Å)"),
        Column("angle_deg", "angle before (°)", 1),
        Column("ring", "smallest ring before", 0),
        Column("charge_before_e", "charge before (e)"),
        Column("extrapolation_before", "extrapolation before", 2),
        Column("extrapolation", "extrapolation", 2),
    ]


def _pair_columns(energy: str) -> list[Column]:
    """Of the table of pairs."""
    title = "E_f (eV)" if energy == "formation_eV" else "E from atoms (eV)"
    return [
        Column("name", "pair"),
        Column("distance_A", "apart before (Å)", 2),
        Column("interaction_eV", "interaction (eV)"),
        Column(energy, title),
        Column("relaxation_eV", "relaxed by (eV)"),
        Column("pair_1_A", "pair at the first (Å)"),
        Column("pair_2_A", "at the second (Å)"),
        Column("level_eV", "level above VBM (eV)"),
        Column("level_on_pair", "level on both", 2),
        Column("band_gap_eV", "gap (eV)", 2),
        Column("extrapolation", "extrapolation", 2),
    ]


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into the folder of a campaign of vacancies; returns its path.

    Raises InputError if the campaign has no results.
    """
    folder = Path(folder)
    found = read_results(folder)
    energy = "from_atoms_eV" if found["mu_eV"] is None else "formation_eV"
    defect = found["campaign"]["settings"]["defect"]
    columns, pair_columns = _columns(energy), _pair_columns(energy)
    verification, relaxations = (_optional_json(folder / name) for name in (VERIFICATION, RELAXATIONS))
    structures = _structures(folder, found, energy)
    data = {
        "energy": energy,
        "axes": {column.name: column.title for column in columns if column.name != "name"},
        "sites": found["vacancies"],
        "pair_axes": {column.name: column.title for column in pair_columns if column.name != "name"},
        "pairs": found["pairs"],
        "structures": structures,
        "histogram": _histogram(found["vacancies"], energy),
        "radii_A": {s: float(covalent_radii[atomic_numbers[s]]) for s in _symbols(structures)},
        "bond": FARTHEST_BOND,
        "reach_A": REACH_A,
        "verified": verification["sites"] if verification else [],
        "first": next(iter(structures)),
    }
    content = {
        "run": folder.resolve().name,
        "element": found["campaign"]["settings"]["element"],
        "defect": defect,
        "defects": "vacancies" if defect == "vacancy" else f"{defect}s",
        "sign": "+" if defect == "vacancy" else "−",
        "found": found,
        "campaign": found["campaign"],
        "settings": _settings(found["campaign"], verification),
        "columns": columns,
        "pair_columns": pair_columns,
        "cards": _cards(found, energy),
        "structures": structures,
        "reach_A": f"{REACH_A:g}",
        "figure": embedded((folder / FIGURE).read_bytes()),
        "verification": verification,
        "outdated": _outdated(found, verification, relaxations),
        "relaxations": relaxations,
        "verification_cards": _verification_cards(verification["statistics"]) if verification else [],
        "verification_figure": embedded((folder / VERIFICATION_FIGURE).read_bytes()) if verification else "",
        "scripts": [as_script(text(name)) for name in SCRIPTS],
        "licenses": [text(f"vendored/LICENSE.{name}") for name in ("plotly", "3dmol")],
        "data": as_script(json.dumps(data, separators=(",", ":"))),
    }
    path = folder / REPORT
    with replacing(path) as partial:
        partial.write_text(render("report.html", content), encoding="utf-8")
    return path


def _outdated(found: dict[str, Any], *comparisons: dict[str, Any] | None) -> list[str]:
    """Sites that were compared with DFT at a minimum that is not their lowest any more."""
    now = {site["name"]: site["difference_eV"] for site in found["vacancies"]}
    compared = [site for comparison in comparisons if comparison for site in comparison["sites"]]
    return list(dict.fromkeys(s["name"] for s in compared if s["difference_eV"] != now.get(s["name"])))


def _optional_json(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def _settings(campaign: dict[str, Any], verification: dict[str, Any] | None) -> dict[str, Any]:
    """All of them by one name each."""
    if not verification:
        return flattened(campaign)
    return {**flattened(campaign), **flattened({"verification": verification["reference"]})}


def _cards(found: dict[str, Any], energy: str) -> list[tuple[str, str, str, str]]:
    """Title, value, unit and a remark on each of the first numbers of the page."""
    every = found["distributions"]["all hosts"]
    counted_from = "" if energy == "formation_eV" else "from an isolated atom"
    doubtful = sum(site["equivalent"] for site in found["vacancies"] if site["doubts"])
    return [
        ("sites", str(every["sites"]), "", "equivalent ones counted"),
        ("mean energy", number(every["mean_eV"], 3), "eV", counted_from),
        ("spread over sites", number(every["spread_eV"], 3), "eV", "standard deviation"),
        ("lowest", number(every["lowest_eV"], 3), "eV", every["lowest"]),
        ("highest", number(every["highest_eV"], 3), "eV", every["highest"]),
        ("doubtful", str(doubtful), "", "reasons beside each site"),
    ]


def _verification_cards(statistics: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    def in_meV(name: str) -> str:
        return number(1e3 * statistics[name], 0)

    return [
        ("MAE", in_meV("mae_eV"), "meV", "of energies of formation"),
        ("RMSE", in_meV("rmse_eV"), "meV", ""),
        ("largest error", in_meV("largest_eV"), "meV", ""),
        ("mean error", in_meV("mean_eV"), "meV", "model minus DFT"),
        ("rank correlation", number(statistics["spearman"], 2), "", "Spearman"),
    ]


def _histogram(sites: list[dict[str, Any]], energy: str) -> dict[str, Any]:
    """Edges of the bins in eV, and for each host how many sites are in each, equivalent ones counted."""
    counted: dict[str, list[float]] = {}
    for site in sites:
        counted.setdefault(site["host"], []).extend([site[energy]] * site["equivalent"])
    edges = np.histogram_bin_edges(np.concatenate(list(counted.values())), "auto")
    counts = {host: np.histogram(values, edges)[0].tolist() for host, values in counted.items()}
    return {"edges": edges.tolist(), "counts": counts}


def _structures(folder: Path, found: dict[str, Any], energy: str) -> dict[str, dict[str, Any]]:
    """Those that the page shows, by name: sites in order of their energies, then pairs."""
    hosts = read_hosts(folder, found)
    minima = read_frames([folder / STRUCTURES])
    ordered = sorted(found["vacancies"], key=lambda site: site[energy])
    defect = found["campaign"]["settings"]["defect"]
    shown = {
        site["name"]: _shown(
            minima[site["name"]],
            hosts[site["host"]],
            [site["site"]],
            index_in_defect(site["site"], site["pair"], defect),
        )
        for site in ordered
    }
    if found["pairs"]:
        of_pairs = read_frames([folder / PAIR_STRUCTURES])
        for pair in found["pairs"]:
            beside = index_without_two(pair["sites"], pair["neighbors"])
            host = hosts[pair["host"]]
            shown[pair["name"]] = _shown(of_pairs[pair["name"]], host, pair["sites"], beside)
    average = np.mean([len(one["symbols"]) for one in shown.values()])
    count = max(1, min(len(shown), int(MOST_ATOMS / average)))
    names = list(shown)
    return {names[k]: shown[names[k]] for k in np.linspace(0, len(names) - 1, count).round().astype(int)}


def _shown(minimum: Atoms, host: Atoms, sites: list[int], beside: list[int]) -> dict[str, Any]:
    """A defect as it is drawn: the middle of its sites is the origin, and the middle of the cell; of the
    atoms ``beside`` it the two that are farthest apart lie along x, below the origin.
    """
    first = host.positions[sites[0]]
    missing = host.get_distances(sites[0], sites, mic=True, vector=True)
    center = missing.mean(axis=0)
    symbols, positions = surroundings(minimum, first + center)
    distances = np.linalg.norm(positions[beside][:, None] - positions[beside], axis=2)
    i, j = positions[beside][list(np.unravel_index(distances.argmax(), distances.shape))]
    axes, _ = np.linalg.qr(np.transpose([j - i, -(i + j), np.cross(j - i, -(i + j))]))
    alignments = (j - i) @ axes[:, 0], -(i + j) @ axes[:, 1], 1.0  # 0 where the bridge is straight
    axes *= np.copysign(1.0, alignments)
    axes[:, 2] = np.cross(axes[:, 0], axes[:, 1])
    return {
        "symbols": symbols,
        "xyz": (positions @ axes).round(3).ravel().tolist(),
        "cell": (minimum.cell.array @ axes).round(3).tolist(),
        "missing": ((missing - center) @ axes).round(3).tolist(),
        "pair": beside,
    }


def surroundings(atoms: Atoms, center: NDArray[np.float64]) -> tuple[list[str], NDArray[np.float64]]:
    """Symbols and (M, 3) positions in Å from ``center``: the atoms of the cell in whose middle it is, and
    behind them the images outside of this cell that are within REACH_A of it.
    """
    moved = atoms.copy()
    middle = moved.cell.array.sum(axis=0) / 2.0
    moved.positions += middle - center
    moved.wrap()
    symbols, positions = list(moved.symbols), [moved.positions - middle]
    for repeat in product((-1, 0, 1), repeat=3):
        images = positions[0] + np.array(repeat) @ moved.cell.array
        near = np.linalg.norm(images, axis=1) < REACH_A
        if any(repeat):
            symbols += list(moved.symbols[near])
            positions.append(images[near])
    return symbols, np.concatenate(positions)


def _symbols(structures: dict[str, dict[str, Any]]) -> set[str]:
    return {symbol for one in structures.values() for symbol in one["symbols"]}

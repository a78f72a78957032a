"""Files of other programs, made of those of a campaign of vacancies.

================================  ==========================================================================
``vacancies.chemiscope.json.gz``  minima and numbers for the viewer of https://chemiscope.org
``vacancies.doped.json.gz``       ``DefectThermodynamics`` of https://doped.readthedocs.io
================================  ==========================================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms

from mlh_driver.errors import InputError
from mlh_driver.files import replacing
from mlh_driver.structures import read_frames
from mlh_driver.workflows.vacancy_files import COLUMNS, STRUCTURES, read_hosts, read_results

if TYPE_CHECKING:
    from doped.core import DefectEntry
    from pymatgen.core import Structure

CHEMISCOPE, DOPED = "vacancies.chemiscope.json.gz", "vacancies.doped.json.gz"


def export_chemiscope(folder: Path) -> Path:
    """Write the minima of a campaign with the columns that all of them have; returns the path.

    Raises InputError for a campaign without results, and without chemiscope.
    """
    try:
        import chemiscope
    except ImportError:
        raise InputError("chemiscope is not installed: pip install 'mlh-driver[chemiscope]'") from None
    vacancies = read_results(folder)["vacancies"]
    minima = read_frames([folder / STRUCTURES])
    columns = {name: [vacancy[name] for vacancy in vacancies] for name in COLUMNS}
    properties = {
        name: {"target": "structure", "values": values, "units": units_of(name)}
        for name, values in columns.items()
        if None not in values
    }
    frames = [minima[vacancy["name"]] for vacancy in vacancies]
    metadata = {"name": folder.resolve().name, "description": "neutral defects by mlh-driver"}
    path = folder / CHEMISCOPE
    with replacing(path) as partial:
        chemiscope.write_input(str(partial), frames, properties=properties, metadata=metadata)
    return path


def units_of(column: str) -> str:
    """From the end of its name; none for numbers without."""
    units = {"_eV_A": "eV/Å", "_eV": "eV", "_A": "Å", "_e": "e", "_deg": "degree"}
    return next((unit for end, unit in units.items() if column.endswith(end)), "")


def export_doped(folder: Path) -> Path:
    """Write the sites of a campaign as neutral ``DefectEntry`` objects of doped, with their reasons for doubt
    in ``calculation_metadata``; returns the path.

    doped calls a site by the distances of its neighbors, and keeps one of those that it calls the same: here
    each has its own name. Chemical potentials are that of the campaign, or none. Entries of several hosts
    have bulk energies of their own, which doped would take for a mistake if it were not told.

    Raises InputError for a campaign without results, and without doped.
    """
    try:
        from doped.thermodynamics import DefectThermodynamics
    except ImportError:
        raise InputError("doped is not installed: pip install 'mlh-driver[doped]'") from None
    found = read_results(folder)
    minima = read_frames([folder / STRUCTURES])
    hosts = {name: _structure(atoms) for name, atoms in read_hosts(folder, found).items()}
    campaign, mu_eV = found["campaign"]["settings"], found["mu_eV"]
    thermodynamics = DefectThermodynamics(
        [
            _entry(site, campaign["defect"], minima[site["name"]], hosts, found["hosts"])
            for site in found["vacancies"]
        ],
        chempots=None if mu_eV is None else {campaign["element"]: mu_eV},
        check_compatibility=len(hosts) == 1,
    )
    path = folder / DOPED
    with replacing(path) as partial:
        thermodynamics.to_json(partial)
    return path


def _entry(
    site: dict[str, Any],
    defect: str,
    minimum: Atoms,
    hosts: dict[str, Structure],
    results: dict[str, dict[str, Any]],
) -> DefectEntry:
    """A site; the zero of the host's levels is the model's own."""
    from doped.core import DefectEntry, Interstitial, Vacancy
    from pymatgen.core import PeriodicSite
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    host, result, relaxed = hosts[site["host"]], results[site["host"]], _structure(minimum)
    kind, place = (Interstitial, relaxed[-1]) if defect == "interstitial" else (Vacancy, host[site["site"]])
    return DefectEntry(
        defect=kind(
            structure=host,
            site=PeriodicSite(place.specie, place.frac_coords, host.lattice),
            oxidation_state=0,  # or pymatgen guesses those of all atoms, and writes them into the host
            multiplicity=site["equivalent"],
        ),
        charge_state=0,
        sc_entry=ComputedStructureEntry(relaxed, site["energy_eV"]),
        bulk_entry=ComputedStructureEntry(host, result["energy_eV"]),
        sc_defect_frac_coords=tuple(place.frac_coords),
        name=f"{site['name']}_0",  # doped renames what does not end with its charge
        calculation_metadata={
            "vbm": result["homo"],
            "band_gap": result["band_gap"],
            "doubts": list(site["doubts"].values()),
        },
    )


def _structure(atoms: Atoms) -> Structure:
    from pymatgen.core import Structure

    return Structure(atoms.cell.array, atoms.numbers, atoms.positions, coords_are_cartesian=True)

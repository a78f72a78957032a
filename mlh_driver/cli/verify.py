"""``mlh-driver verify``"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mlh_driver.cli import consoles
from mlh_driver.cli.options import ReferenceCode

if TYPE_CHECKING:
    from mlh_driver.workflows.verify import Plan, ToLabel, Verification
    from mlh_driver.workflows.verify_pairs import PairPlan, VerifiedPair
    from mlh_driver.workflows.verify_relaxed import RelaxedByDft


@consoles.resumable
def verify(
    run: Annotated[Path, typer.Argument(help="Folder of a campaign of vacancies.")],
    reference: Annotated[
        ReferenceCode, typer.Option("--reference", help="The code of the model's training data, if possible.")
    ] = ReferenceCode.cp2k,
    number: Annotated[int, typer.Option("--n", min=1, help="So many sites.")] = 8,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the sites picked at random.")] = 0,
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads of the reference code.")] = 1,
    pairs: Annotated[
        int, typer.Option("--pairs", min=0, help="Then so many pairs of vacancies, the nearest ones.")
    ] = 0,
    relax: Annotated[
        bool, typer.Option("--relax", help="Then relax hosts and vacancies by DFT, from there.")
    ] = False,
    fmax: Annotated[float, typer.Option("--fmax", metavar="EV/A", help="Largest force of --relax.")] = 0.05,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Most steps of --relax for a structure.")] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be computed.")] = False,
) -> None:
    """Compare energies of vacancies with DFT (PBE), at the minima of the model.

    Picks the sites of lowest and highest energy, highest extrapolation and smallest gap, quantiles, and some
    at random; labels host and vacancy of each; and writes the errors to [bold]verify.json[/],
    [bold]verify.csv[/] and [bold]verify.png[/]. Labels are kept: killed and started again, or with a larger
    [bold]--n[/], the command computes what is missing. [bold]--pairs[/] labels pairs and the two vacancies of
    each, for the errors of their interaction, in [bold]verify_pairs.json[/] and [bold]verify_pairs.csv[/].
    [bold]--relax[/] costs a DFT calculation for each step; it goes on after a kill, and writes
    [bold]verify_relaxed.json[/] and [bold]verify_relaxed.csv[/].

    Example: [bold]mlh-driver verify v1 --reference cp2k --n 8[/]
    """
    from mlh_driver.reference import make_labeler
    from mlh_driver.workflows.verify import VERIFICATION, plan_verification
    from mlh_driver.workflows.verify import verify as compare
    from mlh_driver.workflows.verify_pairs import plan_pairs, verify_pairs

    labeler = make_labeler(reference.value, threads)
    plan = plan_verification(run, labeler, number, seed)
    of_pairs = plan_pairs(run, labeler, pairs) if pairs else None
    if dry_run:
        _print_plans(plan, of_pairs)
        return
    progress = consoles.for_messages()
    found = compare(plan, labeler, progress.print)
    if found.sites:
        _print(found)
        typer.echo(f"written: {run / VERIFICATION}, and as a table and a figure; mlh-driver report shows it")
    left_out = found.left_out
    if of_pairs:
        compared, missing = verify_pairs(of_pairs, labeler, progress.print)
        _print_pairs(compared)
        left_out = [*left_out, *missing]
    if relax and found.sites:
        from mlh_driver.workflows.verify_relaxed import relax_by_dft

        sites, missing = relax_by_dft(plan, labeler, fmax, steps, progress.print)
        _print_relaxed(sites)
        left_out = [*left_out, *missing]
    if left_out:
        typer.echo(f"left out: {', '.join(dict.fromkeys(left_out))}", err=True)
        raise typer.Exit(1)


def _print_plans(plan: Plan, of_pairs: PairPlan | None) -> None:
    _print_plan(plan, plan.picked)
    if of_pairs:
        _print_plan(of_pairs, of_pairs.roles)


def _print_plan(plan: ToLabel, picked: Mapping[str, str]) -> None:
    """``picked``: why, by name; what is not there is needed for it."""
    labelled = plan.labelled
    table = Table("structure", "atoms", "picked as", "")
    for name, atoms in plan.frames.items():
        why = picked.get(name, "host")
        table.add_row(name, str(len(atoms)), why, "labelled" if name in labelled else "")
    console = consoles.for_results()
    console.print(table)
    to_do = len(plan.frames.keys() - labelled)
    console.print(f"{to_do} structures to label with DFT, into {plan.labels}")


def _print(found: Verification) -> None:
    console = consoles.for_results()
    table = Table(title="model minus DFT (meV; forces in eV/Å)")
    table.add_column("site", overflow="fold")
    table.add_column("picked as")
    for column in ("E_f", "host", "vacancy", "force RMSE", "largest DFT force"):
        table.add_column(column, justify="right", no_wrap=True)
    for site in found.sites:
        errors = (site.error_eV, site.host_error_eV, site.vacancy_error_eV)
        table.add_row(
            site.name,
            site.picked_as,
            *(f"{1e3 * error:+.0f}" for error in errors),
            f"{site.forces_rmse_eV_A:.3f}",
            f"{site.dft_largest_force_eV_A:.2f}",
        )
    console.print(table)
    of = found.statistics
    ranks = "" if of.spearman is None else f", rank correlation {of.spearman:.2f}"
    console.print(
        f"formation energies of {of.sites} sites: MAE {1e3 * of.mae_eV:.0f} meV, "
        f"RMSE {1e3 * of.rmse_eV:.0f}, largest {1e3 * of.largest_eV:.0f}, "
        f"mean {1e3 * of.mean_eV:+.0f}{ranks}",
    )


def _print_pairs(pairs: list[VerifiedPair]) -> None:
    table = Table(title="pairs of vacancies, model and DFT (eV, Å)")
    table.add_column("pair", overflow="fold")
    for column in ("apart", "interaction", "by DFT", "error", "error of E_f", "force RMSE"):
        table.add_column(column, justify="right", no_wrap=True)
    for pair in pairs:
        energies = (pair.interaction_eV, pair.dft_interaction_eV, pair.error_eV, pair.formation_error_eV)
        table.add_row(
            pair.name,
            f"{pair.distance_A:.2f}",
            *(f"{energy:+.3f}" for energy in energies),
            f"{pair.forces_rmse_eV_A:.3f}",
        )
    consoles.for_results().print(table)


def _print_relaxed(sites: list[RelaxedByDft]) -> None:
    table = Table(title="relaxed by DFT from there (meV, Å)")
    table.add_column("site", no_wrap=True)
    for column in ("error of E_f", "DFT gains", "in host", "largest move", "pair", "pair, DFT", "steps"):
        table.add_column(column, justify="right")
    for site in sites:
        energies = (site.error_eV, site.relaxation_eV, site.host_relaxation_eV)
        lengths = (site.largest_displacement_A, site.pair_A, site.dft_pair_A)
        table.add_row(
            site.name,
            *(f"{1e3 * energy:+.0f}" for energy in energies),
            *(f"{length:.3f}" for length in lengths),
            str(site.steps),
        )
    consoles.for_results().print(table)

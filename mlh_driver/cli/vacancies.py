"""``mlh-driver vacancies``"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mlh_driver.cli import consoles
from mlh_driver.cli.campaigns import SchedulerOption, SlurmOption, WorkersOption, campaign_bars, campaign_pool
from mlh_driver.cli.options import with_engine_options, word_list
from mlh_driver.engine_settings import EngineSettings
from mlh_driver.errors import InputError

if TYPE_CHECKING:
    from mlh_driver.workflows.defect_minima import Defect
    from mlh_driver.workflows.vacancies import VacancyCampaign
    from mlh_driver.workflows.vacancy_files import Distribution

#: Sites in a table, and lines on one kind of doubt.
MOST_ROWS, MOST_DOUBTS = 20, 6

DefectOption = Annotated[
    str,
    typer.Option(
        "--defect",
        help="vacancy; pair: two vacancies together, and each alone; or interstitial: Si-O-O-Si in place of "
        "Si-O-Si.",
    ),
]
WithinOption = Annotated[
    float,
    typer.Option(
        "--within",
        min=0,
        metavar="A",
        help="Pairs: of sites at most so far apart; default: each site with its nearest one.",
    ),
]
StartsOption = Annotated[
    str | None,
    typer.Option(
        "--starts",
        help="Of each relaxation: unmoved, together, apart, puckered (where the two atoms beside the "
        "site are put); the lowest minimum wins. Default: the first three. Interstitials: peroxy.",
    ),
]

SampleOption = Annotated[
    int, typer.Option("--sample", min=0, help="So many random sites, or pairs, of each host; 0 means all.")
]
PotentialOption = Annotated[
    float | None, typer.Option("--mu-O", "--mu", metavar="EV", help="Chemical potential of the element.")
]


@with_engine_options
@consoles.resumable
def vacancies(
    hosts: Annotated[list[Path], typer.Argument(help="Periodic structures in any format that ASE reads.")],
    settings: EngineSettings,
    out: Annotated[Path, typer.Option("--out", help="Folder of the campaign.")] = Path("vacancies"),
    every_frame: Annotated[
        bool, typer.Option("--all", help="Every frame of a file is a host, not only its last one.")
    ] = False,
    element: Annotated[str, typer.Option("--element", help="What is removed, or put in.")] = "O",
    defect: DefectOption = "vacancy",
    within: WithinOption = 0.0,
    sites: Annotated[str, typer.Option("--sites", metavar="I,J,...", help="Atoms, counted from 0.")] = "",
    sample: SampleOption = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the sample.")] = 0,
    starts: StartsOption = None,
    fmax: Annotated[float, typer.Option("--fmax", metavar="EV/A", help="Largest force at a minimum.")] = 0.02,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Most steps of a relaxation.")] = 300,
    mu: PotentialOption = None,
    workers: WorkersOption = 1,
    scheduler: SchedulerOption = "",
    slurm: SlurmOption = 0,
) -> None:
    """Formation energies and levels of neutral vacancies, pairs or interstitials of glasses and crystals.

    All O sites of the hosts, one of each symmetry orbit in crystals. Of pairs also the energy by which the
    two vacancies repel each other; of [bold]--sites[/] each two are a pair. Killed and started again, the
    same command goes on; [bold]mlh-driver status[/] looks at it meanwhile. Tables, structures, an ASE
    database and a figure are left in the folder.

    Example: [bold]mlh-driver vacancies glass.xyz --sample 10 --mu-O -434.2 --out v1[/]
    """
    from mlh_driver.runtime import configure
    from mlh_driver.structures import read_frames
    from mlh_driver.workflows.vacancies import VacancySettings, run_vacancies
    from mlh_driver.workflows.vacancy_files import write_files

    pairs = defect == "pair"
    chosen = VacancySettings(
        element=element,
        sites=_integers(sites),
        sample=sample,
        seed=seed,
        starts=tuple(word_list(starts)),
        fmax_eV_A=fmax,
        steps=steps,
        defect="vacancy" if pairs else defect,
        pairs=pairs,
        within_A=within,
    )
    frames = read_frames(hosts, last_only=not every_frame)
    configure(settings.threads)
    with campaign_pool(workers, settings.threads, scheduler, slurm) as pool, campaign_bars() as progress:
        found = run_vacancies(frames, out, chosen, settings, mu_eV=mu, pool=pool, progress=progress)
    written = write_files(found)
    _print(found)
    if written:
        typer.echo(f"written: {' '.join(map(str, written))}")
    if found.missing:
        typer.echo(f"without a result: {', '.join(found.missing)}; see mlh-driver status {out}", err=True)
        raise typer.Exit(1)


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in word_list(text))
    except ValueError:
        raise InputError(f"--sites is {text!r}; give indices of atoms, such as 3,17") from None


def _print(found: VacancyCampaign) -> None:
    from mlh_driver.workflows.vacancy_files import distributions

    console = consoles.for_results()
    if found.vacancies:
        of = distributions(found)
        console.print(_sites(found, of["all hosts"].mean_eV))
        console.print(_hosts(found, of))
    if found.pairs:
        console.print(_pairs(found))
    for line in _doubts(found):
        console.print(line, style="yellow")
    if found.vacancies and found.mu_eV is None:
        reservoir = "half of O2 (O-rich)" if found.element == "O" else "an atom of its stable solid"
        console.print(
            f"Without --mu-O energies count from an isolated {found.element} atom of the model "
            f"({found.atom_eV:.3f} eV), which is no reservoir in nature. Differences between sites are right "
            f"without it. For formation energies give the energy of one {found.element} by the method of the "
            f"model's training data, such as {reservoir}.",
        )


def _doubts(found: VacancyCampaign) -> Iterator[str]:
    """Those about the hosts, whose defects all cells have, and the first of each kind about the sites."""
    for name, host in found.hosts.items():
        for reason in host["doubts"].values():
            yield f"host {name}: {reason}"
    kinds: dict[str, list[str]] = {}
    defects: list[Defect] = [*found.vacancies, *found.pairs]
    for defect in defects:
        for kind, reason in defect.doubts.items():
            kinds.setdefault(kind, []).append(f"{defect.name}: {reason}")
    for kind, lines in kinds.items():
        yield from lines[:MOST_DOUBTS]
        if len(lines) > MOST_DOUBTS:
            yield f"and {len(lines) - MOST_DOUBTS} more have the doubt {kind}, see {found.folder}/*.csv"


def _sites(found: VacancyCampaign, mean_eV: float) -> Table:
    """The lowest sites."""
    ordered = sorted(found.vacancies, key=lambda vacancy: vacancy.reported_eV)
    shown = ordered[:MOST_ROWS]
    table = Table(title=f"the {len(shown)} lowest of {len(ordered)} sites (eV, Å)")
    table.add_column("site", overflow="fold")
    energy = "E from atom" if found.mu_eV is None else "E_f"
    for column in (energy, "from mean", "relaxed by", "pair", "level", "on pair"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("doubts")
    for v in shown:
        table.add_row(
            f"{v.host} {v.site}",
            f"{v.reported_eV:.3f}",
            f"{v.reported_eV - mean_eV:+.3f}",
            f"{v.relaxation_eV:.3f}",
            f"{v.pair_A:.2f}",
            f"{v.level_eV:.2f}",
            f"{v.level_on_pair:.2f}",
            ", ".join(v.doubts),
        )
    return table


def _pairs(found: VacancyCampaign) -> Table:
    """Those that attract each other most come first."""
    known = [pair for pair in found.pairs if pair.interaction_eV is not None]
    ordered = sorted(known, key=lambda pair: pair.interaction_eV or 0.0)
    ordered += [pair for pair in found.pairs if pair.interaction_eV is None]
    shown = ordered[:MOST_ROWS]
    table = Table(title=f"{len(shown)} of {len(ordered)} pairs of vacancies (eV, Å)")
    table.add_column("sites", overflow="fold")
    energy = "E from atoms" if found.mu_eV is None else "E_f"
    for column in ("apart", energy, "interaction", "relaxed by", "level", "on both"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("doubts")
    for pair in shown:
        table.add_row(
            f"{pair.host} {pair.sites[0]} {pair.sites[1]}",
            f"{pair.distance_A:.2f}",
            f"{pair.reported_eV:.3f}",
            "-" if pair.interaction_eV is None else f"{pair.interaction_eV:+.3f}",
            f"{pair.relaxation_eV:.3f}",
            f"{pair.level_eV:.2f}",
            f"{pair.level_on_pair:.2f}",
            ", ".join(pair.doubts),
        )
    return table


def _hosts(found: VacancyCampaign, of: dict[str, Distribution]) -> Table:
    """Distributions of the hosts, of all, and of the means of the hosts."""
    from mlh_driver.workflows.vacancy_files import between_hosts_eV

    table = Table(title="energies of all sites (eV)")
    table.add_column("host")
    for column in ("sites", "mean", "spread", "lowest", "highest", "doubtful"):
        table.add_column(column, justify="right")
    for name, one in of.items():
        if name == "all hosts" and len(found.hosts) == 1:
            continue
        doubtful = sum(v.equivalent for v in found.vacancies if v.doubts and name in ("all hosts", v.host))
        energies = [f"{x:.3f}" for x in (one.mean_eV, one.spread_eV, one.lowest_eV, one.highest_eV)]
        table.add_row(name, str(one.sites), *energies, str(doubtful))
    if len(found.hosts) > 1:
        table.add_row("between hosts", str(len(found.hosts)), "", f"{between_hosts_eV(found):.3f}")
    return table

"""Write the structures of the training data: liquid, strained, glassy, defective and crystalline SiO2.

    python make_structures.py FOLDER [--only NAME ...]
    mlh-driver label FOLDER/train/*.xyz --reference cp2k --out asio2-extra.h5
    mlh-driver label FOLDER/test/*.xyz --reference cp2k --out asio2-extra.h5 --split test
    mlh-driver label FOLDER/draft/*.xyz --reference cp2k --out asio2-drafts.h5 --draft

Some start from cells of ``../shared/data/asio2``. Structures that exist are skipped. The test
structures of 601 and 981, of more than 96 atoms, are in ``asio2-large.h5``.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ase.io
import networks
import structures
from ase import Atoms

from mlh_driver.data import read_splits, read_structure


@dataclass(frozen=True)
class Frame:
    """A structure to label: ``train``, ``test`` (chosen here, before any label exists) or ``draft``."""

    name: str
    make: Callable[[], Atoms]
    split: str = "train"


#: Networks of later seeds are left out if more than a few of their atoms are miscoordinated.
FIRST_CHECKED_SEED = 301
#: From here on, a network comes by bond switching from the glass of a seed that has no such atom.
FIRST_SWITCHED_SEED = 501
PERFECT_SEED = 306
#: From here on, a network is a glass of 96 atoms whose miscoordinated atoms were mended.
FIRST_HEALED_SEED = 901
#: And from here on, of 144 atoms in a cell of 20.6 Å by 10.3 Å by 10.3 Å, whose potential has longer waves.
FIRST_LONG_SEED = 951
#: In these, other O are tried until a vacancy leaves no miscoordinated atoms but its two Si, bonded.
SITES_TRIED = 40
#: Hosts among the training cells of asio2.
SHARED_HOSTS = {102: "h102_md3", 110: "h110_min"}
SHARED_DATA = Path(__file__).parents[3] / "shared" / "data" / "asio2"
LABELS = Path(__file__).with_name("asio2-extra.h5")
#: Networks by bond switching from one of these hosts, and sites whose vacancy keeps a gap, see structures.py.
SHARED_SEEDS = {801: (102, (0, 7, 8)), 802: (110, (0, 2, 3))}
#: Glasses of 96 atoms, for tests only.
TEST_SEEDS = (910, 928)
#: 144 atoms by bond switching from two copies of a perfect network, for tests only.
DOUBLED_SEED = 601
#: A glass of 288 atoms whose miscoordinated atoms were mended, for tests only.
LARGE_SEED = 981


def host(seed: int) -> Atoms:
    """The network of a seed; for tests only are 202, 204 and those named so above."""
    if seed in SHARED_HOSTS:
        return read_structure(SHARED_DATA, SHARED_HOSTS[seed]).system.to_ase()
    if FIRST_CHECKED_SEED <= seed < FIRST_SWITCHED_SEED:
        return structures.network(unchecked_host(seed))
    return unchecked_host(seed)


@functools.cache
def unchecked_host(seed: int) -> Atoms:
    """A network before it is judged; that of a labelled host is not quenched again."""
    if seed in SHARED_SEEDS:
        return networks.switched_network(host(SHARED_SEEDS[seed][0]), seed, hot_steps=10, trials=120)
    if seed >= FIRST_HEALED_SEED and f"host_{seed}" in read_splits(LABELS)["train"]:
        return networks.relaxed(read_structure(LABELS, f"host_{seed}").system.to_ase(), seed)[0]
    if seed == DOUBLED_SEED:
        return networks.switched_network(host(PERFECT_SEED).repeat((2, 1, 1)), seed, hot_steps=16)
    if seed == LARGE_SEED:
        return networks.healed_network(structures.glass(seed, n_formula=96), seed)
    if seed >= FIRST_LONG_SEED:
        return networks.healed_network(structures.glass(seed, n_formula=48, elongation=2), seed)
    if seed >= FIRST_HEALED_SEED:
        return networks.healed_network(structures.glass(seed, n_formula=32), seed)
    if seed >= FIRST_SWITCHED_SEED:
        return networks.switched_network(host(PERFECT_SEED), seed)
    return structures.glass(seed)


def liquid_frame(
    name: str,
    temperature_K: float,
    seed: int,
    *,
    density: float = structures.GLASS_DENSITY_G_CM3,
    snapshots: int = 20,
    split: str = "train",
) -> Frame:
    return Frame(name, lambda: structures.liquid(temperature_K, seed, density, snapshots), split)


def glass_frame(
    name: str, seed: int, temperature_K: float, *, scale: float = 1.0, split: str = "train"
) -> Frame:
    def make() -> Atoms:
        atoms = structures.thermal(host(seed), temperature_K, seed, scale)
        if seed >= FIRST_HEALED_SEED and not networks.is_perfect(atoms):
            raise ValueError("bonds of this network break when it is heated; use another seed")
        return atoms

    return Frame(name, make, split)


def vacancy_frame(
    name: str, seed: int, *si_si_A: float, temperature_K: float = 600.0, site: int = 0, split: str = "train"
) -> Frame:
    def make(trial_seed: int) -> Atoms:
        return structures.vacancy(host(seed), temperature_K, trial_seed, *si_si_A)

    return Frame(name, lambda: first_good_vacancy(make, seed, site), split)


def relaxed_vacancy_frame(name: str, seed: int, site: int, count: int = 1, split: str = "train") -> Frame:
    def make(trial_seed: int) -> Atoms:
        return structures.vacancy_minimum(host(seed), trial_seed, count)

    return Frame(name, lambda: first_good_vacancy(make, seed, site), split)


def first_good_vacancy(make: Callable[[int], Atoms], seed: int, site: int) -> Atoms:
    """The first of the vacancies of a network, by their seeds, that has no other defects than bonded Si."""
    for trial in range(SITES_TRIED):
        atoms = make(seed + 1000 * site + 10_000 * trial)
        if seed < FIRST_HEALED_SEED or structures.has_bonded_vacancies_only(atoms):
            return atoms
    raise ValueError("every vacancy tried has miscoordinated atoms, or its two Si have parted")


def drafts(seeds: Iterable[int], temperatures: int = 2, sites: int = 4) -> Iterator[Frame]:
    """More thermal frames and vacancies of networks, whose Hamiltonians alone are labelled."""
    distances = (2.35, 2.5, 2.65, 2.8, 2.25, 2.4)
    for n, seed in enumerate(seeds):
        for k in range(temperatures):
            temperature_K = (450.0, 1000.0, 750.0, 200.0)[(n + k) % 4]
            yield glass_frame(f"hd_{seed}_{k}", seed, temperature_K, split="draft")
        for k in range(sites):
            temperature_K = (450.0, 150.0, 750.0, 1000.0)[(n + k) % 4]
            distance = distances[(n + k) % len(distances)]
            yield vacancy_frame(
                f"vd_{seed}_{k}", seed, distance, temperature_K=temperature_K, site=2 + k, split="draft"
            )


#: Of the frames of new networks, over the range of asio2.
TEMPERATURES_K, SI_SI_A = (50.0, 300.0, 600.0, 900.0), (2.25, 2.35, 2.45, 2.6, 2.75)


def split_of(seed: int) -> str:
    return "test" if seed in TEST_SEEDS else "train"


def glasses_and_vacancies(first_seed: int, last_seed: int) -> Iterator[Frame]:
    """A host and vacancies of each new network, over the temperatures and Si-Si distances of asio2."""
    for k, seed in enumerate(range(first_seed, last_seed + 1)):
        split = split_of(seed)
        first, second, third = (TEMPERATURES_K[(k + shift) % 4] for shift in range(3))
        yield vacancy_frame(f"vac_{seed}_a", seed, SI_SI_A[k % 5], temperature_K=first, split=split)
        yield glass_frame(f"host_{seed}", seed, second, split=split)
        yield vacancy_frame(
            f"vac_{seed}_b", seed, SI_SI_A[(k + 2) % 5], temperature_K=third, site=1, split=split
        )
        if seed >= FIRST_HEALED_SEED:
            yield relaxed_vacancy_frame(f"vrel_{seed}", seed, site=2, split=split)


def several_vacancies(seeds: Iterable[int], count: int) -> Iterator[Frame]:
    """Cells of ``count`` vacancies, each worth as many labels: hot, at a minimum, and hot again."""
    for k, seed in enumerate(seeds):
        distances = [SI_SI_A[(k + shift) % 5] for shift in range(2 * count)]
        hot, other = TEMPERATURES_K[k % 4], TEMPERATURES_K[(k + 2) % 4]
        name, split = f"vac{count}_{seed}", split_of(seed)
        yield vacancy_frame(f"{name}_a", seed, *distances[:count], temperature_K=hot, site=3, split=split)
        yield relaxed_vacancy_frame(f"vrel{count}_{seed}", seed, site=4, count=count, split=split)
        yield vacancy_frame(f"{name}_b", seed, *distances[count:], temperature_K=other, site=5, split=split)


def hot_vacancy_drafts(seeds: Iterable[int], count: int) -> Iterator[Frame]:
    """Two cells of ``count`` hot vacancies in each network, whose levels are the hardest to learn."""
    for seed in seeds:
        for n, temperature_K in enumerate((900.0, 600.0)):
            distances = [SI_SI_A[(seed + n + shift) % 5] for shift in range(count)]
            name = f"vd{count}_{seed}_{n}"
            yield vacancy_frame(
                name, seed, *distances, temperature_K=temperature_K, site=6 + n, split="draft"
            )


def switched_shared_hosts() -> Iterator[Frame]:
    """A host and three vacancies of every network of ``SHARED_SEEDS``."""
    for seed, (_, sites) in SHARED_SEEDS.items():
        yield glass_frame(f"host_{seed}", seed, TEMPERATURES_K[(seed + 1) % 4])
        for letter, site in zip("abc", sites, strict=True):
            temperature_K, distance = TEMPERATURES_K[(seed + site) % 4], SI_SI_A[(seed + 2 * site) % 5]
            yield vacancy_frame(
                f"vac_{seed}_{letter}", seed, distance, temperature_K=temperature_K, site=site
            )


# Classes alternate, so that an early stop leaves some of each.
FRAMES = (
    liquid_frame("liq4000_0", 4000.0, seed=1, snapshots=1),
    liquid_frame("liq4000_1", 4000.0, seed=2),
    liquid_frame("liq4000_2", 4000.0, seed=3, split="test"),
    glass_frame("comp093_0", seed=201, temperature_K=600.0, scale=0.93),
    liquid_frame("liq3000_0", 3000.0, seed=4),
    glass_frame("comp096_0", seed=202, temperature_K=600.0, scale=0.96, split="test"),
    liquid_frame("liq3000_1", 3000.0, seed=5, split="test"),
    glass_frame("glass0300_0", seed=203, temperature_K=300.0),
    glass_frame("exp103_0", seed=201, temperature_K=600.0, scale=1.03),
    glass_frame("glass0900_0", seed=204, temperature_K=900.0, split="test"),
    vacancy_frame("vac0600_0", 203, 2.35),
    liquid_frame("liq5000_0", 5000.0, seed=6),
    glass_frame("glass1500_0", seed=205, temperature_K=1500.0),
    vacancy_frame("vac0600_1", 204, 2.5, split="test"),
    liquid_frame("liq4000_3", 4000.0, seed=7),
    liquid_frame("liq3000_2", 3000.0, seed=8),
    Frame("quartz_0", lambda: structures.quartz(0.05, seed=9)),
    Frame("cristobalite_0", lambda: structures.cristobalite(0.05, seed=10)),
    liquid_frame("dense4000_0", 4000.0, seed=11, density=2.6),
    glass_frame("comp090_0", seed=205, temperature_K=600.0, scale=0.90),
    liquid_frame("liq5000_1", 5000.0, seed=12),
    liquid_frame("liq4000_4", 4000.0, seed=13),
    glass_frame("comp096_1", seed=203, temperature_K=600.0, scale=0.96),
    liquid_frame("liq3000_3", 3000.0, seed=14),
    *glasses_and_vacancies(FIRST_CHECKED_SEED, 330),
    *glasses_and_vacancies(FIRST_SWITCHED_SEED, 530),
    *switched_shared_hosts(),
    *glasses_and_vacancies(FIRST_HEALED_SEED, 940),
    *glasses_and_vacancies(FIRST_LONG_SEED, 954),
    glass_frame("host_981", LARGE_SEED, 50.0, split="test"),
    vacancy_frame("vac_981_a", LARGE_SEED, 2.25, temperature_K=50.0, split="test"),
    vacancy_frame("vac_902_c", 902, 2.35, temperature_K=50.0, site=3),
    vacancy_frame("vac_902_d", 902, 2.6, temperature_K=600.0, site=5),
    *several_vacancies((902, 904, 905, 907, 908, 909, 912, 916), count=2),
    *several_vacancies(range(914, 941), count=3),
    glass_frame("host_601", 601, 300.0, split="test"),
    vacancy_frame("vac_601_a", 601, 2.45, temperature_K=300.0, split="test"),
    vacancy_frame("vac_601_b", 601, 2.45, temperature_K=300.0, site=2, split="test"),
    *drafts((102, 110), temperatures=4, sites=12),
    *drafts(range(FIRST_SWITCHED_SEED, 531)),
    *hot_vacancy_drafts((902, 904, 907, 923, 926, 929), count=3),
    *hot_vacancy_drafts((905, 909, 912, 916, 925), count=2),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=None, metavar="NAME", help="make these frames only")
    options = parser.parse_args()
    unknown = set(options.only or []) - {frame.name for frame in FRAMES}
    if unknown:
        parser.error(f"unknown frames {sorted(unknown)}; known: {[frame.name for frame in FRAMES]}")
    for frame in FRAMES:
        path = options.folder / frame.split / f"{frame.name}.xyz"
        if (options.only is None or frame.name in options.only) and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write(frame, path)


def write(frame: Frame, path: Path) -> None:
    """One structure, or a line about why there is none."""
    try:
        ase.io.write(path, frame.make())
        print(frame.name, flush=True)
    except ValueError as error:
        print(f"{frame.name}: left out: {error}", flush=True)


if __name__ == "__main__":
    main()

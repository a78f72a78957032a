"""Frames of finished melt-quench runs, spread over temperatures, to be labelled.

    python examples/melt_quench/frames.py melt_quench_output --n 12 --out frames.xyz
    mlh-driver label frames.xyz --reference cp2k --out labels.h5
    python examples/melt_quench/errors.py labels.h5

Temperatures asked for go evenly from that of the melt to that of the glass, and the runs take turns; of
each run the frame is taken whose own temperature comes nearest, from the second half of the melt on, when
the start is forgotten. A frame is called after run, step and temperature.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from run import is_finished

from mlh_driver.workflows.melt_quench import Run, find_runs

HOTTEST_K, COLDEST_K = 4500.0, 300.0


def nearest(run: Run, temperatures_K: list[float]) -> list[tuple[int, float, Atoms]]:
    """Step, temperature and structure of the frames of a molten run nearest to the temperatures asked for."""
    columns = run.columns()
    measured = dict(zip(columns["Step"].astype(int).tolist(), columns["Temp"].tolist(), strict=True))
    forgotten = run.settings.lengths["melt"] // 2
    molten = ((step, atoms) for step, atoms in run.md.frames() if step >= forgotten and step in measured)
    frames = [(step, measured[step], atoms) for step, atoms in molten]
    if not frames:
        raise SystemExit(
            f"{run.folder.name} has no frame after step {forgotten}, half of its melt; run it further"
        )
    return [min(frames, key=lambda frame: abs(frame[1] - asked)) for asked in temperatures_K]


def spread(runs: list[Run], count: int) -> list[Atoms]:
    """``count`` named frames, those of one run after those of the other."""
    asked = np.linspace(HOTTEST_K, COLDEST_K, count).tolist()
    chosen: list[Atoms] = []
    for k, run in enumerate(runs):
        for step, temperature, atoms in nearest(run, asked[k :: len(runs)]):
            atoms.info["name"] = f"{run.folder.name}_step{step}_T{temperature:.0f}"
            chosen.append(atoms)
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--n", type=int, default=12, help="number of frames")
    parser.add_argument("--out", type=Path, default=Path("frames.xyz"))
    options = parser.parse_args()
    chosen = spread(list(filter(is_finished, find_runs(options.runs))), options.n)
    ase.io.write(options.out, chosen, format="extxyz")
    for atoms in chosen:
        print(atoms.info["name"])
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()

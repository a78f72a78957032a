"""Melt-quench runs of SiO2, one for each seed, and a table of how they went.

    python examples/melt_quench/run.py 11 12 13
    python examples/melt_quench/run.py 11 12 13 --engine vashishta
    python examples/melt_quench/run.py 11 --melt 5000 --quench 20000 --anneal 5000 --atoms 192 --out large

Every run is what a user would type: the input of ``lammps_inputs/melt_quench`` or of its namesake in
``ipi_inputs`` with other lengths, in a folder ``OUT/ENGINE-SEED``. Steps are 1 fs; LAMMPS melts at 4500 K,
i-PI at 4000 K.
``vashishta`` is LAMMPS with the classical potential of that name, from the same start. Runs that have ended
are not repeated; one that was killed starts anew. Shares and extremes are those of every tenth step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from runs import Run


def carry_out(run: Run) -> None:
    """Run the MD engine, unless it has come to an end before; all that it prints goes to ``output.log``."""
    if run.status is not None and json.loads((run.folder / "run.json").read_text()) != run.settings:
        raise SystemExit(f"{run.folder} holds a run with other settings; remove it, or give another --out")
    if run.status is not None:
        print(f"{run.name}: has ended before", flush=True)
        return
    command = run.prepare()
    print(f"{run.name}: {run.steps} steps in {run.folder}", flush=True)
    start = time.monotonic()
    with (run.folder / "output.log").open("w") as output:
        status = subprocess.run(command, cwd=run.folder, stdout=output, stderr=subprocess.STDOUT).returncode
    (run.folder / "status").write_text(f"{status}\n")
    print(f"{run.name}: exit status {status} after {(time.monotonic() - start) / 60:.1f} min", flush=True)
    if status:
        print((run.folder / "output.log").read_text()[-500:], flush=True)


def table(runs: list[Run]) -> Table:
    """A row for each run."""
    rows = Table("run", "finished")
    for title in ("last step", "extrapolation <= 1", "largest", "smallest gap (eV)", "T at the end (K)"):
        rows.add_column(title, justify="right")
    for run in runs:
        rows.add_row(run.name, "yes" if run.status == 0 else "NO", *figures(run))
    return rows


def figures(run: Run) -> list[str]:
    """Last step of all, share of steps in range, largest extrapolation, smallest gap, last temperature."""
    columns = run.columns()
    electrons = ["", "", ""]
    if "extrapolation" in columns:
        extrapolation = columns["extrapolation"]
        share, largest, gap = (extrapolation <= 1).mean(), extrapolation.max(), columns["gap"].min()
        electrons = [f"{100 * share:.1f} %", f"{largest:.2f}", f"{gap:.2f}"]
    return [f"{columns['Step'][-1]:.0f} of {run.steps}", *electrons, f"{columns['Temp'][-1]:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seeds", type=int, nargs="+", metavar="SEED")
    parser.add_argument("--engine", choices=("lammps", "ipi", "vashishta"), default="lammps")
    parser.add_argument("--melt", type=int, default=2000, help="steps before the quench")
    parser.add_argument("--quench", type=int, default=5000, help="steps of the quench, down to 300 K")
    parser.add_argument("--anneal", type=int, default=1000, help="steps at 300 K")
    parser.add_argument("--atoms", type=int, choices=(96, 192), default=96)
    parser.add_argument("--out", type=Path, default=Path("melt_quench_output"), metavar="DIR")
    options = parser.parse_args()
    if options.engine == "ipi" and options.atoms != 96:
        parser.error("the input for i-PI has 96 atoms; run larger cells with --engine lammps")
    lengths = {name: getattr(options, name) for name in ("atoms", "melt", "quench", "anneal")}
    runs = [
        Run(options.out / f"{options.engine}-{seed}", options.engine, seed, **lengths)
        for seed in options.seeds
    ]
    for run in runs:
        carry_out(run)
    Console(width=100).print(table(runs))
    raise SystemExit(any(run.status != 0 for run in runs))


if __name__ == "__main__":
    main()

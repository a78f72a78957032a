"""Melt-quench runs of SiO2, one for each seed, and a table of how they went.

    python examples/melt_quench/run.py 11 12 13
    python examples/melt_quench/run.py 11 12 13 --engine vashishta
    python examples/melt_quench/run.py 11 --melt 5000 --quench 20000 --anneal 5000 --repeat 2 1 1 --out large

Gaps are the smallest, temperatures those of the end, and bonds those of Si and O that the start had.
Every run is that of ``mlh-driver melt-quench --structure lammps_inputs/melt_quench/host.data``, in a folder
``OUT/ENGINE-SEED``. Steps are 1 fs. ``vashishta`` is the same input in LAMMPS with the classical potential of
that name. Runs that have ended are not repeated; those that were killed go on. Shares and extremes are those
of every tenth step. A second table has medians of each picosecond. Where the extrapolation exceeds 1, a line
tells how many of these frames have two atoms closer than any of the training.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path

import numpy as np
from ase.neighborlist import neighbor_list
from rich.console import Console
from rich.table import Table

from mlh_driver import Engine
from mlh_driver.analysis.network import bonds_kept
from mlh_driver.errors import MLHError
from mlh_driver.interfaces.lammps.library import potential_file
from mlh_driver.structures import read_frames
from mlh_driver.workflows.melt_quench import MeltQuenchSettings, Run, carry_out, prepare
from mlh_driver.workflows.melt_quench.packing import shortest_distances
from mlh_driver.workflows.melt_quench.run import run_figures

START = Path(__file__).resolve().parents[2] / "lammps_inputs" / "melt_quench" / "host.data"


def carry_out_classical(run: Run) -> None:
    """The same input, with a pair style in place of the model and of its columns in the log."""
    if (run.folder / "glass.data").exists():
        return
    path = run.folder / "in.melt_quench"
    script = re.sub(
        r"(?m)^(fix .* external pf/callback|thermo_modify .*colname f_mlh).*\n", "", path.read_text()
    )
    script = re.sub(r"(?m)^pair_style .*", "pair_style vashishta", script)
    potential = potential_file("SiO.1990.vashishta")
    script = re.sub(r"(?m)^pair_coeff .*", f"pair_coeff * * {potential} ${{elements}}", script)
    path.write_text(re.sub(r" f_mlh\[\d+\]", "", script))
    with (run.folder / "output.log").open("w") as output:
        command = ["lmp", "-in", path.name]
        subprocess.run(command, cwd=run.folder, stdout=output, stderr=subprocess.STDOUT, check=True)


def is_finished(run: Run) -> bool:
    return run.glass is not None or (run.folder / "glass.data").exists()


def table(runs: list[Run]) -> Table:
    """A row for each run."""
    rows = Table("run", "finished")
    for title in ("last step", "extrapolation <= 1", "largest", "gap (eV)", "T (K)", "bonds kept"):
        rows.add_column(title, justify="right")
    for run in runs:
        kept = f"{100 * bonds_kept(run.start, run.glass):.0f} %" if run.glass else ""
        rows.add_row(run.folder.name, "yes" if is_finished(run) else "NO", *figures(run), kept)
    return rows


def figures(run: Run) -> list[str]:
    """Last step of all, share of steps in range, largest extrapolation, smallest gap, last temperature."""
    found = run_figures(run.columns())
    electrons = ["", "", ""]
    if "largest extrapolation" in found:
        share = 100 * found["share of steps with extrapolation up to 1"]
        largest, gap = found["largest extrapolation"], found["smallest gap (eV)"]
        electrons = [f"{share:.1f} %", f"{largest:.2f}", f"{gap:.2f}"]
    steps = f"{found['last step']:.0f} of {run.settings.steps}"
    return [steps, *electrons, f"{found['temperature at the end (K)']:.0f}"]


def course(runs: list[Run]) -> Table:
    """Medians over each picosecond of the runs with the model, and the largest extrapolation."""
    rows = Table("run", "ps")
    for title in ("T (K)", "gap (eV)", "extrapolation", "largest", "charge deviation"):
        rows.add_column(title, justify="right")
    for run in runs:
        columns = run.columns()
        if "gap" not in columns:
            continue
        picosecond = columns["Step"].astype(int) // 1000
        for ps in np.unique(picosecond[picosecond < run.settings.steps // 1000]):
            now = {name: values[picosecond == ps] for name, values in columns.items()}
            medians = [np.median(now[name]) for name in ("gap", "extrapolation", "charge_deviation")]
            gap, extrapolation, deviation = (f"{median:.2f}" for median in medians)
            largest = f"{now['extrapolation'].max():.2f}"
            temperature = f"{now['Temp'].mean():.0f}"
            rows.add_row(run.folder.name, f"{ps}", temperature, gap, extrapolation, largest, deviation)
    return rows


def too_close(runs: list[Run], engine: Engine) -> str:
    """Of the frames with an extrapolation above 1, those with a pair of atoms inside the model's walls."""
    radii_A = {(min(pair), max(pair)): radius for pair, radius in shortest_distances(engine).items()}
    beyond = close = 0
    for run in runs:
        columns = run.columns()
        steps = set(columns["Step"][columns["extrapolation"] > 1].astype(int).tolist())
        frames = [atoms for step, atoms in run.md.frames() if step in steps]
        beyond += len(frames)
        close += sum(len(neighbor_list("i", atoms, radii_A)) > 0 for atoms in frames)
    radii = ", ".join(f"{a}-{b} {radius:.2f}" for (a, b), radius in radii_A.items())
    return f"extrapolation above 1 in {beyond} frames, {close} of these with atoms closer than {radii} Å"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seeds", type=int, nargs="+", metavar="SEED")
    parser.add_argument("--engine", choices=("lammps", "ipi", "vashishta"), default="lammps")
    parser.add_argument("--temperature", type=float, default=4500.0, help="of the melt in K")
    parser.add_argument("--electronic-temperature", type=float, default=2000.0, metavar="K")
    parser.add_argument("--melt", type=int, default=2000, help="steps before the quench")
    parser.add_argument("--quench", type=int, default=5000, help="steps of the quench, down to 300 K")
    parser.add_argument("--anneal", type=int, default=1000, help="steps at 300 K")
    parser.add_argument(
        "--repeat", type=int, nargs=3, default=(1, 1, 1), metavar="N", help="times 96 atoms, along each edge"
    )
    parser.add_argument("--fmax", type=float, default=0.05, help="of the relaxation, in eV/Å")
    parser.add_argument("--out", type=Path, default=Path("melt_quench_output"), metavar="DIR")
    options = parser.parse_args()
    start = read_frames([START])["host"].repeat(options.repeat)
    engine = Engine("asio2-minimal", electronic_temperature_K=options.electronic_temperature)
    runs = []
    for seed in options.seeds:
        settings = MeltQuenchSettings(
            melt_temperature_K=options.temperature,
            melt_ps=options.melt / 1e3,
            quench_K_ps=1e3 * (options.temperature - 300.0) / options.quench,
            anneal_ps=options.anneal / 1e3,
            engine="ipi" if options.engine == "ipi" else "lammps",
            seed=seed,
            frame_steps=10,
            relax_eV_A=options.fmax,
        )
        runs.append(prepare(options.out / f"{options.engine}-{seed}", start, settings, engine))
        print(f"{runs[-1].folder.name}: {settings.steps} steps", flush=True)
        try:
            if options.engine == "vashishta":
                carry_out_classical(runs[-1])
            else:
                carry_out(runs[-1], engine, lambda status: None)
        except MLHError as error:
            print(error, flush=True)
    Console(width=100).print(table(runs), course(runs))
    if options.engine != "vashishta":
        print(too_close(runs, engine))
    raise SystemExit(not all(map(is_finished, runs)))


if __name__ == "__main__":
    main()

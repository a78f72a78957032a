"""The main job in a few minutes: real LAMMPS and real i-PI, driven by the shipped model.

    python examples/demo.py [--steps 60]

Runs a short melt-quench in LAMMPS and a short run in i-PI, prints energy, temperature and band gap of every
step, and writes plots and all files to ``demo_output/``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "demo_output"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60, help="steps of each run (at least 20)")
    steps = max(20, parser.parse_args().steps)
    shutil.rmtree(OUTPUT, ignore_errors=True)
    run(["mlh-driver", "info"], ROOT)
    melt_quench_in_lammps(steps)
    constant_energy_in_ipi(steps)
    print(f"\nDone. Plots: {OUTPUT / 'melt_quench.png'} and {OUTPUT / 'ipi.png'}")


def run(command: list[str], folder: Path) -> None:
    print(f"\n$ {' '.join(command)}", flush=True)
    subprocess.run(command, cwd=folder, check=True)


def melt_quench_in_lammps(steps: int) -> None:
    """A melt-quench far too short to make a glass; the full schedule is the input's default."""
    folder = OUTPUT / "melt_quench"
    shutil.copytree(ROOT / "lammps_inputs" / "melt_quench", folder)
    lengths = {"melt": steps // 4, "quench": steps // 2, "anneal": steps // 4, "every": 1}
    variables = [word for name, value in lengths.items() for word in ("-var", name, str(value))]
    run(["mlh-driver", "lammps", "-in", "in.melt_quench", *variables], folder)
    plot_md = ROOT / "examples" / "plot_md.py"
    run([sys.executable, str(plot_md), "log.lammps", "--output", str(OUTPUT / "melt_quench.png")], folder)


def constant_energy_in_ipi(steps: int) -> None:
    folder = OUTPUT / "ipi_nve"
    shutil.copytree(ROOT / "ipi_inputs" / "nve", folder)
    settings = folder / "input.xml"
    settings.write_text(settings.read_text().replace('stride="10"', 'stride="1"'))
    run(["./run.sh", str(steps)], folder)
    out = np.loadtxt(folder / "nve.out")
    gaps = np.loadtxt(folder / "nve.observables_0")[:, 0]
    print("  step   potential (eV)   temperature (K)   conserved (eV)   band gap (eV)")
    for row, gap in zip(out, gaps, strict=False):
        print(f"{row[0]:6.0f} {row[3]:16.4f} {row[4]:17.1f} {row[2]:16.4f} {gap:15.3f}")
    drift = 1e3 * np.ptp(out[:, 2]) / 96
    print(f"largest change of the conserved energy: {drift:.3f} meV per atom in {steps} steps")
    figure, axes = plt.subplots(3, 1, sharex=True, layout="constrained")
    curves = (out[:, 4], gaps[: len(out)], out[:, 2] - out[0, 2])
    labels = ("temperature (K)", "band gap (eV)", "change of the\nconserved energy (eV)")
    for axis, values, label in zip(axes, curves, labels, strict=True):
        axis.plot(out[: len(values), 0], values)
        axis.set_ylabel(label)
    axes[-1].set_xlabel("step of 0.5 fs")
    figure.savefig(OUTPUT / "ipi.png", dpi=150)


if __name__ == "__main__":
    main()

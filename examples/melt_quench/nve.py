"""Is the energy conserved in the melt? Constant-energy runs from frames of melt-quench runs.

    python examples/melt_quench/nve.py melt_quench_output/lammps-11 [--temperature 3500] [--steps 2000]

Each starts from the frame of a run whose temperature was nearest to the one asked for, with new velocities,
and is the input ``lammps_inputs/nve``: 0.2 ps to settle, then the steps, of 0.5 fs, over which the drift
of the total energy is printed. It goes to a folder ``nve`` of the run.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

from frames import nearest

from mlh_driver.files import read_json
from mlh_driver.structures import write_lammps_data
from mlh_driver.workflows.melt_quench import Run, find_runs
from mlh_driver.workflows.run_folder import SETTINGS

INPUT = Path(__file__).resolve().parents[2] / "lammps_inputs" / "nve"


def drift(run: Run, temperature_K: float, steps: int, settle: int) -> str:
    """The line that LAMMPS prints at the end."""
    step, temperature, atoms = nearest(run, [temperature_K])[0]
    folder = run.folder / "nve"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(INPUT, folder)
    write_lammps_data(atoms, folder / "host.data", ("Si", "O"))
    variables = {"T": temperature_K, "steps": steps, "settle": settle}
    options = [word for name, value in variables.items() for word in ("-var", name, str(value))]
    electrons = str(read_json(run.folder / SETTINGS)["model"]["electronic_temperature_K"])
    command = ["mlh-driver", "lammps", "--electronic-temperature", electrons, "-in", "in.nve", *options]
    with (folder / "output.log").open("w") as output:
        subprocess.run(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, check=True)
    lines = (folder / "output.log").read_text().splitlines()
    found = next(line for line in lines if line.startswith("drift of the total energy"))
    return f"{run.folder.name}, from step {step} at {temperature:.0f} K: {found}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--temperature", type=float, default=3500.0, help="K")
    parser.add_argument("--steps", type=int, default=2000, help="of 0.5 fs")
    parser.add_argument("--settle", type=int, default=400, help="steps before them")
    options = parser.parse_args()
    for run in find_runs(options.runs):
        print(drift(run, options.temperature, options.steps, options.settle), flush=True)


if __name__ == "__main__":
    main()

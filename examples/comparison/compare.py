"""A machine-learned Hamiltonian beside interatomic potentials: MACE of the same data, and pretrained ones.

    python compare.py CONFIG --model NAME --test DATA ...
    python compare.py CONFIG --model NAME --mace-python PATH --epochs 60 --test DATA ... --output FOLDER
    python compare.py CONFIG --model NAME --pretrained-python PATH --test DATA ... --output FOLDER

CONFIG is the training file of the model: MACE gets the same training and validation frames, energies and
forces, and the same isolated-atom energies, but no Hamiltonians (and no drafts). It is trained by its own
program with its own weights of the loss, energies last ("stage two"). PATH is the python of an environment
with ``mace-torch``. Frames of the test split of every DATA, of any size, are predicted by both. What MACE
makes is kept in FOLDER; without --mace-python its predictions are read from there, and where there are none,
the frames that were not trained on are compared with the model alone. Prints tables and draws
FOLDER/comparison.png.

With --pretrained-python, the python of an environment with ``chgnet`` and ``sevenn``, the frames that were
not trained on are predicted by CHGNet 0.3.0 and SevenNet-0 instead. They know the Materials Project's PBE,
with PAW potentials: other zeros of energy, and slightly other forces. So one energy per Si and per O atom is
fitted to the labels before their energies are compared, which is in their favor.

The formation energy of a vacancy v is E(v) - E(host) + E(O), both at the geometry of the data; its error is
that of the difference. Hosts and vacancies of one network share their number: h106_min, v106_0.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import ase.io
import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table

from mlh_driver import Engine
from mlh_driver.data import LabelledStructure, read_split
from mlh_driver.training.dataset import check_names, labels_of
from mlh_driver.training.settings import TrainSettings, read_settings

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PREDICTIONS = "mace.xyz"
PRETRAINED = "pretrained"
FORCE_TICKS = (10, 20, 50, 100, 200, 500)
#: 32x0e + 32x1o, two layers, 5 Å; all that is not here is MACE's default.
TRAINING = (
    "--name=mace", "--train_file=train.xyz", "--valid_file=valid.xyz", "--energy_key=REF_energy",
    "--forces_key=REF_forces", "--model=MACE", "--num_channels=32", "--max_L=1", "--num_interactions=2",
    "--r_max=5", "--batch_size=2", "--valid_batch_size=2", "--ema", "--stage_two", "--plot=False", "--seed=0",
)  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """Energy in eV and forces (N, 3) in eV/Å."""

    energy: float
    forces: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--model", default="asio2-minimal")
    parser.add_argument("--mace-python", help="python of an environment with mace-torch")
    parser.add_argument("--pretrained-python", help="python of an environment with chgnet and sevenn")
    parser.add_argument("--epochs", type=int, default=60, help="of MACE")
    parser.add_argument(
        "--test", type=Path, nargs="*", default=[], metavar="DATA", help="data sets with a split test"
    )
    parser.add_argument("--output", type=Path, default=Path("comparison"))
    options = parser.parse_args()
    settings = read_settings(options.config)
    found = {role: labels_of(settings, role) for role in ("train", "validation")}
    found["test"] = [label for path in options.test for label in read_split(path, "test")]
    labels = {role: some for role, some in found.items() if some}
    check_names([label for some in labels.values() for label in some])
    with_mace = options.mace_python or (options.output / PREDICTIONS).exists()
    if options.pretrained_python or not with_mace:
        labels.pop("train", None)
    if options.pretrained_python:
        run_pretrained(options.pretrained_python, labels, options.output)
    elif options.mace_python:
        if "validation" not in labels:
            parser.error(f"{options.config} names no frames for validation, which MACE needs")
        run_mace(options.mace_python, options.epochs, settings, labels, options.output)
    engine = Engine(options.model)
    predictions = {
        options.model: {
            label.name: Prediction(results.energy, results.forces)
            for some in labels.values()
            for label in some
            for results in [engine.compute(label.system)]
        },
    }
    if options.pretrained_python:
        everything = [label for some in labels.values() for label in some]
        for path in sorted((options.output / PRETRAINED).glob("*.xyz")):
            predictions[path.stem] = aligned(everything, read_predictions(path, "other"))
    elif with_mace:
        predictions["MACE"] = read_predictions(options.output / PREDICTIONS, "MACE")
        plot(labels, predictions, options.output / "comparison.png")
    for role, some in labels.items():
        Console().print(table(role, some, predictions))
        print_formation_errors(some, predictions[options.model])


def read_predictions(path: Path, prefix: str) -> dict[str, Prediction]:
    """By name of the frame, from the columns ``PREFIX_energy`` and ``PREFIX_forces`` of extended XYZ."""
    return {
        atoms.info["name"]: Prediction(atoms.info[f"{prefix}_energy"], atoms.arrays[f"{prefix}_forces"])
        for atoms in ase.io.read(path, ":")
    }


def aligned(labels: list[LabelledStructure], found: dict[str, Prediction]) -> dict[str, Prediction]:
    """Predictions with one energy per atom of each element added, by least squares to the labels."""
    counts = np.array([np.bincount(label.system.numbers, minlength=119) for label in labels])
    missing = np.array([label.energy - found[label.name].energy for label in labels])
    shifts = counts @ np.linalg.lstsq(counts, missing)[0]
    return {
        label.name: Prediction(found[label.name].energy + shift, found[label.name].forces)
        for label, shift in zip(labels, shifts, strict=True)
    }


def run_pretrained(python: str, labels: dict[str, list[LabelledStructure]], folder: Path) -> None:
    """Predict all frames by the potentials of pretrained.py, in ``folder``."""
    (folder / PRETRAINED).mkdir(parents=True, exist_ok=True)
    frames = folder / "frames.xyz"
    ase.io.write(frames, [frame(label) for some in labels.values() for label in some])
    script = Path(__file__).with_name("pretrained.py")
    subprocess.run([python, "-W", "ignore", script, frames, folder / PRETRAINED], check=True)


def run_mace(
    python: str,
    epochs: int,
    settings: TrainSettings,
    labels: dict[str, list[LabelledStructure]],
    folder: Path,
) -> None:
    """Train a potential and predict all frames, in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    everything = [label for some in labels.values() for label in some]
    for name, some in (("train", labels["train"]), ("valid", labels["validation"]), ("all", everything)):
        ase.io.write(folder / f"{name}.xyz", [frame(label) for label in some])
    energies = dict(zip(settings.basis().numbers.tolist(), settings.atom_energies(), strict=True))

    def run(program: str, *arguments: str) -> None:
        environment = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}  # for MACE's old e3nn
        command = [python, "-W", "ignore", "-m", f"mace.cli.{program}", *arguments, "--default_dtype=float32"]
        subprocess.run(command, cwd=folder, env=environment, check=True)

    run("run_train", *TRAINING, f"--E0s={energies}", f"--max_num_epochs={epochs}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"MACE: {epochs} epochs on {len(labels['train'])} frames, {used.ru_utime + used.ru_stime:.0f} s")
    run(
        "eval_configs",
        "--configs=all.xyz",
        "--model=mace_stagetwo.model",
        f"--output={PREDICTIONS}",
        "--batch_size=1",
    )


def frame(label: LabelledStructure) -> ase.Atoms:
    atoms = label.system.to_ase()
    atoms.info |= {"name": label.name, "REF_energy": label.energy}
    atoms.arrays["REF_forces"] = label.forces
    return atoms


def table(role: str, labels: list[LabelledStructure], predictions: dict[str, dict[str, Prediction]]) -> Table:
    """Errors of every method on the frames of one role."""
    result = Table(title=f"{role}: {len(labels)} frames")
    result.add_column("error")
    for method in predictions:
        result.add_column(method, justify="right")
    by_name = [predictions[method] for method in predictions]
    energies = [[energy_error(label, found) for label in labels] for found in by_name]
    forces = [
        np.concatenate([(found[x.name].forces - x.forces).ravel() for x in labels]) for found in by_name
    ]
    formation = [list(formation_errors(labels, found).values()) for found in by_name]
    sites = [site_errors(labels, found) for found in by_name]
    rows = {
        "energy, MAE (meV/atom)": [1e3 * np.abs(errors).mean() for errors in energies],
        "energy, mean (meV/atom)": [1e3 * np.mean(errors) for errors in energies],
        "forces, RMSE (meV/Å)": [1e3 * np.sqrt((errors**2).mean()) for errors in forces],
        "forces, MAE (meV/Å)": [1e3 * np.abs(errors).mean() for errors in forces],
        f"vacancy formation, MAE of {len(formation[0])} (meV)": [
            1e3 * np.abs(errors).mean() if errors else np.nan for errors in formation
        ],
        f"difference of two vacancies, MAE of {len(sites[0])} (meV)": [
            1e3 * np.abs(errors).mean() if errors else np.nan for errors in sites
        ],
    }
    for title, values in rows.items():
        result.add_row(title, *(f"{value:.1f}" for value in values))
    return result


def energy_error(label: LabelledStructure, found: dict[str, Prediction]) -> float:
    """eV per atom."""
    return (found[label.name].energy - label.energy) / len(label.system)


def formation_errors(labels: list[LabelledStructure], found: dict[str, Prediction]) -> dict[str, float]:
    """Error in eV of the formation energy of every vacancy whose host is among the labels."""
    errors = {label.name: found[label.name].energy - label.energy for label in labels}
    hosts = {number: name for name in errors for number in re.findall(r"^h(?:ost_|md_)?(\d+)", name)}
    return {
        name: errors[name] - errors[hosts[number]]
        for name in errors
        for number in re.findall(r"^v(?:ac_|md_|rel_)?(\d+)", name)
        if number in hosts
    }


def print_formation_errors(labels: list[LabelledStructure], found: dict[str, Prediction]) -> None:
    errors = formation_errors(labels, found)
    print("formation (meV): " + ", ".join(f"{name} {1e3 * error:.0f}" for name, error in errors.items()))


def site_errors(labels: list[LabelledStructure], found: dict[str, Prediction]) -> list[float]:
    """Errors in eV of the energy difference of each two vacancies of one network, with as many atoms."""
    errors = {x.name: (found[x.name].energy - x.energy, len(x.system)) for x in labels if x.name[0] == "v"}
    return [
        errors[first][0] - errors[second][0]
        for first, second in combinations(errors, 2)
        if network_of(first) == network_of(second) and errors[first][1] == errors[second][1]
    ]


def network_of(name: str) -> str:
    """The number in a name, or the name if it has none."""
    return next(iter(re.findall(r"\d{2,}", name)), name)


def plot(
    labels: dict[str, list[LabelledStructure]],
    predictions: dict[str, dict[str, Prediction]],
    path: Path,
) -> None:
    """Energy errors against size, force errors against forces; filled markers were not trained on."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    markers = {"train": "o", "validation": "s", "test": "D"}
    for color, (method, found) in zip(("C0", "C1"), predictions.items(), strict=True):
        for role, some in labels.items():
            energy = [1e3 * energy_error(label, found) for label in some]
            force = [1e3 * np.sqrt(((found[x.name].forces - x.forces) ** 2).mean()) for x in some]
            style = {"color": color, "mfc": "none" if role == "train" else color, "ls": "none"}
            sizes = [len(label.system) for label in some]
            left.plot(sizes, energy, markers[role], label=f"{method}, {role}", **style)
            right.plot([np.sqrt((x.forces**2).mean()) for x in some], force, markers[role], **style)
    left.set(xlabel="atoms", ylabel="energy error (meV/atom)")
    right.set(xlabel="rms force of the frame (eV/Å)", ylabel="force error, RMSE (meV/Å)", yscale="log")
    right.set_yticks(FORCE_TICKS, map(str, FORCE_TICKS))
    right.minorticks_off()
    left.axhline(0, color="0.7", lw=0.8)
    left.legend(fontsize=7)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()

"""The rounds of active learning. Every step leaves a file and is skipped where there is one: a run resumes.

Files in ``output``: ``labels.h5`` (every label), ``report.jsonl`` (a line per round), ``report.png``, at
the end ``NAME.pt``, the model, and in a folder ``round_K`` the ``frames.xyz`` of the round, those
``left_out.txt`` for want of a label, and the model and log of its training.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from mlh_driver.data import hdf5
from mlh_driver.engine import Engine
from mlh_driver.errors import InputError, StructureError
from mlh_driver.evaluation import evaluate_structures, mean_summary
from mlh_driver.learning.explore import displaced, trajectory
from mlh_driver.learning.settings import LearnSettings
from mlh_driver.model import Model, load_model
from mlh_driver.reference import label_into, make_labeler
from mlh_driver.reference.constants import count_occupied
from mlh_driver.structures import read_frames
from mlh_driver.system import System
from mlh_driver.training.export import make_model
from mlh_driver.training.samples import check_references, check_sections
from mlh_driver.training.settings import DataSettings, StageSettings, TrainSettings, read_settings
from mlh_driver.training.trainer import Progress, Trainer

Report = Callable[[str], None]
#: Figures of each round, on frames that the model has not been trained on.
FIGURES = ("forces_rmse_meV_A", "energy_meV_atom", "levels_mae_meV", "H_mae_meV", "extrapolation")


class ActiveLearning:
    """A run of at most ``settings.rounds`` rounds; ``report`` gets lines, ``progress`` training steps."""

    def __init__(self, settings: LearnSettings, report: Report, progress: Progress | None = None) -> None:
        self.settings = settings
        self.report = report
        self.progress = progress
        self.training = read_settings(settings.training)
        self.labels = settings.output / "labels.h5"
        self.seeds = self._usable_seeds()
        self.labeler = make_labeler(settings.label.engine, settings.label.threads)
        check_sections(self.training)
        check_references(self.training, labels_to_come=self.labeler.reference())
        settings.output.mkdir(parents=True, exist_ok=True)

    def _usable_seeds(self) -> list[Atoms]:
        """Raises InputError, before anything is calculated, for seeds that cannot be labelled or learned."""
        basis = self.training.basis()
        seeds = read_frames(list(self.settings.seeds))
        for name, atoms in seeds.items():
            try:
                basis.species_index(System.from_ase(atoms).numbers)
                count_occupied(atoms.numbers)
            except StructureError as error:
                raise InputError(f"seed {name!r}: {error}") from error
        return list(seeds.values())

    def run(self) -> Path:
        """All rounds; returns the path of the last model."""
        model = self._first_model()
        for round_ in range(self.settings.rounds):
            self._label(round_, self._frames(round_, model))
            if model is not None and self._on_target(self._measure(round_, model)):
                self.report(f"round {round_}: the errors on new frames are on target")
                break
            model = self._train(round_, model)
        assert model is not None  # there is at least one round
        path = self.settings.output / f"{self.training.name}.pt"
        model.save(path)
        return path

    def _folder(self, round_: int) -> Path:
        folder = self.settings.output / f"round_{round_}"
        folder.mkdir(exist_ok=True)
        return folder

    def _first_model(self) -> Model | None:
        start = self.training.start_from
        return load_model(start) if start else None

    def _frames(self, round_: int, model: Model | None) -> dict[str, Atoms]:
        path = self._folder(round_) / "frames.xyz"
        if not path.exists():
            frames = [self._new_frame(round_, k, model) for k in range(self.settings.frames_per_round)]
            partial = path.with_name(".frames.partial.xyz")
            ase.io.write(partial, frames)
            partial.replace(path)
        return read_frames([path])

    def _new_frame(self, round_: int, k: int, model: Model | None) -> Atoms:
        settings = self.settings
        rng = np.random.default_rng([settings.seed, round_, k])
        count = round_ * settings.frames_per_round + k
        seed = self.seeds[(count + round_) % len(self.seeds)]  # another one for each validation
        if model is None:
            atoms = displaced(seed, settings.explore, rng)
        else:
            temperatures = settings.explore.temperatures_K
            temperature = temperatures[(count // len(self.seeds)) % len(temperatures)]
            frame = trajectory(seed, model, temperature, settings.explore, rng)
            atoms = frame.atoms
            self.report(f"round {round_}, frame {k}: {temperature:g} K, indicator {frame.extrapolation:.2f}")
        atoms.info["name"] = f"r{round_}_{k}"
        return atoms

    def _label(self, round_: int, frames: dict[str, Atoms]) -> None:
        """The last frame of a round is for validation. Frames that fail are noted and not tried again."""
        done = self._folder(round_) / "left_out.txt"
        if done.exists():
            return
        *training, last = frames

        def label(names: list[str], split: str) -> list[str]:
            some = {name: frames[name] for name in names}
            return label_into(self.labels, some, self.labeler, split, self.report)

        failed = label(training, "train")
        if len(failed) == len(training):
            (self._folder(round_) / "frames.xyz").unlink()  # made anew when the run goes on
            raise InputError(
                f"no frame for training of round {round_} could be labelled, for the reasons above; change "
                "[explore] or the seeds in the settings, and start again"
            )
        failed += label([last], "validation")
        done.write_text("".join(f"{name}\n" for name in failed))

    def _new_names(self, round_: int) -> list[str]:
        if not self.labels.exists():
            return []
        return [name for name in hdf5.read_names(self.labels) if name.startswith(f"r{round_}_")]

    def _measure(self, round_: int, model: Model) -> dict[str, float]:
        """Errors of the model on the frames of a round, before it is trained on them."""
        path = self.settings.output / "report.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        for row in rows:
            if row["round"] == round_:
                return dict(row)
        engine = Engine(model)
        new = self._new_names(round_)
        errors, failures = evaluate_structures(
            engine, (hdf5.read_structure(self.labels, name) for name in new)
        )
        for failure in failures:
            self.report(f"the model cannot compute {failure}")
        learned = set(hdf5.read_splits(self.labels).get("train", [])) - set(new)
        row = {"round": round_, "labels": len(learned), "failed": len(failures)} | {
            key: round(value, 3) for key, value in mean_summary(errors).items() if key in FIGURES
        }
        with open(path, "a") as file:
            file.write(json.dumps(row) + "\n")
        self.report("  ".join(f"{key} {value:g}" for key, value in row.items()))
        plot_report([*rows, row], self.settings.output / "report.png")
        return row

    def _on_target(self, row: dict[str, float]) -> bool:
        target = self.settings.target
        return (
            not row["failed"]
            and row["forces_rmse_meV_A"] <= target.forces_rmse_meV_A
            and row["energy_meV_atom"] <= target.energy_meV_atom
        )

    def _train(self, round_: int, model: Model | None) -> Model:
        settings = self._train_settings(round_, model)
        path = settings.output / f"{settings.name}.pt"
        if not path.exists():
            trainer = Trainer(settings, self.progress)
            network = trainer.run(resume=trainer.checkpoint_path.exists())
            make_model(settings, network, trainer.train).save(path)
        return load_model(str(path))

    def _train_settings(self, round_: int, model: Model | None) -> TrainSettings:
        """The user's settings with the run's labels; later rounds fine-tune the model before.

        The double-counting energy takes little time and is fitted in full again.
        """
        present = hdf5.read_splits(self.labels).keys()  # the only frame for validation may have failed
        train, validation = (tuple({role} & present) for role in ("train", "validation"))
        own = DataSettings(path=self.labels, train=train, validation=validation)
        changes: dict[str, object] = {
            "data": (*self.training.data, own),
            "output": self._folder(round_),
        }
        if round_ and model is not None:
            previous = self._folder(round_ - 1) / f"{self.training.name}.pt"
            changes["start_from"] = str(previous)
            for stage in ("hamiltonian", "joint"):
                plan: StageSettings = getattr(self.training, stage)
                steps = round(self.settings.fine_tune * plan.steps)
                changes[stage] = plan.model_copy(update={"steps": steps})
        return self.training.model_copy(update=changes)


def plot_report(rows: list[dict[str, float]], path: Path) -> None:
    """Errors on new frames against the number of labels trained on, log-log."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    rows = [row for row in rows if "forces_rmse_meV_A" in row]
    labels = [row["labels"] for row in rows]
    left.loglog(labels, [row["forces_rmse_meV_A"] for row in rows], "o-")
    left.set(xlabel="labels", ylabel="force error, RMSE (meV/Å)")
    right.loglog(labels, [row["energy_meV_atom"] for row in rows], "o-")
    right.set(xlabel="labels", ylabel="energy error (meV/atom)")
    figure.savefig(path, dpi=150)
    plt.close(figure)

"""The rounds of active learning. Every step leaves a file and is skipped where there is one: a run resumes.

Files in ``output``: ``labels.h5`` (every label; its split ``test`` lists the frames for testing),
``report.jsonl`` (a line per round), ``report.png``, at the end ``NAME.pt``, the model, and in a folder
``round_K`` the runs of :mod:`mlh_driver.learning.explore`, the ``frames.xyz`` of the round, those
``left_out.txt`` for want of a label, the model and log of its training, and in ``given_up_K`` the runs and
frames of which none for training could be labelled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

from mlh_driver.data import hdf5, read_splits
from mlh_driver.engine import Engine
from mlh_driver.engine_settings import EngineSettings
from mlh_driver.errors import InputError, StructureError
from mlh_driver.evaluation import evaluate_structures, mean_summary
from mlh_driver.files import alone_in, replacing
from mlh_driver.learning.explore import Outcome, Start, displaced, explore
from mlh_driver.learning.report import FIGURES, add_row, figures_of_runs, read_rows
from mlh_driver.learning.runs import check_inputs
from mlh_driver.learning.settings import LearnSettings
from mlh_driver.model import Model, load_model
from mlh_driver.reference import Cp2kLabeler, label_into, make_labeler
from mlh_driver.reference.constants import count_occupied
from mlh_driver.structures import read_frames
from mlh_driver.system import System
from mlh_driver.training.dataset import check_references, check_sections
from mlh_driver.training.export import make_model
from mlh_driver.training.settings import DataSettings, StageSettings, TrainSettings, read_settings
from mlh_driver.training.trainer import Trainer, TrainingProgress

Report = Callable[[str], None]


class ActiveLearning:
    """A run of at most ``settings.rounds`` rounds; ``report`` gets lines, ``progress`` training steps."""

    def __init__(
        self, settings: LearnSettings, report: Report, progress: TrainingProgress | None = None
    ) -> None:
        self.settings = settings
        self.report = report
        self.progress = progress
        self.training = read_settings(settings.training)
        self.labels = settings.output / "labels.h5"
        self.seeds = self._usable_seeds()
        check_inputs(settings.explore)
        self.labeler = make_labeler(
            settings.label.engine,
            settings.label.threads,
            electronic_temperature_K=settings.label.electronic_temperature_K,
        )
        if isinstance(self.labeler, Cp2kLabeler):
            self.labeler.check_installed()
        check_sections(self.training)
        check_references(self.training, labels_to_come=self.labeler.reference())
        self._check_prefix()
        settings.output.mkdir(parents=True, exist_ok=True)

    def _usable_seeds(self) -> list[Atoms]:
        """Raises InputError, before anything is calculated, for seeds that cannot be labelled or learned."""
        basis = self.training.basis()
        seeds = read_frames(list(self.settings.seeds))
        for name, atoms in seeds.items():
            try:
                known = basis.n_electrons(System.from_ase(atoms).numbers)
                labelled = 2 * count_occupied(atoms.numbers)
            except StructureError as error:
                raise InputError(f"seed {name!r}: {error}") from error
            if known != labelled:
                raise InputError(
                    f"seed {name!r} has {known} electrons by the species of the training settings, and "
                    f"{labelled} in the labels: correct 'electrons' there (mlh-driver species prints them)"
                )
        return list(seeds.values())

    def _check_prefix(self) -> None:
        """Raises InputError if frames of this run would have the names of structures of the data."""
        prefix = self.settings.prefix
        for source in self.training.data:
            for name in chain.from_iterable(read_splits(source.path).values()):
                if re.fullmatch(rf"{prefix}\d+_\d+", name):
                    raise InputError(
                        f"{source.path} holds {name}, which a frame of this run could be called, too; give "
                        "the frames another prefix, such as prefix = 's'"
                    )

    def run(self) -> Path:
        """All rounds; returns the path of the last model. Raises InputError if another process is at them."""
        with alone_in(self.settings.output):
            return self._run()

    def _run(self) -> Path:
        if (self.settings.output / "round_0").exists():
            self.report(
                f"going on in {self.settings.output}: what is done there stays as it is, and changed "
                "settings hold for the rest; for a new run name another output"
            )
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
        return self._loaded(start) if start else None

    def _loaded(self, path: str) -> Model:
        """In the precision, and at the place, that the exploration asks for."""
        settings = EngineSettings.of(path, **self.settings.explore.engine)
        return load_model(path, settings.dtype, settings.device)

    def _frames(self, round_: int, model: Model | None) -> dict[str, Atoms]:
        path = self._folder(round_) / "frames.xyz"
        if not path.exists():
            frames = self._displaced(round_) if model is None else self._explored(round_, model)
            for k, atoms in enumerate(frames):
                atoms.info["name"] = f"{self.settings.prefix}{round_}_{k}"
            with replacing(path) as partial:
                ase.io.write(partial, frames, format="extxyz")
        return read_frames([path])

    def _displaced(self, round_: int) -> list[Atoms]:
        count = self.settings.frames_per_round
        rngs = [np.random.default_rng([self.settings.seed, round_, k]) for k in range(count)]
        return [
            displaced(self._seed(round_ * count + k), self.settings.explore, rng)
            for k, rng in enumerate(rngs)
        ]

    def _seed(self, count: int) -> Atoms:
        """All seeds once before one comes again, each time in another order, as a round's last is special."""
        turn, place = divmod(count, len(self.seeds))
        order = np.random.default_rng([self.settings.seed, turn]).permutation(len(self.seeds))
        return self.seeds[order[place]]

    def _explored(self, round_: int, model: Model) -> list[Atoms]:
        frames: list[Atoms] = []
        for start in self._starts(round_):
            found, outcome = explore(start, model, self.settings.explore)
            self.report(f"round {round_}, {start.folder.name}: {outcome}")
            frames += found
        return frames

    def _starts(self, round_: int) -> list[Start]:
        """The runs of a round, which together give its frames."""
        settings = self.settings
        wanted, each = settings.frames_per_round, settings.explore.frames_per_run
        temperatures = settings.explore.temperatures_K
        runs = [min(each, wanted - first) for first in range(0, wanted, each)]
        return [
            Start(
                folder=self._folder(round_) / f"run_{k:02d}",
                atoms=self._seed(count := round_ * len(runs) + k),
                temperature_K=temperatures[(count // len(self.seeds)) % len(temperatures)],
                n_frames=n_frames,
                seed=(settings.seed, round_, k),
            )
            for k, n_frames in enumerate(runs)
        ]

    def _label(self, round_: int, frames: dict[str, Atoms]) -> None:
        """Label each frame for what it is for. Frames that fail are noted and not tried again."""
        done = self._folder(round_) / "left_out.txt"
        if done.exists():
            return
        split_of = splits(frames, self.settings.hold_out)
        failed: list[str] = []
        for split in ("train", "validation", "test"):
            some = {name: atoms for name, atoms in frames.items() if split_of[name] == split}
            failed += label_into(self.labels, some, self.labeler, split, self.report)
            if split == "train" and len(failed) == len(some):
                aside = self._set_frames_aside(round_)
                why = "could be labelled, for the reasons above" if some else "is left by hold_out"
                raise InputError(
                    f"no frame for training of round {round_} {why}; change [explore], the seeds or "
                    f"hold_out in the settings, and start again. The frames and their runs are in {aside}"
                )
        done.write_text("".join(f"{name}\n" for name in failed))

    def _set_frames_aside(self, round_: int) -> Path:
        """Into a folder, which is returned, so that the round explores anew when the run goes on."""
        folder = self._folder(round_)
        aside = folder / f"given_up_{len(list(folder.glob('given_up_*'))) + 1}"
        aside.mkdir()
        for path in [folder / "frames.xyz", *folder.glob("run_*")]:
            path.rename(aside / path.name)
        return aside

    def _new_names(self, round_: int) -> list[str]:
        if not self.labels.exists():
            return []
        begin = f"{self.settings.prefix}{round_}_"
        return [name for name in hdf5.read_names(self.labels) if name.startswith(begin)]

    def _measure(self, round_: int, model: Model) -> dict[str, Any]:
        """How the runs of a round ended, and errors on its frames, before the model is trained on them."""
        for row in read_rows(self.settings.output):
            if row["round"] == round_:
                return row
        new = self._new_names(round_)
        errors, failures = evaluate_structures(
            Engine(model, **self.settings.explore.engine),
            (hdf5.read_structure(self.labels, name) for name in new),
        )
        for failure in failures:
            self.report(f"the model cannot compute {failure}")
        learned = set(hdf5.read_splits(self.labels).get("train", [])) - set(new)
        outcomes = [Outcome.read(path) for path in sorted(self._folder(round_).glob("run_*.json"))]
        row = {"round": round_, "labels": len(learned), "failed": len(failures)}
        row |= figures_of_runs(outcomes)
        row |= {key: round(value, 3) for key, value in mean_summary(errors).items() if key in FIGURES}
        add_row(row, self.settings.output)
        self.report("  ".join(f"{key} {value}" for key, value in row.items()))
        return row

    def _on_target(self, row: dict[str, Any]) -> bool:
        target = self.settings.target
        return bool(
            not row["failed"]
            and row["runs_finished"] >= target.finished * row["runs"]
            and row["forces_rmse_meV_A"] <= target.forces_rmse_meV_A
            and row["energy_meV_atom"] <= target.energy_meV_atom
        )

    def _train(self, round_: int, model: Model | None) -> Model:
        settings = self._train_settings(round_, model)
        path = settings.model_path
        if not path.exists():
            trainer = Trainer(settings, self.progress)
            network = trainer.run(resume=trainer.checkpoint_path.exists())
            make_model(settings, network, trainer.data).save(path)
        return self._loaded(str(path))

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


def splits(names: Iterable[str], hold_out: int | tuple[str, ...]) -> dict[str, str]:
    """What each frame of a round is for: the last of those not held out for testing is for validation."""
    names = list(names)
    if isinstance(hold_out, int):
        held = names[hold_out - 1 :: hold_out]
    else:
        held = [name for name in names if any(fnmatch(name, pattern) for pattern in hold_out)]
    split_of = {name: "test" if name in held else "train" for name in names}
    others = [name for name in names if name not in held]
    if len(others) > 1:
        split_of[others[-1]] = "validation"
    return split_of

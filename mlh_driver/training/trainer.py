"""The training loop: stages, checkpoints, resume, early stopping, and a log of JSON lines."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlh_driver.errors import InputError, NonFiniteError
from mlh_driver.evaluation import mean_errors
from mlh_driver.files import alone_in
from mlh_driver.model import load_archive, save_archive
from mlh_driver.model_files import model_digest
from mlh_driver.network.network import HamiltonianNetwork
from mlh_driver.training.dataset import DataSet
from mlh_driver.training.samples import DTYPE
from mlh_driver.training.screening import fit_screening
from mlh_driver.training.settings import StageSettings, TrainSettings
from mlh_driver.training.soap import SOAP
from mlh_driver.training.stages import Stage, stages_of

#: The learning rate rises so slowly that it would come to its full height in so many steps, in which the
#: averages of the gradients form.
WARM_UP_STEPS = 100

TrainingProgress = Callable[[str, int, int, dict[str, float]], None]


@dataclass
class Position:
    """Where a run stands; what a checkpoint holds besides tensors."""

    stage: int = 0
    step: int = 0
    best: float = math.inf
    since_best: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    errors: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Trains a network on the data that the settings name; ``steps_taken`` counts steps of this process.

    Each stage ends with its last average: as long as the learning rate is high, errors of successive steps
    shift all energies alike, and what looks best on a few structures for validation is a matter of luck. Only
    a stage that stops early, for want of a better one, ends with the average validated best.

    Files in ``settings.output``: ``checkpoint.pt`` (everything needed to resume) and ``log.jsonl`` (one
    JSON object per validation: stage, step, seconds, learning_rate, train_loss and the errors).

    stages: those of ``stages_of(settings)`` unless given
    """

    def __init__(
        self,
        settings: TrainSettings,
        progress: TrainingProgress | None = None,
        stages: tuple[Stage, ...] | None = None,
    ) -> None:
        self.settings = settings
        self.progress = progress
        self.stages = stages_of(settings) if stages is None else stages
        self.data = DataSet.read(settings)
        self.rng = np.random.default_rng(settings.seed)
        self.network = self._initial_network()
        self.average = copy.deepcopy(self.network)
        self.best: dict[str, Tensor] = {}
        self.position = Position()
        self.steps_taken = 0
        self.optimizer = self._new_optimizer()
        try:
            settings.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"output = {settings.output} cannot be made: {error}; choose another") from error
        self._last_checkpoint = time.monotonic()

    def run(self, resume: bool = False) -> HamiltonianNetwork:
        """Train from the start, or from the checkpoint; returns the averaged network.

        Raises InputError when there is no checkpoint to resume, an unfinished run that would be lost, or
        another process at work in the output, and NonFiniteError when the training diverges.
        """
        with alone_in(self.settings.output):
            return self._run(resume)

    def _run(self, resume: bool) -> HamiltonianNetwork:
        if resume:
            self.load_checkpoint()
        else:
            self._check_nothing_is_lost()
            (self.settings.output / "log.jsonl").unlink(missing_ok=True)
            self.save_checkpoint()  # from here on there is none of an earlier run to go on with
        while self.position.stage < len(self.stages):
            self._run_stage(self.stages[self.position.stage])
            self.best = {}
            self.position = Position(stage=self.position.stage + 1, seconds=self.position.seconds)
            self.network.load_state_dict(self.average.state_dict())
            self.optimizer = self._new_optimizer()
            self.save_checkpoint()
        return self.average

    def _initial_network(self) -> HamiltonianNetwork:
        """With random weights or those of a model, and what follows from the data in closed form."""
        settings = self.settings
        torch.manual_seed(settings.seed)
        network = HamiltonianNetwork(settings.basis(), settings.network).to(DTYPE)
        if self.data.parent is not None:
            network.load_state_dict(self.data.parent.network.state_dict())
            network.bounds.lift()
        if settings.hamiltonian.steps or not settings.start_from:
            fit_screening(network, self.data.train)
        network.set_inner_radii(self.data.inner_radii(len(network.kinds)))
        return network

    def _new_optimizer(self) -> torch.optim.Optimizer:
        """Of the present stage; of nothing behind the last one."""
        stages = self.stages[self.position.stage :]
        parameters = stages[0].parameters(self.network) if stages else [nn.Parameter(torch.zeros(1))]
        return SOAP(parameters, lr=1.0)

    def _run_stage(self, stage: Stage) -> None:
        plan = stage.plan
        if plan.steps and self.position.step == 0:
            stage.start(self.network, stage.usable(self.data.train))
            self.average.load_state_dict(self.network.state_dict())
        started = time.monotonic() - self.position.seconds
        while self.position.step < plan.steps and self.position.since_best < plan.patience:
            self.position.losses.append(self._step(stage))
            self.position.step += 1
            self.steps_taken += 1
            self.position.seconds = time.monotonic() - started
            if self.progress:
                self.progress(stage.name, self.position.step, plan.steps, self.position.errors)
            if self.position.step % plan.validate_every == 0 or self.position.step == plan.steps:
                self._validate(stage)
                self.save_checkpoint()  # so that no line of the log is written twice
            elif time.monotonic() - self._last_checkpoint > self.settings.checkpoint_every_s:
                self.save_checkpoint()
        if self.best and self.position.since_best >= plan.patience:
            self.average.load_state_dict(self.best)
            self._set_inner_radii()  # the data may have grown since

    def _set_inner_radii(self) -> None:
        for network in (self.network, self.average):
            network.set_inner_radii(self.data.inner_radii(len(network.kinds)))

    def _step(self, stage: Stage) -> float:
        samples = stage.usable(self.data.train)
        repeats = np.array([sample.repeat for sample in samples])
        sample = samples[int(self.rng.choice(len(samples), p=repeats / repeats.sum()))]
        rate = learning_rate(stage.plan, self.position.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        try:
            loss = stage.loss(self.network, sample)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            parameters = [p for p in stage.parameters(self.network) if p.grad is not None]
            norm = nn.utils.clip_grad_norm_(parameters, stage.gradient_limit)
            diverged = not bool(torch.isfinite(loss.detach() + norm))
        except torch.linalg.LinAlgError:  # eigenvalues of a Hamiltonian that holds no numbers
            diverged = True
        if diverged:
            raise NonFiniteError(
                f"the training diverged at step {self.position.step + 1} of the stage {stage.name!r}, at "
                f"{sample.name}; lower its learning_rate = {stage.plan.learning_rate}, and start anew or "
                "--resume"
            )
        self.optimizer.step()
        self._update_average()
        return float(loss.detach())

    def _update_average(self) -> None:
        decay = min(self.settings.average_decay, (1 + self.position.step) / (10 + self.position.step))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(value, 1.0 - decay)

    def _validate(self, stage: Stage) -> None:
        position = self.position
        train_loss = float(np.mean(position.losses))
        position.losses.clear()
        errors = self.validation_errors(stage)
        score = errors.get("score", train_loss)
        if score < position.best:
            position.best, position.since_best = score, 0
            self.best = copy.deepcopy(self.average.state_dict())
        else:
            position.since_best += 1
        position.errors = errors
        record = {
            "stage": stage.name,
            "step": position.step,
            "seconds": round(position.seconds, 1),
            "learning_rate": learning_rate(stage.plan, position.step - 1),
            "train_loss": train_loss,
            **errors,
        }
        with open(self.settings.output / "log.jsonl", "a") as log:
            log.write(json.dumps(record) + "\n")

    def validation_errors(self, stage: Stage) -> dict[str, float]:
        """Errors of the averaged network on the structures for validation, see ``mean_errors``."""
        return mean_errors(
            stage.errors(self.average, sample) for sample in stage.usable(self.data.validation)
        )

    @property
    def checkpoint_path(self) -> Path:
        return self.settings.output / "checkpoint.pt"

    def save_checkpoint(self) -> None:
        """Replace the checkpoint, so that a crash leaves the old or the new one."""
        state = {
            "made_for": self._made_for(),
            "scored_by": self._scored_by(),
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "position": vars(self.position),
            "trained_on": self._trained_on(),
            "rng": self.rng.bit_generator.state,
        }
        save_archive(self.checkpoint_path, state)
        self._last_checkpoint = time.monotonic()

    def load_checkpoint(self) -> None:
        """Continue where the last checkpoint was written; raises InputError when there is none."""
        if not self.checkpoint_path.exists():
            raise InputError(f"there is no checkpoint {self.checkpoint_path}; start without --resume")
        state = self._read_checkpoint()
        if state["made_for"] != self._made_for():
            raise InputError(
                f"{self.checkpoint_path} was written with another basis, other atom_energy_eV or network "
                "settings, or from another model; restore them, or choose another output and start without "
                "--resume"
            )
        is_at_end = state["position"]["stage"] >= len(self.stages)
        if is_at_end and state["trained_on"] != self._trained_on() and not self.settings.model_path.exists():
            raise InputError(
                f"{self.checkpoint_path} is of a run at its end, on other data than these: what is new would "
                "not be learned; start from its model (start_from) in another output"
            )
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self._set_inner_radii()
        self.best = state["best"]
        self.position = Position(**state["position"])
        if state["scored_by"] != self._scored_by():  # the best score so far is one of another kind
            self.best, self.position.best, self.position.since_best = {}, math.inf, 0
        self.optimizer = self._new_optimizer()
        if self.position.stage < len(self.stages):
            self.optimizer.load_state_dict(state["optimizer"])
        self.rng.bit_generator.state = state["rng"]

    def _made_for(self) -> dict[str, Any]:
        """What the weights depend on."""
        settings = self.settings
        return {
            "basis": asdict(settings.basis()),
            "atom_energies_eV": settings.atom_energies(),
            "network": asdict(settings.network),
            "parent": model_digest(settings.start_from) if settings.start_from else None,
        }

    def _trained_on(self) -> list[str]:
        return [sample.name for sample in self.data.train]

    def _scored_by(self) -> dict[str, Any]:
        """What the score of a validation depends on, besides the weights."""
        return {
            "weights": self.settings.weights.model_dump(),
            "validation": [sample.name for sample in self.data.validation],
        }

    def _read_checkpoint(self) -> dict[str, Any]:
        path = self.checkpoint_path
        try:
            state = load_archive(path)
        except Exception:  # torch raises anything
            state = {}
        if {"made_for", "scored_by", "trained_on"} <= state.keys():
            return state
        raise InputError(f"{path} is damaged or no checkpoint of this version; remove it and start anew")

    def _check_nothing_is_lost(self) -> None:
        """Raise InputError if the output holds a model, or a run that has taken steps."""
        if self.settings.model_path.exists():
            raise InputError(
                f"{self.settings.model_path} is a finished model; choose another output or name, or remove it"
            )
        if not self.checkpoint_path.exists():
            return
        position = Position(**self._read_checkpoint()["position"])
        if position.stage or position.step:
            where = "at its end"
            if position.stage < len(self.stages):
                where = f"at step {position.step} of the stage {self.stages[position.stage].name!r}"
            raise InputError(
                f"{self.checkpoint_path} is of a run {where}: go on with --resume, or remove it or choose "
                "another output"
            )


def learning_rate(plan: StageSettings, step: int) -> float:
    """Linear warm-up, in a short stage for half of it, then half a cosine down to a hundredth."""
    warm_up = min(WARM_UP_STEPS, max(1, plan.steps // 2))
    if step < warm_up:
        return plan.learning_rate * (step + 1) / WARM_UP_STEPS
    progress = (step - warm_up) / max(1, plan.steps - warm_up)
    highest = plan.learning_rate * warm_up / WARM_UP_STEPS
    return highest * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))

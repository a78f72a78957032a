"""Settings of an active-learning run, read from a TOML file; unknown keys are an error."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from mlh_driver.engine_settings import EngineSettings
from mlh_driver.results import OBSERVABLES
from mlh_driver.settings import Settings, read_toml

SEED = "{seed}"
"""Stands for the random seed of a run in the variables of a LAMMPS script."""


class ExploreSettings(Settings):
    """How new frames are made.

    Without a model (first round): seeds, displaced at random and strained. With a model: runs of an MD
    engine, each with a random seed of its own, namely of

    script: a LAMMPS script, as for ``mlh-driver lammps``, with ``variables`` for its ``-var``; the value
            "{seed}" stands for the random seed
    ipi:    an input of i-PI with one <ffsocket>, as for ``mlh-driver ipi``
    neither of them: Langevin dynamics of ASE from the seeds, ``temperatures_K`` in turn, ``steps`` long

    A script or input runs in a folder of its own, into which the files beside it are copied.

    A run ends early where an observable passes its limit, or where the model has no answer: what comes later
    is the invention of the model, and teaches little about the material. Of the frames before,
    ``frames_per_run`` are taken: the one with the highest extrapolation, and others spread over the run. The
    last ``relaxed_per_run`` of these are relaxed by the model first: such minima are what a quench ends in,
    and DFT converges there in few steps.

    limits:       largest values of observables (:data:`mlh_driver.results.OBSERVABLES`)
    lower_limits: smallest values, such as ``{band_gap = 0.1}``
    apart_steps:  at least so many steps lie between two frames of a run
    engine:       other settings of :class:`~mlh_driver.engine_settings.EngineSettings`, such as
                  ``{solver = "dense", dtype = "float64"}``, for runs and errors
    """

    script: Path | None = None
    variables: dict[str, str | int | float] = Field(default={})
    ipi: Path | None = None
    temperatures_K: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(300.0, 900.0), min_length=1)
    steps: int = Field(default=200, gt=0)
    timestep_fs: float = Field(default=1.0, gt=0)
    frames_per_run: int = Field(default=1, ge=1)
    relaxed_per_run: int = Field(default=0, ge=0)
    apart_steps: int = Field(default=20, ge=1)
    limits: dict[str, float] = Field(default={"extrapolation": 1.5})
    lower_limits: dict[str, float] = Field(default={})
    electronic_temperature_K: float = Field(default=300.0, ge=0, description="of the model's electrons")
    engine: dict[str, Any] = Field(default={})
    rattle_A: float = Field(default=0.1, gt=0, description="standard deviation of the first displacements")
    strain: float = Field(default=0.02, ge=0, description="standard deviation of the first strains")

    @field_validator("engine")
    @classmethod
    def _is_not_set_elsewhere(cls, engine: dict[str, Any]) -> dict[str, Any]:
        if elsewhere := engine.keys() & {"model", "electronic_temperature_K", "threads"}:
            raise ValueError(f"{', '.join(sorted(elsewhere))}: there is another place for it")
        EngineSettings.of(**engine)
        return engine

    @field_validator("limits", "lower_limits")
    @classmethod
    def _are_observables(cls, limits: dict[str, float]) -> dict[str, float]:
        if unknown := sorted(limits.keys() - set(OBSERVABLES)):
            raise ValueError(f"{unknown} are no observables; there are {', '.join(OBSERVABLES)}")
        return limits

    @model_validator(mode="after")
    def _is_consistent(self) -> ExploreSettings:
        if self.relaxed_per_run > self.frames_per_run:
            raise ValueError(
                f"relaxed_per_run is {self.relaxed_per_run}, but frames_per_run only {self.frames_per_run}"
            )
        if self.script and self.ipi:
            raise ValueError("script and ipi are both given; remove one of them")
        if self.variables and not self.script:
            raise ValueError("variables are those of a LAMMPS script; name it by script")
        if self.script and not any(SEED in str(value) for value in self.variables.values()):
            raise ValueError(
                f'no variable of the script is "{SEED}", so every run would be the same; let the script take '
                f'the seed of its velocities from a variable, and write variables = {{seed = "{SEED}"}}'
            )
        return self


class LabelSettings(Settings):
    """The reference code, as in ``mlh-driver label``."""

    engine: str = "pyscf"
    threads: int = Field(default=1, ge=1)
    electronic_temperature_K: float = Field(default=0.0, ge=0)


class TargetSettings(Settings):
    """The run ends when the frames of a round, not yet trained on, are this good.

    finished: fraction of the runs of that round that have to come to their end
    """

    forces_rmse_meV_A: float = Field(default=100.0, gt=0)
    energy_meV_atom: float = Field(default=3.0, gt=0)
    finished: float = Field(default=0.0, ge=0, le=1)


class LearnSettings(Settings):
    """Everything that ``mlh-driver learn`` needs; see ``examples/tutorial/learn.toml``.

    seeds:            structures to start from, in any format that ASE reads
    training:         settings of ``mlh-driver train``; the run's own labels are added to its data
    output:           folder of everything that the run writes
    frames_per_round: new frames of each round; the last one is for validation, the others for training
    prefix:           of the names of new frames: ``r0_0`` is the first of the first round
    hold_out:         frames that are labelled for testing only and never trained on: every k-th of a round,
                      or patterns of names, such as ``["r1_3", "r2_*"]``
    fine_tune:        steps of the Hamiltonian and joint stages of every later round, as a fraction of those
                      in ``training``
    """

    seeds: tuple[Path, ...] = Field(min_length=1)
    training: Path
    output: Path
    rounds: int = Field(default=4, ge=1)
    frames_per_round: int = Field(default=6, ge=2)
    prefix: str = Field(default="r", pattern=r"^[A-Za-z][\w-]*$")
    hold_out: Annotated[int, Field(ge=2)] | tuple[str, ...] = ()
    fine_tune: float = Field(default=0.5, gt=0, le=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    explore: ExploreSettings = ExploreSettings()
    label: LabelSettings = LabelSettings()
    target: TargetSettings = TargetSettings()


def read_learn_settings(path: Path) -> LearnSettings:
    """Read a TOML file; paths in it are relative to the file. Raises InputError with all problems."""
    settings = read_toml(path, LearnSettings)
    base = path.resolve().parent
    explore = settings.explore
    inputs = {"script": explore.script, "ipi": explore.ipi}
    return settings.model_copy(
        update={
            "seeds": tuple(base / seed for seed in settings.seeds),
            "training": base / settings.training,
            "output": base / settings.output,
            "explore": explore.model_copy(update={key: base / file for key, file in inputs.items() if file}),
        }
    )

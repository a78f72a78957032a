"""Settings of an active-learning run, read from a TOML file; unknown keys are an error."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mlh_driver.settings import Settings, read_toml


class ExploreSettings(Settings):
    """How new frames are made.

    Without a model (first round): seeds, displaced at random and strained. With a model: Langevin dynamics
    from the seeds, one trajectory per frame asked for, temperatures in turn. A trajectory ends where the
    extrapolation indicator exceeds ``stop_at``; of the frames before, that with the highest one is taken.
    """

    temperatures_K: tuple[float, ...] = Field(default=(300.0, 900.0), min_length=1)
    steps: int = Field(default=200, gt=0)
    timestep_fs: float = Field(default=1.0, gt=0)
    rattle_A: float = Field(default=0.1, gt=0, description="standard deviation of the first displacements")
    strain: float = Field(default=0.02, ge=0, description="standard deviation of the first strains")
    stop_at: float = Field(default=1.5, gt=0)


class LabelSettings(Settings):
    """The reference code, as in ``mlh-driver label``."""

    engine: str = "pyscf"
    threads: int = Field(default=1, ge=1)


class TargetSettings(Settings):
    """The run ends when the frames of a round, not yet trained on, are this good."""

    forces_rmse_meV_A: float = Field(default=100.0, gt=0)
    energy_meV_atom: float = Field(default=3.0, gt=0)


class LearnSettings(Settings):
    """Everything that ``mlh-driver learn`` needs; see ``examples/tutorial/learn.toml``.

    seeds:            structures to start from, in any format that ASE reads
    training:         settings of ``mlh-driver train``; the run's own labels are added to its data
    output:           folder of everything that the run writes
    frames_per_round: new frames of each round; the last one is for validation, the others for training
    fine_tune:        steps of the Hamiltonian and joint stages of every later round, as a fraction of those
                      in ``training``
    """

    seeds: tuple[Path, ...] = Field(min_length=1)
    training: Path
    output: Path
    rounds: int = Field(default=4, ge=1)
    frames_per_round: int = Field(default=6, ge=2)
    fine_tune: float = Field(default=0.5, gt=0, le=1)
    seed: int = 0
    explore: ExploreSettings = ExploreSettings()
    label: LabelSettings = LabelSettings()
    target: TargetSettings = TargetSettings()


def read_learn_settings(path: Path) -> LearnSettings:
    """Read a TOML file; paths in it are relative to the file. Raises InputError with all problems."""
    settings = read_toml(path, LearnSettings)
    base = path.resolve().parent
    return settings.model_copy(
        update={
            "seeds": tuple(base / seed for seed in settings.seeds),
            "training": base / settings.training,
            "output": base / settings.output,
        }
    )

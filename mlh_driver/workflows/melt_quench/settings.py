"""Settings of a melt-quench, and the presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from mlh_driver.errors import InputError
from mlh_driver.interfaces.lammps.library import LARGEST_SEED
from mlh_driver.settings import Settings, validated

STAGES = ("melt", "quench", "anneal")
SILICA = "SiO2"


class RandomStart(Settings):
    """Atoms at random in a cubic cell.

    composition:   chemical formula
    n_atoms:       a multiple of the atoms of the formula
    density_g_cm3: the default is that of silica; other compositions need their own
    """

    composition: str = SILICA
    n_atoms: int = Field(default=96, ge=2)
    density_g_cm3: float = Field(default=2.2, gt=0)

    @model_validator(mode="after")
    def _has_its_density(self) -> RandomStart:
        if self.composition != SILICA and "density_g_cm3" not in self.model_fields_set:
            raise ValueError(
                f"the density of {self.composition} is not known; give it by --density, in g/cm3"
            )
        return self


class MeltQuenchSettings(Settings):
    """How a start is made a glass; defaults are those of the preset ``standard``.

    melt_ps at melt_temperature_K, then down to final_temperature_K by quench_K_ps, then anneal_ps there.

    ensemble:      ``nvt``, or ``npt`` at pressure_bar with an isotropic barostat (LAMMPS alone)
    engine:        which MD engine: ``lammps`` (Nose-Hoover thermostat) or ``ipi`` (Langevin)
    seed:          of the packing and of the velocities
    frame_steps:   steps between frames, and between lines of the log
    restart_steps: steps between restart files: so many are repeated at most after a kill
    relax_eV_A:    largest force at the end of the relaxation
    """

    melt_temperature_K: float = Field(default=3500.0, gt=0)
    final_temperature_K: float = Field(default=300.0, gt=0)
    melt_ps: float = Field(default=5.0, ge=0)
    quench_K_ps: float = Field(default=100.0, gt=0)
    anneal_ps: float = Field(default=5.0, ge=0)
    timestep_fs: float = Field(default=1.0, gt=0)
    ensemble: Literal["nvt", "npt"] = "nvt"
    pressure_bar: float = 0.0
    engine: Literal["lammps", "ipi"] = "lammps"
    seed: int = Field(default=1, ge=1, le=LARGEST_SEED)
    frame_steps: int = Field(default=50, ge=1)
    restart_steps: int = Field(default=100, ge=1)
    relax_eV_A: float = Field(default=0.05, gt=0)

    @model_validator(mode="after")
    def _is_possible(self) -> MeltQuenchSettings:
        if self.final_temperature_K >= self.melt_temperature_K:
            raise ValueError(
                f"final_temperature_K is {self.final_temperature_K:g}, and has to be below "
                f"melt_temperature_K, {self.melt_temperature_K:g}; change one of them"
            )
        if self.engine == "ipi" and self.ensemble == "npt":
            raise ValueError("ensemble npt runs in LAMMPS only; choose engine lammps or ensemble nvt")
        if self.ensemble == "nvt" and self.pressure_bar:
            raise ValueError(
                f"pressure_bar is {self.pressure_bar:g}, but the volume is constant; choose ensemble npt, or "
                "leave the pressure out"
            )
        return self

    @property
    def lengths(self) -> dict[str, int]:
        """Steps of each stage, one at least."""
        quench_ps = (self.melt_temperature_K - self.final_temperature_K) / self.quench_K_ps
        times_ps = (self.melt_ps, quench_ps, self.anneal_ps)
        return {
            stage: max(round(1e3 * time_ps / self.timestep_fs), 1)
            for stage, time_ps in zip(STAGES, times_ps, strict=True)
        }

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(self.lengths.values())

    def stage_at(self, step: int) -> str:
        """The stage to which a step belongs; its last step counts as its own."""
        end = 0
        for stage, length in self.lengths.items():
            end += length
            if step <= end:
                return stage
        return STAGES[-1]


PRESETS: dict[str, dict[str, float]] = {
    "quick": {"melt_ps": 2.0, "quench_K_ps": 1000.0, "anneal_ps": 1.0},
    "standard": {"melt_ps": 5.0, "quench_K_ps": 100.0, "anneal_ps": 5.0},
    "slow": {"melt_ps": 10.0, "quench_K_ps": 10.0, "anneal_ps": 10.0},
}
"""``quick`` tries things out; ``standard`` is the rate of most melt-quenches with DFT; ``slow`` is nearer to
those with classical potentials, and leaves fewer defects."""


def preset(name: str, changes: Mapping[str, Any]) -> MeltQuenchSettings:
    """A preset, with other values where ``changes`` has some. Raises InputError for those that cannot be."""
    if name not in PRESETS:
        raise InputError(f"there is no preset {name!r}; choose {', '.join(PRESETS)}")
    return validated(MeltQuenchSettings, {**PRESETS[name], **changes}, f"preset {name}")

"""The run in LAMMPS: its input, the restart file where it goes on, and what it wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from mlh_driver.errors import InputError
from mlh_driver.files import replacing
from mlh_driver.force_engine import ForceEngine
from mlh_driver.interfaces.lammps import open_lammps, read_log, run_script
from mlh_driver.structures import DUMP_FRAME, bare, read_frames, read_trajectories, write_lammps_data
from mlh_driver.system import Array
from mlh_driver.workflows.melt_quench.settings import MeltQuenchSettings

TEMPLATE = Path(__file__).parent / "inputs" / "in.melt_quench"
SCRIPT, FRAMES = "in.melt_quench", "melt_quench.lammpstrj"
RESTARTS = ("melt_quench.restart", "melt_quench.restart.a", "melt_quench.restart.b")
END_OF_RESTART = b"LammpS RestartT\0"
"""Without it a restart file is not whole."""


@dataclass(frozen=True)
class LammpsRun:
    """Of the settings, in a folder."""

    folder: Path
    settings: MeltQuenchSettings

    def write_inputs(self, start: Atoms) -> None:
        """The template with the values of the settings, and the structure."""
        elements = sorted(set(start.symbols))
        write_lammps_data(start, self.folder / "start.data", elements)
        settings = self.settings
        values: dict[str, str | int | float] = {
            **settings.lengths,
            "data": "start.data",
            "Tmelt": settings.melt_temperature_K,
            "Tend": settings.final_temperature_K,
            "dt": settings.timestep_fs / 1e3,
            "ensemble": settings.ensemble,
            "pressure": settings.pressure_bar,
            "seed": settings.seed,
            "every": settings.frame_steps,
            "save": settings.restart_steps,
            "elements": f'"{" ".join(elements)}"',
        }
        script = TEMPLATE.read_text()
        for name, value in values.items():
            script = re.sub(rf'(?m)^(variable {name} +index) +("[^"]*"|\S+)', rf"\1 {value}", script)
        (self.folder / SCRIPT).write_text(script)

    @property
    def by_hand(self) -> str:
        return f"mlh-driver lammps -in {SCRIPT}"

    def restart(self) -> tuple[Path | None, int]:
        """The whole restart file of the latest step, and this step; None and 0 if there is none."""
        found = [(step, path) for path in self._restarts() if (step := _step_of(path)) is not None]
        step, latest = max(found, default=(0, None))
        return latest, step

    def _restarts(self) -> Iterator[Path]:
        for name in RESTARTS:
            path = self.folder / name
            if path.exists() and path.read_bytes().endswith(END_OF_RESTART):
                yield path

    def carry_out(self, engine: ForceEngine) -> None:
        """From the latest restart file, or from the start, to the end."""
        path, step = self.restart()
        if step < self.settings.steps:  # at the end nothing is written a second time
            self._forget_from(step, resumed=path is not None)
        arguments = ["-screen", "none", "-log", f"log.{step}.lammps"]
        if path is not None:
            arguments += ["-var", "resume", "yes", "-var", "restart", path.name]
            if path.name == RESTARTS[1]:  # which is not to be written over first
                arguments += ["-var", "first", RESTARTS[2], "-var", "second", RESTARTS[1]]
        with chdir(self.folder):
            run_script(SCRIPT, engine, arguments=arguments)

    def _forget_from(self, step: int, *, resumed: bool) -> None:
        """Cut off the frames that will be written again, and logs that began later."""
        frames = self.folder / FRAMES
        if frames.exists():
            texts = frames.read_text().split(DUMP_FRAME)[1:] if resumed else []
            kept = [DUMP_FRAME + text for text in texts if int(text.split("\n", 1)[0]) < step]
            with replacing(frames) as partial:
                partial.write_text("".join(kept))
        for first, log in self._logs():
            if first >= step:
                log.unlink()

    def _logs(self) -> list[tuple[int, Path]]:
        """Logs, each with the step at which it begins, in their order."""
        found = [(re.fullmatch(r"log\.(\d+)\.lammps", log.name), log) for log in self.folder.iterdir()]
        logs = [(int(name[1]), log) for name, log in found if name]
        by_hand = self.folder / "log.lammps"
        return sorted([*logs, *([(0, by_hand)] if by_hand.exists() else [])])

    def columns(self) -> dict[str, Array]:
        """What was logged, one line a step: Step, Temp, PotEng, gap, extrapolation and so on.

        Lines of other steps, at which a resumed run begins, are left out.
        """
        parts: list[dict[str, Array]] = []
        for first, log in self._logs():
            try:
                lines = read_log(log)
            except InputError:  # killed before its first line, or begun at the last step
                continue
            parts = [{name: values[part["Step"] < first] for name, values in part.items()} for part in parts]
            parts.append(lines)
        if not parts:
            raise InputError(f"{self.folder} has no log of a run; start it with 'mlh-driver melt-quench'")
        merged = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        steps = merged["Step"]
        last = np.append(np.diff(steps) != 0, True)  # stages begin with the line that ended the last
        ends = np.cumsum(list(self.settings.lengths.values()))
        usual = (steps % self.settings.frame_steps == 0) | np.isin(steps, ends)
        return {name: values[last & usual] for name, values in merged.items()}

    def frames(self) -> Iterator[tuple[int, Atoms]]:
        """Step and structure of all frames that were written."""
        (frames,) = read_trajectories([self.folder / FRAMES]).values()
        for atoms in frames:
            yield atoms.info["timestep"], bare(atoms, wrapped=True)

    def final(self) -> Atoms:
        """The structure at the end of a finished run."""
        (atoms,) = read_frames([self.folder / "glass.data"]).values()
        return bare(atoms, wrapped=True)


def _step_of(path: Path) -> int | None:
    """The step at which LAMMPS wrote a restart file, None for one that it cannot read."""
    lmp = open_lammps(["-log", "none", "-screen", "none", "-nocite"])
    try:
        with chdir(path.parent):
            lmp.command(f"read_restart {path.name}")
        return int(lmp.extract_global("ntimestep"))
    except Exception:  # the wrapper raises a bare Exception
        return None
    finally:
        lmp.close()

"""The run in i-PI: its two inputs, the checkpoint where it goes on, and what it wrote.

i-PI has an input for the melt and one for the quench, whose ramp ends in the anneal. Each ends with the file
``RESTART``, which becomes the checkpoint of its stage. i-PI ends by itself when its client dies.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import ase.io
import numpy as np
from ase import Atoms
from ase.cell import Cell

from mlh_driver.errors import InputError
from mlh_driver.files import replacing
from mlh_driver.force_engine import ForceEngine
from mlh_driver.interfaces.sockets.output import read_properties, read_table
from mlh_driver.interfaces.sockets.run import read_ipi_input, run_input
from mlh_driver.interfaces.sockets.template import Template
from mlh_driver.structures import bare
from mlh_driver.system import Array
from mlh_driver.workflows.melt_quench.settings import MeltQuenchSettings

TEMPLATES = Path(__file__).parent / "inputs"
START, RUN = "init.xyz", "run.sh"
OBSERVABLES = {"gap": 0, "extrapolation": 2, "charge_deviation": 3}
"""Columns of the file of observables."""
RECORDS = {
    "out": re.compile(r"(?m)^(?:#.*| *(\S+) .*)\n"),
    "observables_0": re.compile(r"(?m)^ *#\S+ Step: +(\d+).*\n.*\n"),
    "positions_0.xyz": re.compile(r"(?m)^ *\d+\n#.* Step: +(\d+) .*\n(?: *[A-Z].*\n)+"),
}
"""Of each output: a line or frame with its step; what comes before the first step has none."""


@dataclass(frozen=True)
class IpiRun:
    """Of the settings, in a folder."""

    folder: Path
    settings: MeltQuenchSettings

    def write_inputs(self, start: Atoms) -> None:
        """The templates with the values of the settings, and the structure."""
        rotated = start.copy()
        rotated.set_cell(start.cell.standard_form()[0], scale_atoms=True)  # the only orientation i-PI takes
        cell = " ".join(f"{value:.14f}" for value in rotated.cell.cellpar())
        comment = f"# CELL(abcABC): {cell} cell{{angstrom}} positions{{angstrom}}"
        ase.io.write(self.folder / START, rotated, format="xyz", comment=comment, fmt="%20.14f")
        settings = self.settings
        texts = {
            "prng/seed": settings.seed,
            ".//velocities": settings.melt_temperature_K,
            "system/ensemble/temperature": settings.melt_temperature_K,
            ".//timestep": settings.timestep_fs,
            ".//t_start": settings.melt_temperature_K,
            ".//t_end": settings.final_temperature_K,
            ".//t_ramp/total_steps": settings.lengths["quench"],
        }
        strides = {
            "properties": (settings.frame_steps,),
            "trajectory": (settings.frame_steps,) * 2,
            "checkpoint": (settings.restart_steps, settings.restart_steps * 3 // 2),
        }
        for stage, length in self._lengths.items():
            xml = read_ipi_input(TEMPLATES / f"{stage}.xml")
            for place, value in {"total_steps": length, **texts}.items():
                for element in xml.iterfind(place):
                    element.text = str(value)
            for kind, values in strides.items():
                for element, stride in zip(xml.findall(f"output/{kind}"), values, strict=True):
                    element.set("stride", str(stride))
            xml.write(self.folder / f"{stage}.xml")
        shutil.copy(TEMPLATES / RUN, self.folder)

    @property
    def by_hand(self) -> str:
        return f"bash {RUN}"

    @property
    def _lengths(self) -> dict[str, int]:
        """Steps of each input."""
        lengths = self.settings.lengths
        return {"melt": lengths["melt"], "quench": lengths["quench"] + lengths["anneal"]}

    def restart(self) -> tuple[Path | None, int]:
        """The checkpoint where the run goes on, and its step in all; None and 0 if there is none."""
        path, step = self._checkpoint("quench")
        if path is not None:
            return path, self._lengths["melt"] + step
        return self._checkpoint("melt")

    def _checkpoint(self, stage: str) -> tuple[Path | None, int]:
        """The latest of a stage that is whole, and its step in the stage."""
        names = (f"{stage}.restart", f"{stage}.restart.b", "RESTART")
        found = [
            (step, self.folder / name) for name in names if (step := self._step(name, stage)) is not None
        ]
        step, path = max(found, default=(0, None))
        return path, step

    def _step(self, name: str, stage: str) -> int | None:
        """The step of a checkpoint; None if it is not there, not whole, or of another stage."""
        try:
            root = ElementTree.parse(self.folder / name).getroot()
        except (FileNotFoundError, ElementTree.ParseError):
            return None
        output = root.find("output")
        is_of_stage = output is not None and output.get("prefix") == stage
        return int(root.findtext("step", "0")) if is_of_stage else None

    def carry_out(self, engine: ForceEngine) -> None:
        """From the latest checkpoint, or from the start, to the end."""
        template = Template.read(self.folder / START)
        for stage, length in self._lengths.items():
            path, step = self._checkpoint(stage)
            if step < length:
                self._forget_after(stage, step if path else -1)
                run_input(path or self.folder / f"{stage}.xml", engine, template)
            self._close(stage, length)

    def _close(self, stage: str, length: int) -> None:
        """Keep the checkpoint of the end of a stage, from which the next one starts."""
        path, step = self._checkpoint(stage)
        if path is None or step < length:
            raise InputError(
                f"i-PI ended the {stage} at step {step} of {length}; {self.folder}/i-pi.log says why. The "
                "same command goes on from there"
            )
        kept = self.folder / f"{stage}.restart"
        if path != kept:
            with replacing(kept) as partial:
                shutil.copy(path, partial)
        for backup in self.folder.glob("#*#"):  # of the checkpoints that the stage began with
            backup.unlink()

    def _forget_after(self, stage: str, step: int) -> None:
        """Cut off what i-PI will write again."""
        for ending, record in RECORDS.items():
            path = self.folder / f"{stage}.{ending}"
            if path.exists():
                found = record.finditer(path.read_text())
                kept = [m[0] for m in found if m[1] is None or float(m[1]) <= step]
                with replacing(path) as partial:
                    partial.write_text("".join(kept) if step >= 0 else "")

    def columns(self) -> dict[str, Array]:
        """What was logged, by LAMMPS' names: Step, Temp, PotEng, Econserve, gap, extrapolation and so on.

        The first line of the quench is the last of the melt and left out. i-PI's temperatures there are those
        of 3 N degrees of freedom, although the center of mass is at rest: its ramp cannot be told.
        """
        n_atoms = int((self.folder / START).read_text().split(None, 1)[0])
        factors = {"melt": 1.0, "quench": n_atoms / max(1, n_atoms - 1)}
        parts: list[dict[str, Array]] = []
        for stage, start in self._stages():
            out = read_properties(self.folder / f"{stage}.out")
            path = self.folder / f"{stage}.observables_0"
            observables = read_table(path.read_text() if path.exists() else "")
            if not len(observables) or not len(out["step"]):  # i-PI waits for its first forces
                continue
            rows = {"Step": out["step"] + start, "Temp": factors[stage] * out["temperature"]}
            rows |= {"PotEng": out["potential"], "Econserve": out["conserved"]}
            rows |= {name: observables[:, k] for name, k in OBSERVABLES.items()}
            written = min(len(values) for values in rows.values())  # the last line of one file may be missing
            first = int(bool(parts))
            parts.append({name: values[first:written] for name, values in rows.items()})
        if not parts:
            raise InputError(f"{self.folder} has no output of a run; start it with 'mlh-driver melt-quench'")
        return {name: np.concatenate([rows[name] for rows in parts]) for name in parts[0]}

    def frames(self) -> Iterator[tuple[int, Atoms]]:
        """Step and structure of all frames that were written."""
        for stage, start in self._stages():
            path = self.folder / f"{stage}.positions_0.xyz"
            comments = re.findall(r"(?m)^# CELL\(abcABC\): (.*) Step: +(\d+)", path.read_text())
            for (cell, step), atoms in zip(comments, ase.io.iread(path, format="xyz"), strict=True):
                assert isinstance(atoms, Atoms)
                atoms.cell = Cell.fromcellpar([float(word) for word in cell.split()])
                if not start or int(step):  # the first of the quench is the last of the melt
                    yield int(step) + start, bare(atoms, wrapped=True)

    def _stages(self) -> Iterator[tuple[str, int]]:
        """Stages that have begun, and the number of steps before each."""
        for stage, start in (("melt", 0), ("quench", self._lengths["melt"])):
            if (self.folder / f"{stage}.out").exists():
                yield stage, start

    def final(self) -> Atoms:
        """The structure at the end of a finished run, whose cell is that of the start."""
        checkpoint = Template.read(self.folder / "quench.restart")
        start = self.folder / START
        cell = Cell.fromcellpar([float(word) for word in start.read_text().split("\n")[1].split()[2:8]])
        return bare(Atoms(checkpoint.numbers, checkpoint.positions, cell=cell), wrapped=True)

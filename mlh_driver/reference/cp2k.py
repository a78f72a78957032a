"""CP2K as reference: write the input, run it, parse energy, forces, stress, S and the Kohn-Sham matrix.

The default settings are those of all labels of the project (PBE, GTH, DZVP-MOLOPT-SR-GTH, Gamma point,
closed shell, 800 Ry); energies are only comparable between equal settings. At an electronic temperature
T_e the energy is Mermin's free energy E - T_e S_e (Phys. Rev. 137, A1441 (1965)); forces are its derivative.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from mlh_driver.constants import BOHR_A, GPA_eV_A3, HARTREE_eV
from mlh_driver.errors import InputError, StructureError
from mlh_driver.reference.constants import FULL_BASIS, VALENCE_ELECTRONS, no_labels_of
from mlh_driver.reference.labeler import METHOD, Calculation, LabelingError, UnconvergedError
from mlh_driver.runtime import sigterm_interrupts

_PROJECT = "label"
#: The settings that define the reference; the others change cost and robustness only.
REFERENCE_KEYS = ("cutoff_Ry", "rel_cutoff_Ry", "eps_default", "eps_scf")
#: The fastest routine for densities on grids in builds for any x86-64, such as Debian's.
_GRID_BACKEND = "REF"
#: ScaLAPACK, which is LAPACK on one process: 0.5 s for 96 atoms with OpenBLAS, where ELPA takes 2 s.
_EIGENSOLVER = "SL"
_M_ORDER_PYSCF = {"px": 0, "py": 1, "pz": 2}


#: A coarse calculation: H within 0.2 meV (2 meV on site), energies and forces not of use. It also prepares
#: the orbitals of a finer one.
DRAFT = {"cutoff_Ry": 200.0, "rel_cutoff_Ry": 30.0, "eps_default": 1e-7, "eps_scf": 3e-5}


@dataclass(frozen=True)
class Cp2kSettings:
    """How CP2K is run.

    The first four define the reference (``REFERENCE_KEYS``). A self-consistent field is first converged at
    the settings of ``DRAFT``. Its orbitals start the one that counts, close to the solution, which then
    takes a few expensive steps instead of 13 (glass) to 35 (liquid), and where the energy is variational.
    Both mix by Broyden's method; DIIS oscillates where the gap closes.

    electronic_temperature_K: of Fermi-Dirac occupations, 0 for closed shells; small gaps need it
    """

    cutoff_Ry: float = 800.0
    rel_cutoff_Ry: float = 60.0
    eps_default: float = 1e-10
    eps_scf: float = 2e-6
    stress: bool = True
    max_scf: int = 80
    mixing_alpha: float = 0.4
    n_broyden: int = 8
    electronic_temperature_K: float = 0.0
    command: str = "cp2k.psmp"
    threads: int = 1

    def draft(self) -> Cp2kSettings:
        """The coarse calculation."""
        return replace(self, **DRAFT, stress=False)  # type: ignore[arg-type]


class Cp2kLabeler:
    """CP2K as a labeler; ``cp2k.psmp`` must be in PATH."""

    name = "cp2k"

    def __init__(self, settings: Cp2kSettings | None = None) -> None:
        self.settings = settings or Cp2kSettings()

    def reference(self) -> dict[str, Any]:
        """The settings that determine energies, for the data set."""
        return {"engine": self.name} | METHOD | {key: getattr(self.settings, key) for key in REFERENCE_KEYS}

    def check_installed(self) -> None:
        """Raise InputError if the program is not there: no structure is to blame for that."""
        if shutil.which(self.settings.command) is None:
            raise _not_installed(self.settings)

    def calculate(self, atoms: Atoms, workdir: Path) -> Calculation:
        """One single-point calculation of a fully periodic cell in ``workdir`` (created, overwritten)."""
        settings = self.settings
        workdir.mkdir(parents=True, exist_ok=True)
        for stale in workdir.glob(f"{_PROJECT}[-.]*"):
            stale.unlink()
        prepared = settings.cutoff_Ry > DRAFT["cutoff_Ry"]
        if prepared:
            _execute(workdir, _input(atoms, settings.draft(), prepared=False, final=False), settings)
            parse_convergence((workdir / f"{_PROJECT}.out").read_text())
        _execute(workdir, write_input(atoms, settings, prepared), settings)
        return read_result(workdir, len(atoms), settings)


def write_input(atoms: Atoms, settings: Cp2kSettings, prepared: bool) -> str:
    """The CP2K input for ``atoms`` (positions and cell in Å); ``prepared`` if a restart file has orbitals."""
    return _input(atoms, settings, prepared=prepared, final=True)


_PRINT_MATRICES = """    &PRINT
      &AO_MATRICES
        OVERLAP T
        KOHN_SHAM_MATRIX T
        NDIGITS 13
        FILENAME matrices
        &EACH
          QS_SCF 0
        &END EACH
      &END AO_MATRICES
    &END PRINT
"""


def _scf_block(settings: Cp2kSettings, prepared: bool) -> str:
    return f"""    &SCF
      SCF_GUESS {"RESTART" if prepared else "ATOMIC"}
      EPS_SCF {settings.eps_scf:.1E}
      MAX_SCF {settings.max_scf}
      &DIAGONALIZATION
        ALGORITHM STANDARD
      &END DIAGONALIZATION
      &MIXING
        METHOD BROYDEN_MIXING
        ALPHA {settings.mixing_alpha}
        NBROYDEN {settings.n_broyden}
      &END MIXING
{_smearing_block(settings)}    &END SCF"""


_SMEARING = """      ADDED_MOS -1
      &SMEAR ON
        METHOD FERMI_DIRAC
        ELECTRONIC_TEMPERATURE [K] {temperature}
      &END SMEAR
"""


def _smearing_block(settings: Cp2kSettings) -> str:
    """Fermi-Dirac occupations of all orbitals, so that none that has electrons is left out."""
    if not settings.electronic_temperature_K:
        return ""
    return _SMEARING.format(temperature=settings.electronic_temperature_K)


def _input(atoms: Atoms, settings: Cp2kSettings, *, prepared: bool, final: bool) -> str:
    """An input file; one that is not ``final`` leaves orbitals only."""
    if not atoms.pbc.all():
        raise StructureError(f"the cell must be periodic in three directions, not pbc={atoms.pbc.tolist()}")
    stress = "ANALYTICAL" if settings.stress else "NONE"
    return f"""&GLOBAL
  PROJECT {_PROJECT}
  RUN_TYPE {"ENERGY_FORCE" if final else "ENERGY"}
  PRINT_LEVEL LOW
  PREFERRED_DIAG_LIBRARY {_EIGENSOLVER}
  &GRID
    BACKEND {_GRID_BACKEND}
  &END GRID
&END GLOBAL
&FORCE_EVAL
  METHOD QUICKSTEP
  STRESS_TENSOR {stress}
  &DFT
    BASIS_SET_FILE_NAME BASIS_MOLOPT
    POTENTIAL_FILE_NAME GTH_POTENTIALS
    &MGRID
      CUTOFF {settings.cutoff_Ry}
      REL_CUTOFF {settings.rel_cutoff_Ry}
    &END MGRID
    &QS
      EPS_DEFAULT {settings.eps_default:.1E}
    &END QS
{_scf_block(settings, prepared)}
    &XC
      &XC_FUNCTIONAL PBE
      &END XC_FUNCTIONAL
    &END XC
{_PRINT_MATRICES if final else ""}  &END DFT
  &PRINT
    &FORCES
      NDIGITS 12
      FILENAME forces
    &END FORCES
    &STRESS_TENSOR
      FILENAME stress
    &END STRESS_TENSOR
  &END PRINT
  &SUBSYS
    &CELL
{_cell_block(atoms)}
    &END CELL
    &COORD
{_coordinate_block(atoms)}
    &END COORD
{_kind_blocks(atoms)}
  &END SUBSYS
&END FORCE_EVAL
"""


def read_result(workdir: str | Path, n_atoms: int, settings: Cp2kSettings) -> Calculation:
    """Parse a finished run; raise ``UnconvergedError`` or ``LabelingError`` if it cannot be trusted."""
    workdir = Path(workdir)
    text = (workdir / f"{_PROJECT}.out").read_text()
    n_scf_steps = parse_convergence(text)
    matrices = (workdir / f"{_PROJECT}-matrices-1_0.Log").read_text()
    stress_file = workdir / f"{_PROJECT}-stress-1_0.stress_tensor"
    return Calculation(
        energy=parse_energy(text),
        forces=parse_forces((workdir / f"{_PROJECT}-forces-1_0.xyz").read_text(), n_atoms),
        stress=parse_stress(stress_file.read_text()) if settings.stress else None,
        H=parse_matrix(matrices, "KOHN-SHAM MATRIX") * HARTREE_eV,
        S=parse_matrix(matrices, "OVERLAP MATRIX"),
        n_scf_steps=n_scf_steps,
        version=parse_version(text),
        electronic_temperature_K=settings.electronic_temperature_K,
    )


def parse_convergence(text: str) -> int:
    """Number of SCF steps of a converged run."""
    match = re.search(r"SCF run converged in\s+(\d+) steps", text)
    if match is None or "SCF run NOT converged" in text:
        raise UnconvergedError(
            "CP2K's output shows no converged SCF; drop the structure, or label it from Python with "
            "Cp2kSettings(max_scf=..., mixing_alpha=...)"
        )
    return int(match.group(1))


def parse_version(text: str) -> str:
    """The version that the main output names, such as "CP2K version 2023.1"."""
    match = re.search(r"CP2K\| version string:\s+(.*\S)", text)
    return match.group(1) if match else "CP2K of unknown version"


def parse_energy(text: str) -> float:
    """Total energy in eV from the main output."""
    match = re.search(r"ENERGY\| Total FORCE_EVAL .*\s(\S+)\s*$", text, re.MULTILINE)
    if match is None:
        raise LabelingError("no 'ENERGY| Total FORCE_EVAL' line in CP2K's output; the run ended early")
    return float(match.group(1)) * HARTREE_eV


def parse_forces(text: str, n_atoms: int) -> np.ndarray:
    """Forces (n_atoms, 3) in eV/Å from the file of FORCE_EVAL/PRINT/FORCES, as of 2023 or of 2025."""
    _unit(text, r"forces (?:in )?", {"a.u.": 1.0, "hartree/bohr": 1.0})
    atom = r"(?:FORCES\|\s+\d+|\d+\s+\d+\s+[A-Z][a-z]?)"  # before x, y, z; after them the norm since 2025
    rows = re.findall(rf"^\s*{atom}\s+(\S+)\s+(\S+)\s+(\S+)(?:\s+\S+)?\s*$", text, re.MULTILINE)
    if len(rows) != n_atoms:
        raise LabelingError(f"CP2K printed forces of {len(rows)} atoms, expected {n_atoms}")
    return np.array(rows, dtype=float) * (HARTREE_eV / BOHR_A)


def parse_stress(text: str) -> np.ndarray:
    """Stress (3, 3) in eV/Å^3 with ASE's sign; CP2K's is positive under compression, in GPa or (2025) bar."""
    rows = re.findall(r"^ STRESS\|\s+[xyz]\s+(\S+)\s+(\S+)\s+(\S+)\s*$", text, re.MULTILINE)[:3]
    if len(rows) != 3:
        raise LabelingError("no stress tensor in CP2K's stress file; run with Cp2kSettings(stress=True)")
    unit = _unit(text, "stress tensor ", {"gpa": 1.0, "bar": 1e-4})
    return -np.array(rows, dtype=float) * (unit * GPA_eV_A3)


def _unit(text: str, title: str, known: dict[str, float]) -> float:
    """What the unit in brackets behind a title stands for."""
    match = re.search(rf"{title}\[(\S+)\]", text, re.IGNORECASE)
    unit = match.group(1).lower() if match else "none"
    if unit not in known:
        raise LabelingError(f"CP2K's {title.split()[0]} are in unit {unit}, not {' or '.join(known)}")
    return known[unit]


def parse_matrix(text: str, title: str) -> np.ndarray:
    """The last matrix called ``title`` of an AO_MATRICES file, (n, n), in PySCF's orbital order."""
    start = text.rfind(f" {title}\n")
    if start < 0:
        raise LabelingError(f"no '{title}' in CP2K's matrix file; the run ended early or AO_MATRICES was off")
    labels: dict[int, tuple[int, str]] = {}
    entries: list[tuple[int, list[int], list[float]]] = []
    for row, atom, orbital, columns, values in _matrix_rows(text[start + len(title) + 1 :]):
        labels[row] = (atom, orbital)
        entries.append((row, columns, values))
    matrix = np.full((len(labels), len(labels)), np.nan)
    for row, columns, values in entries:
        matrix[row, columns] = values
    if np.isnan(matrix).any():
        raise LabelingError(
            f"the {title} of CP2K has {np.isnan(matrix).sum()} missing elements; is the file cut?"
        )
    order = pyscf_order([labels[i] for i in range(len(labels))])
    return matrix[np.ix_(order, order)]


def pyscf_order(labels: list[tuple[int, str]]) -> np.ndarray:
    """Permutation from CP2K's orbitals (atom, '3py') to PySCF's: p shells from y, z, x to x, y, z.

    Other shells are ordered m = -l..l by both codes and stay in place.
    """
    keys = []
    for i, (_, orbital) in enumerate(labels):
        m_label = orbital.lstrip("0123456789")
        # CP2K prints y, z, x in turn: the shell starts at its y member.
        cp2k_rank = {"py": 0, "pz": 1, "px": 2}.get(m_label, 0)
        keys.append((i - cp2k_rank, _M_ORDER_PYSCF.get(m_label, 0)))
    return np.array(sorted(range(len(labels)), key=keys.__getitem__), dtype=int)


def _matrix_rows(text: str) -> Iterator[tuple[int, int, str, list[int], list[float]]]:
    """Rows (row, atom, orbital label, columns, values), zero-based, up to the next matrix's title."""
    columns: list[int] = []
    for line in text.splitlines():
        fields = line.split()
        if not fields:
            continue
        if fields[-1].isdigit():
            columns = [int(field) - 1 for field in fields]
        elif fields[0].isdigit():
            yield int(fields[0]) - 1, int(fields[1]) - 1, fields[3], columns, [float(v) for v in fields[4:]]
        else:
            return


def _execute(workdir: Path, text: str, settings: Cp2kSettings) -> None:
    """Run the input ``text``; files that CP2K writes anew are removed first, it may append to them."""
    for stale in [*workdir.glob(f"{_PROJECT}-*-1_0*"), workdir / f"{_PROJECT}.out"]:
        stale.unlink(missing_ok=True)
    (workdir / f"{_PROJECT}.inp").write_text(text)
    command = [settings.command, "-i", f"{_PROJECT}.inp", "-o", f"{_PROJECT}.out"]
    environment = os.environ | {"OMP_NUM_THREADS": str(settings.threads)}
    try:
        with sigterm_interrupts():  # which ends the program with us
            finished = subprocess.run(command, cwd=workdir, env=environment, capture_output=True, check=False)
    except FileNotFoundError:
        raise _not_installed(settings) from None
    if finished.returncode != 0:
        output = workdir / f"{_PROJECT}.out"
        text = output.read_text() if output.exists() else ""
        if "SCF run NOT converged" in text:
            parse_convergence(text)
        message = _abort_message(text) or finished.stderr.decode(errors="replace")[-500:] or text[-1000:]
        raise LabelingError(f"CP2K ended with code {finished.returncode}: {message}")


def _not_installed(settings: Cp2kSettings) -> InputError:
    return InputError(f"there is no {settings.command!r} in PATH: install CP2K (Debian: apt install cp2k)")


def _abort_message(text: str) -> str:
    """The words in the box that CP2K prints when it gives up, right of the picture."""
    _, _, box = text.partition("[ABORT]")
    lines = box.partition("*" * 40)[0].splitlines()[1:]
    return " ".join(line[10:].strip(" *") for line in lines).strip()


def _cell_block(atoms: Atoms) -> str:
    return "\n".join(
        f"      {name} {x:.14f} {y:.14f} {z:.14f}"
        for name, (x, y, z) in zip("ABC", atoms.cell.array, strict=True)
    )


def _coordinate_block(atoms: Atoms) -> str:
    return "\n".join(
        f"      {symbol} {x:.14f} {y:.14f} {z:.14f}"
        for symbol, (x, y, z) in zip(atoms.symbols, atoms.positions, strict=True)
    )


def _kind_blocks(atoms: Atoms) -> str:
    blocks = []
    for number in sorted(set(atoms.numbers.tolist())):
        if number not in VALENCE_ELECTRONS:
            raise StructureError(no_labels_of(chemical_symbols[number]))
        blocks.append(
            f"    &KIND {chemical_symbols[number]}\n"
            f"      BASIS_SET {FULL_BASIS}\n"
            f"      POTENTIAL GTH-PBE-q{VALENCE_ELECTRONS[number]}\n"
            f"    &END KIND"
        )
    return "\n".join(blocks)

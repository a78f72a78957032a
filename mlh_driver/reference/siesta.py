"""Finished runs of SIESTA, read through sisl and downfolded, as labelled structures.

A run is named by its input file; the results lie beside it:

====================  =================================================================================
LABEL.TSHS or .HSX    H, S, atoms and cell (``TS.HS.Save`` or ``SaveHS``); folded to Gamma here
SPECIES.ion.xml       orbitals, and their occupations in the neutral atom
LABEL.FA              forces
standard output       energy, stress, electrons, k points and convergence: ``RUN.out`` or ``LABEL.out``
====================  =================================================================================

The minimal basis is the first zeta of the s and the p valence shell of every atom, a subset of SIESTA's own
basis. SIESTA orders p shells m = -1, 0, 1. Its real harmonics, and sisl's, carry the Condon-Shortley sign
(-1)^m: they are -y, z, -x.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from mlh_driver.data import LabelledStructure
from mlh_driver.errors import InputError
from mlh_driver.reference.downfold import downfold
from mlh_driver.system import Array, System

#: Files that name a run, or look as if they did.
SUFFIXES = (".fdf", ".TSHS", ".HSX")

#: Electrons times their temperature may be this much of a closed shell.
SMEARED_eV = 1e-3

#: SIESTA's m of s and of px, py, pz, with the sign that turns its harmonic into that orbital.
_HARMONICS = {0: ((0, 1.0),), 1: ((1, -1.0), (-1, -1.0), (0, 1.0))}

_NUMBERS = r"\s+(\S+)\s+(\S+)\s+(\S+)\s*\n"
_STRESS = r"siesta: Stress tensor \(static\) \(eV/Ang\*\*3\):\s*\n" + 3 * ("siesta:" + _NUMBERS)


def from_siesta_run(path: Path) -> LabelledStructure:
    """A closed-shell run at the Gamma point, from its input file (.fdf); called after its folder and file.

    Raises InputError if sisl or a file is missing, or the run does not fit the minimal basis.
    """
    sisl = _import_sisl()
    if path.suffix != ".fdf" or not path.is_file():
        raise InputError(
            f"{path} is not an input file of SIESTA; give the run's .fdf, with its results beside it"
        )
    label, names = _read_input(sisl, path)
    output = _read_output(_beside(path, [f"{path.stem}.out", f"{label}.out"], "SIESTA's standard output"))
    atoms = _read_atoms(sisl, path, names)
    hamiltonian = _read_hamiltonian(sisl, path, label, atoms)
    minimal, electrons = _minimal_basis(atoms)
    n_electrons = _find_number(
        "Total number of electrons", r"Total number of electrons:\s+(\S+)", output, path
    )
    if abs(electrons - n_electrons) > 0.01 or round(n_electrons) % 2:
        raise InputError(
            f"{path}: the run has {n_electrons:g} electrons, the s and p valence shells of its neutral atoms "
            f"hold {electrons:g}; semicore and d electrons, charged cells and odd numbers are not supported"
        )
    energy = _find_number("Total", r"siesta: +Total = +(\S+)", output, path)
    _check_cold(energy, output, path)
    H, S = (read(k=[0, 0, 0], dtype=np.float64, format="array") for read in (hamiltonian.Hk, hamiltonian.Sk))
    n_occupied = round(n_electrons) // 2
    S12 = S @ minimal
    H_minimal, eigenvalues = downfold(H, S, n_occupied, S12, minimal.T @ S12)
    geometry = hamiltonian.geometry
    return LabelledStructure(
        name=f"{path.resolve().parent.name}_{path.stem}",
        system=System(atoms.Z, geometry.xyz, geometry.cell),
        energy=energy,
        forces=_read_forces(sisl, path, label, len(atoms)),
        stress=_parse_stress(output),
        hamiltonian=H_minimal,
        eigenvalues=eigenvalues,
        n_occupied=n_occupied,
        info={"version": f"SIESTA, read by sisl {sisl.__version__}"},
    )


def _minimal_basis(atoms: Any) -> tuple[Array, float]:
    """The minimal basis as columns (n, m) in SIESTA's basis, and how many electrons neutral atoms have in it.

    atoms: sisl's Atoms with n AtomicOrbitals. Columns are s, px, py, pz of each atom in turn.
    """
    rows, signs, electrons = [], [], 0.0
    for atom, first in zip(atoms, atoms.firsto, strict=False):  # firsto also has the end
        if not atom.q0.any():
            raise InputError(f"{atom.tag} has no electrons in {atom.tag}.ion.xml; leave ghost atoms out")
        orbitals = [(o.n, o.l, o.m, o.zeta, o.P) for o in atom]
        for l, harmonics in _HARMONICS.items():
            n = _valence_shell(atom, l)
            for m, sign in harmonics:
                k = orbitals.index((n, l, m, 1, False))
                rows.append(first + k)
                signs.append(sign)
                electrons += atom.q0[k]
    minimal = np.zeros((atoms.no, len(rows)))
    minimal[rows, range(len(rows))] = signs
    return minimal, electrons


def _valence_shell(atom: Any, l: int) -> int:
    """Principal quantum number of an atom's s or p shell: the lowest that is occupied, if any is."""
    shells = {int(o.n): o.q0 for o in atom if (o.l, o.zeta, o.P) == (l, 1, False)}
    if not shells:
        raise InputError(
            f"{atom.tag} has no {'sp'[l]} shell in {atom.tag}.ion.xml (polarization orbitals do not count), "
            "but the minimal basis is one s and one p shell per atom; add it to PAO.Basis and run again"
        )
    return min(shells, key=lambda n: (shells[n] == 0, n))


def _read_input(sisl: Any, path: Path) -> tuple[str, list[str]]:
    """The label of the run and the species of every atom, from the input file."""
    fdf = sisl.get_sile(path)
    label = fdf.get("SystemLabel", default="siesta")
    species = fdf.get("ChemicalSpeciesLabel", default=[])
    atoms = fdf.get("AtomicCoordinatesAndAtomicSpecies", default=[])
    while hasattr(fdf, "fh"):  # sisl opens the file once more for every key
        fdf.close()
    if not species or not atoms:
        raise InputError(
            f"{path} needs the blocks ChemicalSpeciesLabel and AtomicCoordinatesAndAtomicSpecies; "
            "without them its atoms are unknown"
        )
    names = {index: name for index, _, name in (line.split()[:3] for line in species)}
    return str(label), [names[line.split()[3]] for line in atoms]


def _read_atoms(sisl: Any, path: Path, names: list[str]) -> Any:
    """sisl's Atoms with the orbitals of their species."""
    species = {}
    for name in names:
        if name not in species:
            file = _beside(path, [f"{name}.ion.xml"], f"the orbitals of {name}")
            species[name] = sisl.get_sile(file).read_basis()
    return sisl.Atoms([species[name] for name in names])


def _read_hamiltonian(sisl: Any, path: Path, label: str, atoms: Any) -> Any:
    """sisl's Hamiltonian in eV, with its overlap and geometry; checked against the atoms."""
    file = _beside(path, [f"{label}.TSHS", f"{label}.HSX"], "H and S: run with TS.HS.Save or SaveHS true")
    try:
        sile = sisl.get_sile(file)
        if file.suffix == ".TSHS":
            hamiltonian = sile.read_hamiltonian(geometry=sile.read_geometry(atoms=atoms))
        elif sile.version in (1, 2):
            hamiltonian = sile.read_hamiltonian(atoms=atoms)
        else:
            raise ValueError("it is not an HSX file of SIESTA 5")
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read {file} with the atoms of {path}: {error}; run again, with TS.HS.Save true"
        ) from error
    read = hamiltonian.geometry.atoms
    if not (np.array_equal(read.Z, atoms.Z) and np.array_equal(read.orbitals, atoms.orbitals)):
        raise InputError(f"{file} has other atoms or orbitals than {path} and the .ion.xml files; run again")
    if not hamiltonian.spin.is_unpolarized:
        raise InputError(
            f"{file} is {hamiltonian.spin}; only closed shells are supported: run with Spin none"
        )
    return hamiltonian


def _read_output(file: Path) -> str:
    """The standard output of a run that converged, at the Gamma point alone."""
    text = file.read_text(errors="replace")
    if "SCF_NOT_CONV" in text or "siesta: Final energy" not in text:
        raise InputError(f"{file} shows no converged, finished run; run SIESTA to its end")
    points = re.search(r"siesta: k-grid: Number of k-points\s*=\s*(\d+)", text)
    shifts = re.findall(r"siesta: k-grid:(?:\s+-?\d+){3}\s+(\S+)", text)
    if (points and points[1] != "1") or any(float(shift) for shift in shifts):
        raise InputError(
            f"{file} used k points beyond Gamma, so that H(Gamma) is not all of the run; run a larger cell "
            "without a k grid"
        )
    return text


def _find_number(title: str, pattern: str, text: str, path: Path) -> float:
    """The last match of the pattern of this title in the standard output."""
    found = re.findall(pattern, text)
    if not found:
        raise InputError(
            f"the standard output of {path} has no number after {title!r}; is it SIESTA's, of 4.0 or later?"
        )
    return float(found[-1])


def _check_cold(energy: float, text: str, path: Path) -> None:
    """Raise InputError if electrons are smeared: forces are derivatives of the free energy then."""
    free = re.findall(r"siesta: +FreeEng = +(\S+)", text)
    if free and abs(float(free[-1]) - energy) > SMEARED_eV:
        raise InputError(
            f"{path}: the free energy {free[-1]} eV is not the total energy {energy} eV: levels near the "
            "gap are partly filled, and labels of SIESTA are closed shells; run with a lower "
            "ElectronicTemperature"
        )


def _parse_stress(text: str) -> Array | None:
    """Stress (3, 3) in eV/Å^3; SIESTA's sign is ASE's."""
    found = re.findall(_STRESS, text)
    return np.array(found[-1], dtype=np.float64).reshape(3, 3) if found else None


def _read_forces(sisl: Any, path: Path, label: str, n_atoms: int) -> Array:
    """Forces (n_atoms, 3) in eV/Å."""
    file = _beside(path, [f"{label}.FA"], "forces")
    forces: Array = sisl.get_sile(file).read_force()
    if len(forces) != n_atoms:
        raise InputError(f"{file} has forces of {len(forces)} atoms, not {n_atoms}; run SIESTA again")
    return forces


def _beside(path: Path, names: list[str], content: str) -> Path:
    """The first of these files that lies beside the input file."""
    file = next((file for file in map(path.with_name, names) if file.is_file()), None)
    if file is None:
        raise InputError(f"{path} needs the run's {' or '.join(names)} beside it ({content})")
    return file


def _import_sisl() -> Any:
    try:
        import sisl
    except ImportError as error:
        raise InputError(
            "runs of SIESTA are read by sisl, an optional dependency: pip install sisl"
        ) from error
    return sisl

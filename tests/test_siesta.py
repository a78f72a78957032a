"""Runs of SIESTA: what sisl writes from PySCF's integrals comes back as in PySCF's own orbital order."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.linalg import eigh
from typer.testing import CliRunner

from mlh_driver.cli.main import app
from mlh_driver.data import read_split
from mlh_driver.errors import InputError
from mlh_driver.reference.constants import FULL_BASIS
from mlh_driver.reference.downfold import downfold, pyscf_cell
from mlh_driver.reference.siesta import from_siesta_run
from mlh_driver.system import Array

sisl = pytest.importorskip("sisl")
pytest.importorskip("pyscf")

CELL = np.diag([5.0, 5.0, 5.5])
NUMBERS = np.array([14, 8, 8])
POSITIONS = np.array([[0.3, 0.2, 0.1], [1.6, 0.7, 0.5], [-0.6, 1.3, 0.9]])
SHELLS = ((0, 1), (0, 2), (1, 1), (1, 2), (2, 1))  # l and zeta in DZVP-MOLOPT; d polarizes
OCCUPATIONS = {14: (2.0, 2.0), 8: (2.0, 4.0)}
LEVELS = {14: (-12.0, 15.0, -5.0, 20.0, 25.0), 8: (-30.0, 15.0, -16.0, 20.0, 25.0)}
MINIMAL = np.array([13 * atom + k for atom in range(3) for k in (0, 2, 3, 4)])
N_OCCUPIED = 8
FORCES = np.arange(9.0).reshape(3, 3) / 7
QUARTER_TURN = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])

# For m = -l..l, as SIESTA orders a shell: the place in PySCF's order, and where PySCF's harmonic is positive.
PLACE = {0: (0,), 1: (1, 2, 0), 2: (0, 1, 2, 3, 4)}
POSITIVE = {
    0: ((1, 0, 0),),
    1: ((0, 1, 0), (0, 0, 1), (1, 0, 0)),
    2: ((1, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0)),
}

OUTPUT = """\
Total number of electrons:    16.000000
Total ionic charge:    16.000000

siesta: k-grid: Number of k-points = 1
siesta: k-point is Gamma-only

siesta: Final energy (eV):
siesta:  Band Struct. =    -246.796377
siesta: D3 dispersion =       0.000000
siesta:         Total =    -950.957882
siesta:         Fermi =      -5.542553

siesta: Stress tensor (static) (eV/Ang**3):
siesta:    -0.032695    0.000000   -0.000000
siesta:    -0.000000   -0.007460    0.000000
siesta:    -0.000000    0.000000   -0.000314

siesta: Pressure (static):
siesta:           0.01348966          0.00987682  eV/Ang**3
Job completed
"""

ORBITAL = """\
<orbital
 l="        {l}"
 n="        {n}"
 z="        {zeta}"
 ispol="        {polarizes}"
 population="     {population:.11f}"
 >
<radfunc>
<npts>          20 </npts>
<delta>     0.2 </delta>
<cutoff>      3.8 </cutoff>
<data>
{data}
</data>
</radfunc>
</orbital>
"""


def ion_xml(number: int, polarizing: tuple[int, ...] = (2,), electrons: int = 1, n_shells: int = 5) -> str:
    """The basis file of a species, as SIESTA writes it (radii apart)."""
    symbol, valence = {14: ("Si", 3), 8: ("O", 2)}[number]
    data = "\n".join(f"{0.2 * k:.5f} {np.exp(-0.2 * k):.8f}" for k in range(20))
    orbitals = "".join(
        ORBITAL.format(
            l=l,
            n=max(valence, l + 1),
            zeta=zeta,
            polarizes=int(l in polarizing),
            population=electrons * OCCUPATIONS[number][l] if l < 2 and zeta == 1 else 0.0,
            data=data,
        )
        for l, zeta in SHELLS[:n_shells]
    )
    return (
        f'<ion version="0.1">\n<symbol> {symbol} </symbol>\n<label> {symbol} </label>\n<z> {number} </z>\n'
        f"<valence> 4.0 </valence>\n<mass> 1.0 </mass>\n<paos>\n{orbitals}</paos>\n</ion>\n"
    )


def matrices(positions: Array) -> tuple[Array, Array]:
    """H (eV) and S in PySCF's order: overlaps of the DZVP basis, and H after Wolfsberg and Helmholz."""
    S = pyscf_cell(NUMBERS, positions, CELL, FULL_BASIS).pbc_intor("int1e_ovlp")
    levels = np.concatenate([np.repeat(LEVELS[z], [2 * l + 1 for l, _ in SHELLS]) for z in NUMBERS.tolist()])
    return 0.875 * S * (levels[:, None] + levels) - 0.75 * np.diag(levels), S


def siesta_order(atoms: Any) -> tuple[list[int], Array]:
    """PySCF's index of each of SIESTA's orbitals and the relative sign, from sisl's functions in space."""
    index, signs = [], []
    for k, orbital in enumerate(orbital for atom in atoms for orbital in atom):
        l, m = orbital.l, orbital.m
        index.append(k - (l + m) + PLACE[l][l + m])
        signs.append(np.sign(orbital.psi(0.5 * np.array([POSITIVE[l][l + m]])))[0])
    assert np.all(np.abs(signs) == 1)
    return index, np.array(signs)


def write_run(folder: Path, positions: Array = POSITIONS, suffix: str = "TSHS", images: bool = False) -> Path:
    """A run's input file and results."""
    folder.mkdir(exist_ok=True)
    (folder / "Si.ion.xml").write_text(ion_xml(14))
    (folder / "O.ion.xml").write_text(ion_xml(8))
    geometry = geometry_of(folder, positions, images)
    path = folder / "RUN.fdf"
    sisl.get_sile(path, mode="w").write_geometry(geometry)
    path.write_text("SystemLabel glass\n" + path.read_text())
    write_matrices(folder / f"glass.{suffix}", geometry)
    sisl.get_sile(folder / "glass.FA", mode="w").write_force(FORCES)
    (folder / "RUN.out").write_text(OUTPUT)
    return path


def geometry_of(folder: Path, positions: Array = POSITIONS, images: bool = False) -> Any:
    """sisl's geometry with the orbitals of the folder."""
    silicon, oxygen = (sisl.get_sile(folder / f"{name}.ion.xml").read_basis() for name in ("Si", "O"))
    lattice = sisl.Lattice(CELL, nsc=[3, 1, 1] if images else [1, 1, 1])
    return sisl.Geometry(positions, [silicon, oxygen, oxygen], lattice=lattice)


def write_matrices(file: Path, geometry: Any, spin: str = "unpolarized", channels: int = 1) -> None:
    """Half of H and S between Si and O goes to images of the cell where it has any."""
    order, sign = siesta_order(geometry.atoms)
    H, S = (M[np.ix_(order, order)] * np.outer(sign, sign) for M in matrices(geometry.xyz))
    hamiltonian = sisl.Hamiltonian(geometry, spin=spin, orthogonal=False)
    has_image = geometry.lattice.nsc[0] > 1
    for i, j in np.ndindex(S.shape):
        elements = np.array([H[i, j]] * channels + [S[i, j]])
        shared = has_image and min(i, j) < 13 <= max(i, j)
        hamiltonian[i, j] = elements / 2 if shared else elements
        if shared:
            hamiltonian[i, j, (1 if i < j else -1, 0, 0)] = elements / 2
    sisl.get_sile(file, mode="w").write_hamiltonian(hamiltonian)


@pytest.mark.parametrize("suffix", ["TSHS", "HSX"])
@pytest.mark.parametrize("images", [False, True])
def test_the_minimal_hamiltonian_is_that_of_pyscf(tmp_path: Path, suffix: str, images: bool) -> None:
    label = from_siesta_run(write_run(tmp_path / "frame", suffix=suffix, images=images))
    H, S = matrices(POSITIONS)
    expected, _ = downfold(H, S, N_OCCUPIED, S[:, MINIMAL], S[np.ix_(MINIMAL, MINIMAL)])
    np.testing.assert_allclose(label.hamiltonian, expected, atol=1e-6)
    np.testing.assert_allclose(label.eigenvalues, eigh(H, S, eigvals_only=True), atol=1e-6)
    np.testing.assert_allclose(np.linalg.eigvalsh(label.hamiltonian)[:N_OCCUPIED], label.occupied, atol=1e-9)
    assert (label.name, label.n_occupied, label.energy) == ("frame_RUN", N_OCCUPIED, -950.957882)
    assert label.gap > 1.0
    np.testing.assert_array_equal(label.system.numbers, NUMBERS)
    np.testing.assert_allclose(label.system.positions, POSITIONS)
    np.testing.assert_allclose(label.system.cell, CELL)
    np.testing.assert_allclose(label.forces, FORCES)
    np.testing.assert_array_equal(np.diag(label.stress), [-0.032695, -0.00746, -0.000314])


def test_orbitals_turn_with_the_structure(tmp_path: Path) -> None:
    before = from_siesta_run(write_run(tmp_path / "before")).hamiltonian
    after = from_siesta_run(write_run(tmp_path / "after", POSITIONS @ QUARTER_TURN.T)).hamiltonian
    turn = np.eye(12)
    for atom in range(3):
        turn[4 * atom + 1 : 4 * atom + 4, 4 * atom + 1 : 4 * atom + 4] = QUARTER_TURN
    np.testing.assert_allclose(after, turn @ before @ turn.T, atol=1e-6)
    assert abs(after - before).max() > 1.0


def test_a_diffuse_shell_is_not_the_valence_shell(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    expected = from_siesta_run(run).hamiltonian
    basis, shell = run.with_name("O.ion.xml"), ' l="        0"\n n="        {}"\n z="        {}"'
    assert shell.format(2, 2) in basis.read_text()
    basis.write_text(basis.read_text().replace(shell.format(2, 2), shell.format(3, 1)))
    np.testing.assert_array_equal(from_siesta_run(run).hamiltonian, expected)


def test_runs_become_a_data_set(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    data = tmp_path / "data.h5"
    command = ["convert", *map(str, runs), "--reference", "SIESTA PBE DZP", "--out", str(data)]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    labels = read_split(data, "train")
    assert [label.name for label in labels] == ["a_RUN", "b_RUN"]
    assert labels[0].hamiltonian.shape == (12, 12)
    assert "SIESTA" in labels[0].info["version"]


def test_missing_files_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with pytest.raises(InputError, match=r"glass\.TSHS is not an input file of SIESTA; give the run's \.fdf"):
        from_siesta_run(tmp_path / "run" / "glass.TSHS")
    for name, message in {
        "O.ion.xml": r"RUN\.fdf needs the run's O\.ion\.xml beside it \(the orbitals of O",
        "glass.TSHS": r"glass\.TSHS or glass\.HSX beside it \(H and S: run with TS\.HS\.Save or SaveHS true",
        "glass.FA": r"glass\.FA beside it \(forces",
        "RUN.out": r"RUN\.out or glass\.out beside it \(SIESTA's standard output",
    }.items():
        content = run.with_name(name).read_bytes()
        run.with_name(name).unlink()
        with pytest.raises(InputError, match=message):
            from_siesta_run(run)
        run.with_name(name).write_bytes(content)
    sisl.get_sile(run.with_name("glass.FA"), mode="w").write_force(FORCES[:2])
    with pytest.raises(InputError, match=r"glass\.FA has forces of 2 atoms, not 3"):
        from_siesta_run(run)


@pytest.mark.parametrize("suffix", ["TSHS", "HSX"])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9])
def test_a_file_that_is_cut_is_refused(tmp_path: Path, suffix: str, fraction: float) -> None:
    run = write_run(tmp_path / "run", suffix=suffix)
    file = run.with_name(f"glass.{suffix}")
    content = file.read_bytes()
    file.write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(InputError, match=rf"cannot read .*glass\.{suffix} with the atoms of .*RUN\.fdf"):
        from_siesta_run(run)


def test_runs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    gamma = "Number of k-points = 1\n"
    for old, new, message in (
        (gamma, "Number of k-points =    44\n", r"RUN\.out used k points beyond Gamma"),
        (gamma, gamma + "siesta: k-grid:    1   0   0      0.500\n", r"RUN\.out used k points beyond Gamma"),
        ("siesta: Final", "SCF_NOT_CONV: SCF did not converge\nsiesta: Final", "no converged, finished run"),
        ("electrons:    16", "electrons:    18", "run has 18 electrons, .* hold 16; semicore"),
        ("siesta:         Total", "siesta:      Free", "no number after 'Total'"),
        (
            "siesta: Final",
            "siesta: FreeEng =  -950.958900\nsiesta: Final",
            "free energy -950.958900 .* lower Elec",
        ),
    ):
        assert old in OUTPUT
        run.with_name("RUN.out").write_text(OUTPUT.replace(old, new))
        with pytest.raises(InputError, match=message):
            from_siesta_run(run)


@pytest.mark.parametrize(("spin", "channels"), [("polarized", 2), ("non-colinear", 4), ("spin-orbit", 8)])
def test_spins_are_refused(tmp_path: Path, spin: str, channels: int) -> None:
    run = write_run(tmp_path / "run")
    write_matrices(run.with_name("glass.TSHS"), geometry_of(run.parent), spin, channels)
    with pytest.raises(InputError, match=r"glass\.TSHS is .*only closed shells .*run with Spin none"):
        from_siesta_run(run)


def test_a_basis_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for basis, message in (
        (ion_xml(8, n_shells=3), r"glass\.TSHS has other atoms or orbitals than .*RUN\.fdf"),
        (ion_xml(14), "run has 16 electrons, .* hold 12; semicore"),
        (ion_xml(8, polarizing=(1, 2)), r"O has no p shell in O\.ion\.xml .*add it to PAO\.Basis"),
        (ion_xml(8, polarizing=(0, 2)), r"O has no s shell in O\.ion\.xml"),
        (ion_xml(8, electrons=0), r"O has no electrons in O\.ion\.xml; leave ghost atoms out"),
    ):
        run.with_name("O.ion.xml").write_text(basis)
        with pytest.raises(InputError, match=message):
            from_siesta_run(run)
    text = run.read_text()
    run.write_text(text.replace(text[: text.index("%endblock Atomic")].splitlines()[-1] + "\n", ""))
    with pytest.raises(InputError, match=r"cannot read .*glass\.TSHS with the atoms of .*RUN\.fdf"):
        from_siesta_run(run)
    run.write_text("SystemLabel glass\n")
    with pytest.raises(InputError, match=r"RUN\.fdf needs the blocks ChemicalSpeciesLabel and"):
        from_siesta_run(run)


def test_without_sisl_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sisl", None)
    with pytest.raises(InputError, match=r"pip install sisl"):
        from_siesta_run(tmp_path / "RUN.fdf")

"""CP2K: input text, parsers on printed output, and one tiny calculation where CP2K is installed."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from processes import ENVIRONMENT, eventually, launching

from mlh_driver.constants import BOHR_A, HARTREE_eV
from mlh_driver.errors import InputError
from mlh_driver.reference import cp2k
from mlh_driver.reference.cp2k import Cp2kLabeler, Cp2kSettings
from mlh_driver.reference.labeler import LabelingError, UnconvergedError

MATRICES = """
 OVERLAP MATRIX

                                1                    2
     1    1  Si    2s        1.00000000000000     0.10000000000000
     2    1  Si    3py       0.10000000000000     2.00000000000000
     3    1  Si    3pz       0.20000000000000     0.50000000000000
     4    1  Si    3px       0.30000000000000     0.60000000000000

                                3                    4
     1    1  Si    2s        0.20000000000000     0.30000000000000
     2    1  Si    3py       0.50000000000000     0.60000000000000
     3    1  Si    3pz       3.00000000000000    -0.70000000000000
     4    1  Si    3px      -0.70000000000000     4.00000000000000


 KOHN-SHAM MATRIX

                                1
     1    1  Si    2s       -0.50000000000000
"""

FORCES = """
 ATOMIC FORCES in [a.u.]

 # Atom   Kind   Element          X                  Y                  Z
      1      1      Si          0.100000000000     0.200000000000    -0.300000000000
      2      2      O          -0.100000000000    -0.200000000000     0.300000000000
 SUM OF ATOMIC FORCES           0.000000000000     0.000000000000     0.000000000000     0.000000000000
"""

NEW_FORCES = """
 FORCES| Atomic forces [hartree/bohr]
 FORCES|   Atom     x               y               z               |f|
 FORCES|      1  1.00000000E-01  2.00000000E-01 -3.00000000E-01   3.74165739E-01
 FORCES|      2 -1.00000000E-01 -2.00000000E-01  3.00000000E-01   3.74165739E-01
 FORCES| Sum     0.00000000E+00  0.00000000E+00  0.00000000E+00   0.00000000E+00
 FORCES| Total atomic force                                       0.52915026E+00
"""

STRESS = """
 STRESS| Analytical stress tensor [GPa]
 STRESS|                        x                   y                   z
 STRESS|      x        1.60217662080E+02   2.66573638954E-01  -2.75085358208E-01
 STRESS|      y        2.66573638954E-01   5.06157922071E-02  -1.52110665683E-02
 STRESS|      z       -2.75085358208E-01  -1.52110665683E-02  -4.34786982186E-02
 STRESS| 1/3 Trace                                             5.02901979036E-01

 STRESS| Eigenvectors and eigenvalues of the analytical stress tensor [GPa]
 STRESS|      x           0.206717269161     -0.114442750351      0.971684530865
"""


def hydrogen() -> Atoms:
    return Atoms("H2", positions=[[0.1, 0.2, 0.3], [0.6, 0.7, 0.5]], cell=[5.0, 5.0, 5.5], pbc=True)


def test_matrix_is_read_in_pyscf_order() -> None:
    matrix = cp2k.parse_matrix(MATRICES, "OVERLAP MATRIX")
    np.testing.assert_array_equal(np.diag(matrix), [1.0, 4.0, 2.0, 3.0])  # s, px, py, pz
    np.testing.assert_array_equal(matrix, matrix.T)
    assert matrix[1, 3] == -0.7
    np.testing.assert_array_equal(cp2k.parse_matrix(MATRICES, "KOHN-SHAM MATRIX"), [[-0.5]])


def test_order_keeps_shells_in_place() -> None:
    names = ["2s", "3s", "3py", "3pz", "3px", "4py", "4pz", "4px", "4d-2", "4d-1", "4d0", "4d+1", "4d+2"]
    order = cp2k.pyscf_order([(0, name) for name in names])
    assert order.tolist() == [0, 1, 4, 2, 3, 7, 5, 6, 8, 9, 10, 11, 12]


def test_truncated_matrix_is_refused() -> None:
    with pytest.raises(LabelingError, match="8 missing elements"):
        cp2k.parse_matrix(MATRICES.split("                                3")[0], "OVERLAP MATRIX")
    with pytest.raises(LabelingError, match="DENSITY MATRIX"):
        cp2k.parse_matrix(MATRICES, "DENSITY MATRIX")


@pytest.mark.parametrize("text", [FORCES, NEW_FORCES])
def test_forces_are_read_as_cp2k_printed_them_in_2023_and_in_2025(text: str) -> None:
    forces = cp2k.parse_forces(text, 2)
    np.testing.assert_allclose(forces[0], np.array([0.1, 0.2, -0.3]) * HARTREE_eV / BOHR_A)
    with pytest.raises(LabelingError, match="forces of 2 atoms, expected 3"):
        cp2k.parse_forces(text, 3)


def test_energy_and_stress_have_our_units_and_signs() -> None:
    in_bar = STRESS.replace("tensor [GPa]", "tensor [bar]").replace("1.60217662080E+02", "1.60217662080E+06")
    for text in (STRESS, in_bar):
        assert cp2k.parse_stress(text)[0, 0] == pytest.approx(-1.0)
    with pytest.raises(LabelingError, match="unit kbar, not gpa or bar"):
        cp2k.parse_stress(STRESS.replace("[GPa]", "[kbar]"))
    for unit in ("[a.u.]:", "[hartree]"):  # of 2023, of 2025
        line = f" ENERGY| Total FORCE_EVAL ( QS ) energy {unit}        -2.000000000000000\n"
        assert cp2k.parse_energy(line) == pytest.approx(-2 * HARTREE_eV)


def test_only_a_converged_run_is_accepted() -> None:
    assert cp2k.parse_convergence("  *** SCF run converged in    15 steps ***\n") == 15
    for text in ("  *** SCF run NOT converged ***\n", "SIGSEGV"):
        with pytest.raises(UnconvergedError, match="max_scf"):
            cp2k.parse_convergence(text)


def test_input_has_the_reference_settings() -> None:
    atoms = Atoms("SiO2", positions=np.eye(3), cell=[5, 5, 5], pbc=True)
    text = cp2k.write_input(atoms, Cp2kSettings(), prepared=True)
    lines = {line.strip() for line in text.splitlines()}
    assert {"CUTOFF 800.0", "REL_CUTOFF 60.0", "EPS_DEFAULT 1.0E-10", "EPS_SCF 2.0E-06"} <= lines
    assert "POTENTIAL GTH-PBE-q4" in lines
    assert {"SCF_GUESS RESTART", "METHOD BROYDEN_MIXING"} <= lines
    draft = cp2k.write_input(atoms, Cp2kSettings().draft(), prepared=False)
    for words in ("CUTOFF 200.0", "SCF_GUESS ATOMIC", "METHOD BROYDEN_MIXING", "STRESS_TENSOR NONE"):
        assert words in draft
    with pytest.raises(ValueError, match="periodic"):
        cp2k.write_input(Atoms("SiO2", positions=np.eye(3)), Cp2kSettings(), prepared=False)
    with pytest.raises(ValueError, match="Au"):
        cp2k.write_input(Atoms("Au", cell=[5, 5, 5], pbc=True), Cp2kSettings(), prepared=False)


def test_hot_electrons_are_those_of_the_draft_too() -> None:
    atoms = Atoms("SiO2", positions=np.eye(3), cell=[5, 5, 5], pbc=True)
    hot = Cp2kSettings(electronic_temperature_K=3500.0)
    for settings, prepared in ((hot, True), (hot.draft(), False)):
        text = cp2k.write_input(atoms, settings, prepared)
        for words in ("ADDED_MOS -1", "&SMEAR ON", "METHOD FERMI_DIRAC", "ELECTRONIC_TEMPERATURE [K] 3500.0"):
            assert words in text
    assert "SMEAR" not in cp2k.write_input(atoms, Cp2kSettings(), prepared=True)


def test_a_missing_program_is_the_fault_of_no_structure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A LabelingError would leave the structure out."""
    monkeypatch.setenv("PATH", "")
    labeler = Cp2kLabeler()
    for ask in (labeler.check_installed, lambda: labeler.calculate(hydrogen(), tmp_path)):
        with pytest.raises(InputError, match=r"no 'cp2k.psmp' in PATH: install CP2K"):
            ask()


def test_fine_grids_start_from_the_orbitals_of_a_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs: list[str] = []

    def execute(workdir: Path, text: str, settings: Cp2kSettings) -> None:
        inputs.append(text)
        (workdir / "label.out").write_text("  *** SCF run converged in    15 steps ***\n")

    monkeypatch.setattr(cp2k, "_execute", execute)
    monkeypatch.setattr(cp2k, "read_result", lambda *arguments, **keywords: None)
    Cp2kLabeler().calculate(hydrogen(), tmp_path)
    assert ["SCF_GUESS ATOMIC" in text for text in inputs] == [True, False]
    assert ["AO_MATRICES" in text for text in inputs] == [False, True]
    Cp2kLabeler(Cp2kSettings().draft()).calculate(hydrogen(), tmp_path)
    assert len(inputs) == 3 and "AO_MATRICES" in inputs[2]


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_label_command_leaves_no_cp2k_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: signal.Signals
) -> None:
    pid_file = tmp_path / "pid"
    stand_in = tmp_path / "cp2k.psmp"  # runs for as long as it takes
    stand_in.write_text(
        f"#!/bin/sh\necho $$ > {pid_file}.new && mv {pid_file}.new {pid_file}\nexec sleep 600\n"
    )
    stand_in.chmod(0o755)
    ase.io.write(tmp_path / "frame.xyz", hydrogen())
    command = ["mlh-driver", "label", str(tmp_path / "frame.xyz"), "--reference", "cp2k"]
    monkeypatch.setitem(ENVIRONMENT, "PATH", f"{tmp_path}:{ENVIRONMENT['PATH']}")
    with launching(tmp_path) as launch:
        program = launch(*command, "--out", str(tmp_path / "out.h5"))
        assert eventually(pid_file.exists)
        program.process.send_signal(sign)
        assert program.status() == 130
    assert eventually(lambda: not Path("/proc", pid_file.read_text().strip()).exists())


@pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="CP2K is not installed")
def test_unconverged_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnconvergedError):
        Cp2kLabeler(Cp2kSettings(cutoff_Ry=100.0, max_scf=2)).calculate(hydrogen(), tmp_path)


def hot_hydrogen() -> Atoms:
    """Four stretched atoms with a gap of 1.4 eV."""
    positions = [[0, 0, 0], [1.6, 0.1, 0], [0.2, 1.7, 0.1], [1.7, 1.8, 0.4]]
    return Atoms("H4", positions=positions, cell=[4.0, 4.2, 4.4], pbc=True)


@pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="CP2K is not installed")
@pytest.mark.slow
def test_forces_and_stress_of_hot_electrons_are_derivatives_of_the_energy(tmp_path: Path) -> None:
    """The free energy: at 10000 K the energy without -T_e S_e has forces that are off by tenths of eV/Å."""
    labeler = Cp2kLabeler(Cp2kSettings(cutoff_Ry=250.0, electronic_temperature_K=10000.0))
    atoms = hot_hydrogen()
    label = labeler.calculate(atoms, tmp_path)
    assert label.electronic_temperature_K == 10000.0

    def slope(deform: Callable[[Atoms, float], None], step: float) -> float:
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            deform(moved, sign * step)
            energies.append(labeler.calculate(moved, tmp_path).energy)
        return (energies[0] - energies[1]) / (2 * step)

    def move(moved: Atoms, step: float) -> None:
        moved.positions[1, 0] += step

    def strain(moved: Atoms, step: float) -> None:
        moved.set_cell(moved.cell.array * [1 + step, 1, 1], scale_atoms=True)

    assert slope(move, 0.01) == pytest.approx(-label.forces[1, 0], abs=2e-3)
    assert slope(strain, 2e-3) / atoms.get_volume() == pytest.approx(label.stress[0, 0], abs=1e-4)

"""Labels: PySCF against CP2K, resuming, refusals, and the command."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from fake_labeler import SomeLabeler
from typer.testing import CliRunner

from mlh_driver.cli.main import app
from mlh_driver.data import read_split, read_splits
from mlh_driver.errors import InputError
from mlh_driver.reference import (
    Calculation,
    Cp2kLabeler,
    Cp2kSettings,
    LabelingError,
    PyscfLabeler,
    label_into,
    label_structure,
    make_labeler,
    overlap_matrices,
)

pytest.importorskip("pyscf", reason="overlap integrals need PySCF")

needs_cp2k = pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="CP2K is not installed")


def hydrogen(length_A: float = 5.0) -> Atoms:
    return Atoms("H2", positions=[[0.1, 0.2, 0.3], [0.6, 0.7, 0.5]], cell=[length_A, 5.0, 5.5], pbc=True)


def test_two_processes_that_label_the_same_frames_share_them(tmp_path: Path) -> None:
    """The label that is there first is kept, and what another has labelled meanwhile is not computed."""
    path, lines = tmp_path / "data.h5", []
    frames = {"a": hydrogen(), "b": hydrogen(5.5)}

    class Slower(SomeLabeler):
        def calculate(self, atoms: Atoms, workdir: Path) -> Calculation:
            label_into(path, frames, SomeLabeler(), "train", lambda line: None)
            return super().calculate(atoms, workdir)

    slower = Slower()
    assert label_into(path, frames, slower, "train", lines.append) == []
    assert read_splits(path) == {"train": ["a", "b"]} and slower.calls == 1
    assert "a: another process was faster; its label is kept" in lines
    assert "b: labelled meanwhile by another process" in lines


def test_labels_are_stored_one_by_one_and_never_made_twice(tmp_path: Path) -> None:
    path, labeler, lines = tmp_path / "data.h5", SomeLabeler(), []
    frames = {"a": hydrogen(), "b": hydrogen(7.0), "c": hydrogen(5.5)}
    frames["a"].info["note"] = 1  # as ASE reads note=1
    assert label_into(path, frames, labeler, "train", lines.append) == ["b"]
    assert read_splits(path) == {"train": ["a", "c"]}
    assert read_split(path, "train")[0].info == {"note": "1", "n_scf_steps": 7, "version": "some 1.0"}
    assert "b: left out: the SCF did not converge" in lines
    assert label_into(path, frames, labeler, "train", lines.append) == ["b"]
    assert labeler.calls == 4  # b again, nothing else
    assert lines.count("a: already labelled, with closed shells") == 1
    label_into(path, frames, labeler, "test", lines.append)
    assert "a: already labelled, with closed shells; it stays in the split 'train'" in lines


def test_mixed_references_and_names_are_refused_before_any_calculation(tmp_path: Path) -> None:
    path, same, other = tmp_path / "data.h5", SomeLabeler(), SomeLabeler(cutoff=2.0)
    label_into(path, {"a": hydrogen()}, SomeLabeler(), "train", print)
    with pytest.raises(InputError, match="another reference"):
        label_into(path, {"b": hydrogen()}, other, "train", print)
    moved, strained, heavy = hydrogen(), hydrogen(), hydrogen()
    moved.positions[0, 0] += 1e-5
    strained.set_cell(strained.cell * 1.001)
    heavy.numbers[0] = 3
    for changed in (moved, strained, heavy):
        with pytest.raises(InputError, match="another structure called 'a'"):
            label_into(path, {"a": changed}, same, "train", print)
    with pytest.raises(InputError, match=r"cannot be called 'b/c'"):
        label_into(path, {"b/c": hydrogen()}, same, "train", print)
    with pytest.raises(InputError, match=r"cannot write /dev/null/data\.h5"):
        label_into(Path("/dev/null/data.h5"), {"a": hydrogen()}, same, "train", print)
    assert same.calls == other.calls == 0


def test_a_structure_without_a_closed_shell_is_left_out(tmp_path: Path) -> None:
    lines: list[str] = []
    frames = {"odd": Atoms("H", cell=[4, 4, 4], pbc=True)}
    assert label_into(tmp_path / "data.h5", frames, SomeLabeler(), "train", lines.append) == ["odd"]
    assert "closed shell" in lines[-1]


def test_results_that_are_not_finite_do_not_stop_the_rest(tmp_path: Path) -> None:
    class Broken(SomeLabeler):
        def calculate(self, atoms: Atoms, workdir: Path) -> Calculation:
            found = super().calculate(atoms, workdir)
            return replace(found, forces=np.nan * found.forces) if self.calls == 1 else found

    lines: list[str] = []
    frames = {"bad": hydrogen(), "good": hydrogen()}
    assert label_into(str(tmp_path / "data.h5"), frames, Broken(), "train", lines.append) == ["bad"]
    assert any("bad: left out: the results of some are no label" in line for line in lines)


def test_what_cannot_be_labelled_does_not_stop_the_rest(tmp_path: Path) -> None:
    lines: list[str] = []
    molecule = Atoms("H2", positions=[[0, 0, 0], [0.75, 0, 0]])
    twins = Atoms("H4", positions=[[0, 0, 0], [0, 0, 0], [0.7, 0, 0], [0.7, 0, 0]], cell=[5, 5, 5], pbc=True)
    frames = {"molecule": molecule, "twins": twins, "good": hydrogen()}
    failed = label_into(tmp_path / "data.h5", frames, SomeLabeler(), "train", lines.append)
    assert failed == ["molecule", "twins"]
    assert [line for line in lines if "left out: " in line] == [lines[1], lines[3]]
    assert "running" in lines[0]
    assert read_splits(tmp_path / "data.h5") == {"train": ["good"]}


@needs_cp2k
def test_label_command_with_cp2k(tmp_path: Path) -> None:
    """Two frames of one file, the second of which no code accepts: exit status 1, and the first is kept."""
    odd = Atoms("H", cell=[4, 4, 4], pbc=True)
    ase.io.write(tmp_path / "frames.xyz", [hydrogen(), odd])
    arguments = [
        "label",
        str(tmp_path / "frames.xyz"),
        "--reference",
        "cp2k",
        "--out",
        str(tmp_path / "data.h5"),
    ]
    result = CliRunner().invoke(app, [*arguments, "--full-hamiltonian"])
    assert result.exit_code == 1
    assert "left out: frames_1" in result.stderr
    (label,) = read_split(tmp_path / "data.h5", "train")
    assert label.name == "frames_0"
    assert label.energy == pytest.approx(-31.6, abs=0.8)
    assert label.hamiltonian.shape == (2, 2)
    assert np.linalg.eigvalsh(label.hamiltonian)[0] == pytest.approx(label.occupied[0], abs=1e-4)
    assert label.full_hamiltonian.shape == (10, 10)
    assert label.stress.shape == (3, 3)
    assert label.info["version"].startswith("CP2K version")


def test_a_draft_has_the_hamiltonian_but_is_another_reference(tmp_path: Path) -> None:
    assert make_labeler("pyscf").reference() != make_labeler("pyscf", draft=True).reference()
    assert Cp2kLabeler().reference() != Cp2kLabeler(Cp2kSettings().draft()).reference()
    ase.io.write(tmp_path / "frames.xyz", hydrogen())
    arguments = ["label", str(tmp_path / "frames.xyz"), "--out", str(tmp_path / "data.h5")]
    assert CliRunner().invoke(app, [*arguments, "--draft"]).exit_code == 0
    (draft,) = read_split(tmp_path / "data.h5", "train")
    fine = label_structure(hydrogen(), "fine", make_labeler("pyscf"))
    difference = draft.hamiltonian - fine.hamiltonian
    difference -= np.diagonal(difference).mean() * np.eye(len(difference))
    assert 0 < abs(difference).max() < 0.01
    other = CliRunner().invoke(app, arguments)
    assert isinstance(other.exception, InputError) and "another reference" in str(other.exception)


WATER = Atoms(
    "OH2", positions=[[2.1, 2.2, 2.3], [2.9, 2.7, 2.2], [1.3, 2.7, 2.4]], cell=[4.6, 4.8, 5.0], pbc=True
)
TITANIA = Atoms(
    "TiO2", positions=[[2.1, 2.2, 2.3], [3.3, 3.2, 2.2], [1.0, 3.2, 2.6]], cell=[5.0, 5.2, 5.4], pbc=True
)


@needs_cp2k
@pytest.mark.slow
@pytest.mark.parametrize(
    ("molecule", "force", "element"), [(WATER, 0.02, 0.004), (TITANIA, 0.03, 0.03)], ids=["s, p", "s, p, d"]
)
def test_pyscf_and_cp2k_agree(molecule: Atoms, force: float, element: float) -> None:
    """Energy, forces and every element of both Hamiltonians of a bent molecule in a small cell.

    What is left are the grids: at 800 Ry they move energies and forces by amounts of this order, and most of
    all the elements of the second, narrow d shell.
    """
    ours = label_structure(molecule, "w", PyscfLabeler(), keep_full=True)
    theirs = label_structure(molecule, "w", Cp2kLabeler(Cp2kSettings(stress=False)), keep_full=True)
    assert abs(ours.energy - theirs.energy) / len(molecule) < 1e-3
    assert abs(ours.forces - theirs.forces).max() < force
    S, _, _ = overlap_matrices(molecule.numbers, molecule.positions, molecule.cell.array)
    cases = (("hamiltonian", np.eye(len(ours.hamiltonian)), 0.004), ("full_hamiltonian", S, element))
    for name, metric, largest in cases:
        difference = getattr(ours, name) - getattr(theirs, name)
        zero_of_potential = (difference * metric).sum() / (metric**2).sum()
        assert abs(difference - zero_of_potential * metric).max() < largest, name


@needs_cp2k
@pytest.mark.slow
def test_pyscf_and_cp2k_agree_on_hot_electrons() -> None:
    atoms = Atoms("H2", positions=[[0, 0, 0], [1.6, 0.1, 0.2]], cell=[3.0, 3.2, 3.4], pbc=True)
    ours, theirs = (
        label_structure(atoms, "h", make_labeler(code, electronic_temperature_K=20000.0))
        for code in ("pyscf", "cp2k")
    )
    cold = label_structure(atoms, "h", make_labeler("cp2k"))
    assert ours.electronic_temperature_K == theirs.electronic_temperature_K == 20000.0
    assert abs(ours.energy - theirs.energy) / len(atoms) < 1e-3
    assert abs(ours.forces - theirs.forces).max() < 0.02
    assert cold.energy - theirs.energy > 0.02


@pytest.mark.parametrize("temperature_K", [-1.0, float("nan"), float("inf")])
def test_an_electronic_temperature_that_is_none_is_refused(temperature_K: float) -> None:
    with pytest.raises(InputError, match="give kelvin"):
        make_labeler("cp2k", electronic_temperature_K=temperature_K)


@pytest.mark.filterwarnings("ignore:.*positive definite")
def test_a_frame_that_a_code_gives_up_on_is_left_out_with_its_reason(tmp_path: Path) -> None:
    frames = {"same": hydrogen(), "good": hydrogen()}
    frames["same"].positions[1] = frames["same"].positions[0]
    lines: list[str] = []
    labeler = make_labeler("pyscf", draft=True)
    assert label_into(tmp_path / "data.h5", frames, labeler, "train", lines.append) == ["same"]
    assert any(line.startswith("same: left out: PySCF gave up") for line in lines)
    assert read_splits(tmp_path / "data.h5") == {"train": ["good"]}


@pytest.mark.parametrize("error", [ValueError("could not convert '*****'"), FileNotFoundError("no .Log")])
def test_output_that_cannot_be_read_does_not_stop_the_rest(tmp_path: Path, error: Exception) -> None:
    class Garbled(SomeLabeler):
        def calculate(self, atoms: Atoms, workdir: Path) -> Calculation:
            if len(atoms) > 2:
                raise error
            return super().calculate(atoms, workdir)

    frames = {"bad": hydrogen().repeat((1, 1, 2)), "good": hydrogen()}
    lines: list[str] = []
    assert label_into(tmp_path / "data.h5", frames, Garbled(), "train", lines.append) == ["bad"]
    assert f"bad: left out: the results of some cannot be read: {error}" in lines
    assert read_splits(tmp_path / "data.h5") == {"train": ["good"]}


@needs_cp2k
def test_the_reason_of_cp2k_is_told(tmp_path: Path) -> None:
    close = hydrogen()
    close.positions[1] = close.positions[0]
    with pytest.raises(LabelingError, match=r"code 1: GEOMETRY wrong or EMAX_SPLINE too small!"):
        Cp2kLabeler(Cp2kSettings().draft()).calculate(close, tmp_path)

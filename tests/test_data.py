"""The data set file: round trips, ten-line reading, interruptions, errors, imports."""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from conftest import REPOSITORY, small_system
from typer.testing import CliRunner

from mlh_driver.cli.main import app
from mlh_driver.data import LabelledStructure, hdf5, read_split, read_splits, read_structure
from mlh_driver.data.importers import from_ase_files
from mlh_driver.errors import InputError
from mlh_driver.files import replacing
from mlh_driver.reference.units import energy_unit
from mlh_driver.structures import read_frames
from mlh_driver.system import System

SHARED = REPOSITORY.parent / "shared" / "data" / "asio2"
REFERENCE = {"engine": "none", "cutoff_Ry": 1.0}


def labelled(name: str, seed: int = 0) -> LabelledStructure:
    system = small_system(seed=seed)
    rng = np.random.default_rng(seed)
    n = 4 * len(system)
    H = 30 * rng.normal(size=(n, n))
    return LabelledStructure(
        name=name,
        system=system,
        energy=-1234.5678901234,
        forces=rng.normal(size=(len(system), 3)),
        stress=rng.normal(size=(3, 3)),
        hamiltonian=H + H.T,
        eigenvalues=np.linalg.eigvalsh(H + H.T),
        n_occupied=n // 2,
        info={"note": "random"},
    )


def test_a_link_leads_to_the_data_set_as_before(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    link, path = tmp_path / "data.h5", tmp_path / "scratch" / "far.h5"
    link.symlink_to(path)
    for name in ("a", "b"):
        hdf5.append(link, labelled(name), "train", REFERENCE)
    assert link.is_symlink() and read_splits(path) == {"train": ["a", "b"]}
    assert [file.name for file in path.parent.iterdir()] == ["far.h5"]


def test_structures_come_back_as_they_were(tmp_path: Path) -> None:
    path, label = tmp_path / "data.h5", labelled("a")
    hdf5.append(path, label, "train", REFERENCE)
    hdf5.append(path, replace(labelled("b", 1), stress=None), "validation", REFERENCE)
    assert read_splits(str(path)) == {"train": ["a"], "validation": ["b"]}
    (read,) = read_split(path, "train")
    for name in ("numbers", "positions", "cell"):
        np.testing.assert_array_equal(getattr(read.system, name), getattr(label.system, name))
    assert (read.energy, read.n_occupied, read.info) == (label.energy, label.n_occupied, label.info)
    np.testing.assert_array_equal(read.forces, label.forces)
    np.testing.assert_array_equal(read.stress, label.stress)
    np.testing.assert_array_equal(read.occupied, label.eigenvalues[: label.n_occupied])
    assert 0 < abs(read.hamiltonian - label.hamiltonian).max() <= 0.501 * hdf5.HAMILTONIAN_STEP_eV
    hdf5.append(tmp_path / "copy.h5", read, "train", REFERENCE)
    np.testing.assert_array_equal(read_structure(tmp_path / "copy.h5", "a").hamiltonian, read.hamiltonian)
    assert read_structure(path, "b").stress is None


def test_a_label_without_an_electronic_temperature_is_of_closed_shells(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    for name, temperature_K in (("hot", 3500.0), ("cold", 0.0), ("old", 0.0)):
        label = replace(labelled(name), electronic_temperature_K=temperature_K)
        hdf5.append(path, label, "train", REFERENCE)
    with h5py.File(path, "a") as file:
        del file["old"].attrs["electronic_temperature_K"]
    read = {label.name: label.electronic_temperature_K for label in read_split(path, "train")}
    assert read == {"hot": 3500.0, "cold": 0.0, "old": 0.0}
    with pytest.raises(InputError, match=r"temperature is -1\.0 K; give kelvin"):
        replace(labelled("wrong"), electronic_temperature_K=-1.0)


def test_the_layout_is_the_documented_one(tmp_path: Path) -> None:
    """The lines of the module's docstring, run as they stand."""
    label = labelled("glass_0")
    hdf5.append(tmp_path / "data.h5", label, "train", REFERENCE)
    lines = hdf5.__doc__.split("without this package::\n")[1].split("\nEvery addition")[0]
    code = "\n".join(line.removeprefix("    ") for line in lines.splitlines())
    names: dict = {}
    exec(code.replace('"data.h5"', repr(str(tmp_path / "data.h5"))), names)
    np.testing.assert_allclose(names["H"], label.hamiltonian, atol=0.501 * hdf5.HAMILTONIAN_STEP_eV)
    np.testing.assert_array_equal(names["H"], read_structure(tmp_path / "data.h5", "glass_0").hamiltonian)
    np.testing.assert_array_equal(names["forces"], label.forces)
    assert names["energy"] == label.energy


def test_a_cell_of_glass_is_far_below_a_megabyte(tmp_path: Path) -> None:
    """Levels are as good as those of the first format, from which the cell is read, in less than its half."""
    path = REPOSITORY / "examples" / "training" / "asio2-extra.h5"
    label = read_structure(path, "host_801")
    hdf5.append(tmp_path / "data.h5", label, "train", REFERENCE)
    assert (tmp_path / "data.h5").stat().st_size < 0.14e6
    rounded = read_structure(tmp_path / "data.h5", "host_801").hamiltonian
    levels = [np.linalg.eigvalsh(H)[: label.n_occupied] for H in (rounded, label.hamiltonian)]
    assert abs(levels[0] - levels[1]).max() < 2e-4
    assert 2 * abs(levels[0].sum() - levels[1].sum()) / len(label.system) < 5e-5


def test_files_of_the_first_format_are_read_and_added_to(tmp_path: Path) -> None:
    """A file that the package wrote before the second format: two structures, one without H."""
    path = tmp_path / "old.h5"
    path.write_bytes((Path(__file__).parent / "data" / "format-1.h5").read_bytes())
    old = read_structure(path, "molecule")
    H = np.add.outer(np.arange(12.0), np.arange(12.0)) / 7
    np.testing.assert_allclose(old.hamiltonian, H, atol=1e-6)
    assert (old.energy, old.electronic_temperature_K) == (-12.5, 0.0)
    assert read_structure(path, "bare").hamiltonian is None
    hdf5.append(path, labelled("new"), "train", hdf5.read_reference(path))
    assert read_splits(path) == {"train": ["bare", "molecule", "new"]}
    np.testing.assert_array_equal(read_structure(path, "molecule").hamiltonian, old.hamiltonian)
    with h5py.File(path) as file:
        assert file.attrs["format"] == hdf5.FORMAT


def test_an_interrupted_addition_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.h5"
    hdf5.append(path, labelled("a"), "train", REFERENCE)
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(h5py.Group, "create_dataset", fail)
        with pytest.raises(KeyboardInterrupt):
            hdf5.append(path, labelled("b"), "train", REFERENCE)
    assert path.read_bytes() == before
    hdf5.append(path, labelled("b"), "train", REFERENCE)
    assert read_splits(path) == {"train": ["a", "b"]}


def add_five(path: Path, first: int) -> None:
    for k in range(first, first + 5):
        hdf5.append(path, labelled(f"s{k}"), "train", REFERENCE)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """A limit on the size of files stands for it."""
    path = tmp_path / "x.h5"
    hdf5.append(path, labelled("a"), "train", REFERENCE)
    saved = path.read_bytes()
    _, most = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(saved), most))
    try:
        with pytest.raises(OSError, match="File too large"):
            hdf5.append(path, labelled("b"), "train", REFERENCE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == saved and [file.name for file in tmp_path.iterdir()] == ["x.h5"]


def test_two_that_replace_one_file_do_not_mix(tmp_path: Path) -> None:
    path, old = tmp_path / "a[1].txt", tmp_path / ".partial-0-a[1].txt"
    old.write_text("of a killed process")
    os.utime(old, (0, 0))
    with replacing(path) as first, replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # which ended last
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=add_five, args=(path, first)) for first in (0, 5)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    assert len(read_splits(path)["train"]) == 10
    assert [file.name for file in tmp_path.iterdir()] == ["data.h5"]  # no lock, no copy


def test_the_lock_of_a_killed_writer_holds_nobody(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    (tmp_path / ".data.h5.lock").touch()
    hdf5.append(path, labelled("a"), "train", REFERENCE)
    assert [file.name for file in tmp_path.iterdir()] == ["data.h5"]


def test_errors_name_the_value(tmp_path: Path) -> None:
    path = tmp_path / "data.h5"
    hdf5.append(path, labelled("a"), "train", REFERENCE)
    for name, message in (("a", "already holds a structure 'a'"), ("b/c", "cannot be called 'b/c'")):
        pairs = [(labelled("new"), "train"), (labelled(name), "train")]
        with pytest.raises(InputError, match=message):
            hdf5.append_all(path, pairs, REFERENCE)
    assert hdf5.read_names(path) == ["a"]  # none of several, if one is refused
    with pytest.raises(InputError, match=r"another reference \(cutoff_Ry is 1\.0, not 2\.0\)"):
        hdf5.append(path, labelled("b"), "train", REFERENCE | {"cutoff_Ry": 2.0})
    with pytest.raises(InputError, match="no structure 'b'; it has a"):
        read_structure(path, "b")
    with pytest.raises(InputError, match="no split 'test'; it has train"):
        read_split(path, "test")
    with pytest.raises(InputError, match=r"nowhere\.h5 does not exist"):
        read_splits(tmp_path / "nowhere.h5")
    (tmp_path / "text.h5").write_text("nonsense")
    with pytest.raises(InputError, match="as HDF5"):
        read_splits(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w"):
        pass
    with pytest.raises(InputError, match="not a data set of this package"):
        read_splits(tmp_path / "other.h5")
    with h5py.File(path, "a") as file:
        del file["a"].attrs["split"]
    with pytest.raises(InputError, match=r"'a' .* is damaged: it has no attribute 'split'"):
        read_splits(path)
    for unwritable in (tmp_path, Path("/dev/null/data.h5"), Path("/proc/data.h5")):
        with pytest.raises(InputError, match=f"cannot write {re.escape(str(unwritable))}"):
            hdf5.append(unwritable, labelled("a"), "train", REFERENCE)


def test_damaged_data_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_text("nonsense")
    with pytest.raises(InputError, match=r"a\.npz is not a labelled structure"):
        read_split(tmp_path, "all")
    for content in (b"", b"PK\x03\x04 and no more"):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npz is not a labelled structure"):
            read_split(tmp_path, "all")
    (tmp_path / "split.json").write_text('{"train": ["b"]}')
    with pytest.raises(InputError, match="names b"):
        read_split(tmp_path, "train")
    np.savez(tmp_path / "a.npz", numbers=14, positions=np.zeros(3), cell="a cell")
    with pytest.raises(InputError, match=r"a\.npz is not a labelled structure"):
        read_structure(tmp_path, "a")
    for content in (b'["a"]', b"nonsense", b"\xff\xfe"):
        (tmp_path / "split.json").write_bytes(content)
        with pytest.raises(InputError, match=r"split\.json does not map each split to a list of names"):
            read_split(tmp_path, "train")


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the reference data {SHARED} are not here")
def test_reference_data_are_read_with_their_splits() -> None:
    validation = read_split(SHARED, "validation")
    assert [label.name for label in validation] == ["h106_min", "v106_0", "v106_1"]
    label = validation[0]
    levels = np.linalg.eigvalsh(label.hamiltonian)[: len(label.occupied)]
    np.testing.assert_allclose(levels, label.occupied, atol=1e-5)
    assert label.energy == pytest.approx(-31477.5, abs=1.0)


def test_data_sets_are_merged_if_their_energies_compare(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.h5" for name in "abc"]
    for path, split, method in zip(files, ("train", "test", "train"), ("PBE", "PBE", "LDA"), strict=True):
        system = System(np.array([8]), np.zeros((1, 3)), 9 * np.eye(3))
        label = LabelledStructure(path.stem, system, -1.0, np.zeros((1, 3)), hamiltonian=np.eye(4))
        hdf5.append(path, label, split, {"description": method})
    merged = tmp_path / "merged.h5"
    command = ["convert", *map(str, files[:2]), "--out", str(merged)]
    for _ in range(2):  # what is there already is skipped
        assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    assert read_splits(merged) == {"train": ["a"], "test": ["b"]}
    assert hdf5.read_reference(merged) == {"description": "PBE"}
    np.testing.assert_array_equal(read_structure(merged, "b").hamiltonian, np.eye(4))
    with pytest.raises(InputError, match=r"c\.h5 holds energies of another reference .*LDA, not PBE"):
        CliRunner().invoke(app, [*command, str(files[2])], catch_exceptions=False)
    with pytest.raises(InputError, match=r"a\.h5 holds energies of another reference .*PBE, not LDA"):
        CliRunner().invoke(app, [*command, "--reference", "LDA"], catch_exceptions=False)


def test_energies_and_forces_of_others_are_imported(tmp_path: Path) -> None:
    frames = []
    for k in range(2):
        atoms = Atoms("SiO2", positions=np.eye(3) + k, cell=[6, 6, 6], pbc=True)
        atoms.calc = SinglePointCalculator(atoms, energy=-5.0 - k, forces=np.eye(3), stress=np.arange(6.0))
        frames.append(atoms)
    ase.io.write(tmp_path / "frames.extxyz", frames)
    command = ["convert", "frames.extxyz", "--reference", "VASP PBE", "--out", "data.h5"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0
    with pytest.raises(InputError, match="there is no --reference: it tells methods apart"):
        CliRunner().invoke(app, [*command[:3], " ", *command[4:]], catch_exceptions=False)
    assert "2 structures of O, Si: -2.000 to -1.667 eV per atom, largest force 1.000" in result.stderr
    labels = read_split(tmp_path / "data.h5", "train")
    assert [label.energy for label in labels] == [-5.0, -6.0]
    np.testing.assert_allclose(labels[0].forces, np.eye(3))
    np.testing.assert_allclose(labels[0].stress[0], [0.0, 5.0, 4.0])
    assert labels[0].hamiltonian is None
    atoms.calc = SinglePointCalculator(atoms, energy=-5.0, free_energy=-5.5, forces=np.eye(3))
    ase.io.write(tmp_path / "smeared.extxyz", atoms)
    (smeared,) = from_ase_files([tmp_path / "smeared.extxyz"])
    assert smeared.energy == -5.5  # forces are the derivative of the free energy
    atoms.calc = SinglePointCalculator(atoms, energy=-5.0, forces=np.full((3, 3), np.nan))
    ase.io.write(tmp_path / "failed.extxyz", atoms)
    with pytest.raises(InputError, match=r"structure 'failed': forces is not finite"):
        from_ase_files([tmp_path / "failed.extxyz"])
    ase.io.write(tmp_path / "bare.xyz", Atoms("Si", cell=[3, 3, 3], pbc=True))
    with pytest.raises(InputError, match="'bare' has no energy or no forces"):
        command[1] = str(tmp_path / "bare.xyz")
        CliRunner().invoke(app, command, catch_exceptions=False)


def test_an_interrupted_import_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "AT_ONCE", 2)
    path, labels = tmp_path / "data.h5", [labelled(f"s{k}", k) for k in range(5)]

    def failing():
        yield from [(label, "train") for label in labels[:3]]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hdf5.append_missing(path, failing(), REFERENCE)
    assert hdf5.read_names(path) == ["s0", "s1"]
    wanted = [(label, "train" if k < 2 else "test") for k, label in enumerate(labels)]
    seen, n_held = hdf5.append_missing(path, wanted, REFERENCE)
    assert ([label.name for label in seen], n_held) == (["s0", "s1", "s2", "s3", "s4"], 2)
    assert read_splits(path) == {"train": ["s0", "s1"], "test": ["s2", "s3", "s4"]}
    assert hdf5.append_missing(path, [(labels[0], "train")], REFERENCE)[1] == 1
    with pytest.raises(InputError, match="holds 's0' in the split 'train', not 'test'; keep to it"):
        hdf5.append_missing(path, [(labels[0], "test")], REFERENCE)
    for other in (replace(labels[0], energy=1.0), labelled("s0", 9)):
        with pytest.raises(InputError, match="holds another structure called 's0'"):
            hdf5.append_missing(path, [(other, "train")], REFERENCE)
    with pytest.raises(InputError, match="another reference"):
        hdf5.append_missing(path, [(labels[0], "train")], REFERENCE | {"cutoff_Ry": 2.0})


@pytest.mark.parametrize(
    ("eV_per_atom", "unit"),
    [(-15.9, "eV"), (-15.9 / 27.2114, "hartree"), (-15.9 / 13.6057, "rydberg"), (-3.4, None)],
)
def test_energies_in_other_units_are_warned_of(tmp_path: Path, eV_per_atom: float, unit: str | None) -> None:
    """Hydrogen: 13.6 eV for an isolated atom, 2.3 eV more in the molecule; -3.4 eV is VASP's."""
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.75]], cell=[6, 6, 6], pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=2 * eV_per_atom, forces=np.zeros((2, 3)))
    ase.io.write(tmp_path / "frames.extxyz", atoms)
    command = [
        "convert",
        str(tmp_path / "frames.extxyz"),
        "--reference",
        "x",
        "--out",
        str(tmp_path / "data.h5"),
    ]
    for n_held in (0, 1):
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        warned = re.findall(r"warning: an energy of \S+ per atom looks like (\w+), not eV", result.stderr)
        assert warned == ([unit] if unit not in (None, "eV") else [])
        assert (", 1 were there already" in result.stderr) == n_held


def test_energies_of_two_units_are_not_mixed(tmp_path: Path) -> None:
    frames = []
    for name, eV_per_atom in (("eV", -15.9), ("hartree", -15.9 / 27.2114)):
        atoms = Atoms(
            "H2", positions=[[0, 0, 0], [0, 0, 0.75]], cell=[6, 6, 6], pbc=True, info={"name": name}
        )
        atoms.calc = SinglePointCalculator(atoms, energy=2 * eV_per_atom, forces=np.zeros((2, 3)))
        ase.io.write(tmp_path / f"{name}.extxyz", atoms)
        frames.append(str(tmp_path / f"{name}.extxyz"))
    options = ["--reference", "x", "--out", str(tmp_path / "data.h5")]
    assert CliRunner().invoke(app, ["convert", frames[0], *options]).exit_code == 0
    refused = CliRunner().invoke(app, ["convert", frames[1], *options])
    message = (
        r"'hartree' has an energy of -0.584 per atom, which looks like hartree, and .* in eV; convert them"
    )
    assert isinstance(refused.exception, InputError) and re.search(message, str(refused.exception))
    assert hdf5.read_names(tmp_path / "data.h5") == ["eV"]


def test_energies_that_bind_more_than_any_solid_are_of_another_zero() -> None:
    """AlP as VASP counts it, from neutral atoms: in hartree it would be 1.3 times that of isolated atoms."""
    system = System(np.array([13, 15]), np.array([[0, 0, 0], [1.36, 1.36, 1.36]]), 2.73 * (1 - np.eye(3)))
    label = LabelledStructure("alp", system, -10.37, np.zeros((2, 3)))
    assert energy_unit([label]) is None
    assert energy_unit([replace(label, energy=-10.37 * 22.0)]) == "eV"


def test_energies_under_other_names_are_imported(tmp_path: Path) -> None:
    atoms = Atoms("SiO2", positions=np.eye(3), cell=[6, 6, 6], pbc=True, info={"REF_energy": -7.0})
    atoms.set_array("REF_forces", 2.0 * np.eye(3))
    ase.io.write(tmp_path / "frames.extxyz", atoms)
    paths = [tmp_path / "frames.extxyz"]
    (label,) = from_ase_files(paths, "REF_energy", "REF_forces")
    assert (label.energy, label.stress) == (-7.0, None)
    np.testing.assert_allclose(label.forces, 2.0 * np.eye(3))
    with pytest.raises(InputError, match=r"it has .*REF_energy.*REF_forces: name them by --energy-key"):
        from_ase_files(paths)
    with pytest.raises(InputError, match="no energy"):
        from_ase_files(paths, "energy", "REF_forces")
    atoms.info["REF_stress"] = np.arange(1.0, 7.0)
    atoms.calc = SinglePointCalculator(atoms, energy=-8.0, forces=np.zeros((3, 3)), stress=np.zeros(6))
    ase.io.write(tmp_path / "frames.extxyz", atoms)
    (label,) = from_ase_files(paths, "REF_energy", "REF_forces", "REF_stress")
    np.testing.assert_allclose(label.stress, [[1, 6, 5], [6, 2, 4], [5, 4, 3]])
    (label,) = from_ase_files(paths, "energy", "forces")  # names that ASE keeps for itself
    assert (label.energy, label.stress) == (-8.0, None)
    for keys in (("REF_energy", None), (None, "REF_forces")):
        with pytest.raises(InputError, match=r"'REF_\w+', which may be of another: name both"):
            from_ase_files(paths, *keys)


@pytest.mark.parametrize(
    ("change", "message"), [({"pbc": False}, "'bad': pbc is"), ({"info": {"E": "low"}}, "'bad': could not")]
)
def test_a_frame_that_cannot_be_imported_is_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    given = {"pbc": True, "info": {"E": -7.0}} | change
    bad = Atoms("O2", positions=np.eye(3)[:2], cell=[6, 6, 6], pbc=given["pbc"], info=given["info"])
    bad.info["name"] = "bad"
    bad.set_array("F", np.zeros((2, 3)))
    ase.io.write(tmp_path / "frames.extxyz", bad)
    with pytest.raises(InputError, match=message):
        from_ase_files([tmp_path / "frames.extxyz"], "E", "F")


def test_a_file_that_grows_gives_each_structure_once(tmp_path: Path) -> None:
    """The one of a file that has no other is named after the file alone."""
    frames = []
    for k in range(3):
        atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.7 + 0.1 * k]], cell=[6, 6, 6], pbc=True)
        atoms.calc = SinglePointCalculator(atoms, energy=-31.0 + k, forces=np.zeros((2, 3)))
        frames.append(atoms)
        ase.io.write(tmp_path / "md.extxyz", frames)
        labels = ((label, "train") for label in from_ase_files([tmp_path / "md.extxyz"]))
        _, n_held = hdf5.append_missing(tmp_path / "data.h5", labels, {"description": "x"})
        assert n_held == k
    assert read_splits(tmp_path / "data.h5") == {"train": ["md", "md_1", "md_2"]}


def test_the_split_of_a_folder_without_one_is_the_one_asked_for(tmp_path: Path) -> None:
    (tmp_path / "npz").mkdir()
    arrays = {"numbers": [8], "positions": np.zeros((1, 3)), "cell": 9 * np.eye(3), "energy_Ha": -1.0}
    arrays |= {"forces_Ha_bohr": np.zeros((1, 3)), "h_min_Ha": np.eye(4), "eig_Ha": np.ones(4), "nocc": 3}
    np.savez(tmp_path / "npz" / "atom.npz", **arrays)
    command = ["convert", str(tmp_path / "npz"), "--reference", "x", "--out", str(tmp_path / "data.h5")]
    assert CliRunner().invoke(app, [*command, "--split", "test"]).exit_code == 0
    assert read_splits(tmp_path / "data.h5") == {"test": ["atom"]}


def test_forces_on_held_atoms_and_names_of_runs_are_imported(tmp_path: Path) -> None:
    """ASE gives zero for atoms that a constraint holds; frames of one name get numbers."""
    atoms = Atoms(
        "O2", positions=[[0, 0, 0], [0, 0, 1.2]], cell=[4, 4, 4], pbc=True, constraint=FixAtoms([0])
    )
    atoms.info["name"] = "config"
    atoms.calc = SinglePointCalculator(atoms, energy=-5.0, forces=np.array([[0, 0, 1.0], [0, 0, -1.0]]))
    ase.io.write(tmp_path / "held.extxyz", [atoms, atoms])
    labels = from_ase_files([tmp_path / "held.extxyz"])
    assert [label.name for label in labels] == ["config_0", "config_1"]
    np.testing.assert_allclose(labels[0].forces, [[0, 0, 1.0], [0, 0, -1.0]])
    runs = ["first", "second"]
    for run in runs:
        (tmp_path / run).mkdir()
        ase.io.write(tmp_path / run / "CONTCAR", Atoms("Si", cell=[3, 3, 3], pbc=True), format="vasp")
    assert list(read_frames([tmp_path / run / "CONTCAR" for run in ("first", "second")])) == [
        "first",
        "second",
    ]
    (tmp_path / "empty").write_text("")
    with pytest.raises(InputError, match=r"cannot read structures from .*empty: \S"):
        read_frames([tmp_path / "empty"])


def test_a_reference_that_is_no_json_and_a_stress_of_six_are_refused(tmp_path: Path) -> None:
    system = System(np.array([14]), np.zeros((1, 3)), 3 * np.eye(3))
    with pytest.raises(InputError, match=r"stress has the shape \(6,\), not \(3, 3\)"):
        LabelledStructure("a", system, -1.0, np.zeros((1, 3)), stress=np.zeros(6))
    hdf5.append(tmp_path / "data.h5", LabelledStructure("a", system, -1.0, np.zeros((1, 3))), "train", {})
    with h5py.File(tmp_path / "data.h5", "a") as file:
        file.attrs["reference"] = "VASP PBE"
    with pytest.raises(InputError, match=r"is 'VASP PBE', and must be a JSON object"):
        hdf5.read_reference(tmp_path / "data.h5")

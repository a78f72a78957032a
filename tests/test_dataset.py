"""The data of a training: what does not fit the settings, or other data, is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import CONFIG

from mlh_driver.data import hdf5, read_structure
from mlh_driver.errors import InputError
from mlh_driver.training.settings import DataSettings, read_settings
from mlh_driver.training.trainer import Trainer


def test_energies_of_two_references_are_not_mixed(folder: Path) -> None:
    label = read_structure(folder / "data", "s0")
    for functional in ("PBE", "SCAN"):
        renamed = replace(label, name=functional)
        hdf5.append(folder / f"{functional}.h5", renamed, "train", {"functional": functional})
    settings = read_settings(folder / "tiny.toml")
    sources = [
        DataSettings(path=folder / f"{functional}.h5", validation=()) for functional in ("PBE", "SCAN")
    ]
    with pytest.raises(InputError, match=r"SCAN.*not.*PBE"):
        Trainer(settings.model_copy(update={"data": (*settings.data, *sources)}))
    drafts = sources[1].model_copy(update={"learn": "hamiltonian"})
    Trainer(settings.model_copy(update={"data": (*settings.data, sources[0], drafts)}))


def test_data_that_do_not_fit_the_settings_are_refused(folder: Path) -> None:
    settings = read_settings(folder / "tiny.toml")
    label = read_structure(folder / "data", "s0")
    hdf5.append(folder / "again.h5", label, "train", {})
    again = DataSettings(path=folder / "again.h5", validation=())
    with pytest.raises(InputError, match="two structures of the data are called s0"):
        Trainer(settings.model_copy(update={"data": (*settings.data, again)}))

    pairs = label.n_occupied
    assert pairs is not None
    hdf5.append(folder / "ion.h5", replace(label, name="ion", n_occupied=pairs - 1), "train", {})
    ion = DataSettings(path=folder / "ion.h5", validation=())
    with pytest.raises(InputError, match=f"ion: by .* has {2 * pairs} .*its label has {2 * pairs - 2}"):
        Trainer(settings.model_copy(update={"data": (*settings.data, ion)}))
    silicon, oxygen = settings.species
    odd = oxygen.model_copy(update={"electrons": (2, 4 + 1 / (label.system.numbers == 8).sum())})
    with pytest.raises(InputError, match=f"{2 * pairs + 1} valence electrons"):
        Trainer(settings.model_copy(update={"species": (silicon, odd)}))

    aluminum = silicon.model_copy(update={"symbol": "Al"})
    with pytest.raises(InputError, match="have 0 Al atoms"):
        Trainer(settings.model_copy(update={"species": (*settings.species, aluminum)}))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('path = "data"', 'path = "data"\nnames = "v*"', r"is called 'v\*'; there are s0, s1, s2"),
        ('path = "data"', 'path = "data"\nvalidation = ["test"]', r"no split 'test'; .* validation = \[\]"),
        ("atom_energy_eV = -400.0", "atom_energy_eV = 400.0", "energies must be in eV, and atom_energy_eV"),
        ('name = "tiny"', 'name = "Si/O"', "name"),
        ('output = "run"', 'output = "tiny.toml/run"', "cannot be made"),
    ],
)
def test_data_that_cannot_be_meant_are_refused(folder: Path, old: str, new: str, message: str) -> None:
    (folder / "tiny.toml").write_text(CONFIG.replace(old, new))
    with pytest.raises(InputError, match=message):
        Trainer(read_settings(folder / "tiny.toml"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"numbers": np.full(16, 6)},
            r"s1 has C, which is no species of the training; add a \[\[species",
        ),
        ({"positions": np.zeros((16, 3))}, "s1: "),
    ],
)
def test_structures_that_cannot_be_trained_on_are_named(
    folder: Path, change: dict[str, np.ndarray], message: str
) -> None:
    with np.load(folder / "data" / "s1.npz") as arrays:
        wrong = {**arrays, **{key: value[: len(arrays["numbers"])] for key, value in change.items()}}
    np.savez(folder / "data" / "s1.npz", **wrong)
    with pytest.raises(InputError, match=message):
        Trainer(read_settings(folder / "tiny.toml"))


def test_a_copy_of_a_training_structure_validates_nothing(folder: Path) -> None:
    (folder / "data" / "s2.npz").write_bytes((folder / "data" / "s0.npz").read_bytes())
    with pytest.raises(InputError, match="s2, for validation, is the structure s0 of the training"):
        Trainer(read_settings(folder / "tiny.toml"))


def test_structures_without_a_hamiltonian_teach_energies_and_forces(folder: Path) -> None:
    settings = read_settings(folder / "tiny.toml")
    for name in ("s0", "s2"):
        label = replace(read_structure(folder / "data", name), hamiltonian=None, eigenvalues=None)
        split = "train" if name == "s0" else "validation"
        hdf5.append(folder / "bare.h5", label, split, {"engine": "a random model"})
    bare = DataSettings(path=folder / "bare.h5")
    with pytest.raises(InputError, match="no training structure has a Hamiltonian"):
        Trainer(settings.model_copy(update={"data": (bare,)}))
    mixed = DataSettings(path=folder / "data", names="s1", validation=())
    Trainer(settings.model_copy(update={"data": (bare, mixed)})).run()
    records = [json.loads(line) for line in (settings.output / "log.jsonl").read_text().splitlines()]
    assert "H_mae_meV" not in records[-1]  # the only structure for validation has none
    assert records[-1]["forces_rmse_meV_A"] > 0

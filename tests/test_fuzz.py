"""Whatever a peer or a file says: an answer or an error of the package, and no memory without bound."""

from __future__ import annotations

import pickle
import socket
import struct
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import MINIMAL_SIO2, REPOSITORY, SMALL_NETWORK, random_model, small_system

from mlh_driver import load_model
from mlh_driver.data import LabelledStructure, hdf5, read_split
from mlh_driver.engine_settings import EngineSettings
from mlh_driver.errors import ConnectionLost, InputError, ModelFileError, StructureError
from mlh_driver.interfaces.sockets.template import Template
from mlh_driver.interfaces.sockets.wire import Channel
from mlh_driver.network.network import HamiltonianNetwork
from mlh_driver.settings import read_toml
from mlh_driver.system import System
from mlh_driver.training.settings import TrainSettings

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(REPOSITORY / "examples")
    import fuzz


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # ASE and torch warn of what is damaged
@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_every_case_ends_with_an_answer_or_with_an_error_of_the_package(kind: str) -> None:
    outcomes = fuzz.fuzz(kind, 200)
    assert outcomes.total() >= 150
    assert len(outcomes) >= 2  # neither all good nor all refused


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack("=i", 2**31 - 1),
        struct.pack("=i", -5),
    ],
)
def test_a_message_of_absurd_size_is_refused_before_memory_is_taken(sent: bytes) -> None:
    here, there = socket.socketpair()
    with here, there:
        there.sendall(sent)
        tracemalloc.start()
        with pytest.raises(ConnectionLost, match=r"announces -?\d+ bytes"):
            Channel(here).read_text()
        with pytest.raises(ConnectionLost, match="announces 80000000000000000000 bytes"):
            Channel(here).read_reals(10**18, 10)
        assert tracemalloc.get_traced_memory()[1] < 1e6
        tracemalloc.stop()


@pytest.mark.parametrize("text", ["batch_size:²", "batch_size:99999999999999999999", "batch_size:-3"])
def test_a_batch_size_that_is_none(text: str) -> None:
    from mlh_driver.interfaces.sockets.session import _batch_size

    assert _batch_size(text) == 1


@pytest.mark.parametrize("numbers", ["[8.5, 8, 8]", "[[8], [8], [8]]", "[-1]", "[99999999999999999999]", "3"])
def test_elements_of_the_wire_are_atomic_numbers(numbers: str) -> None:
    text = f'{{"protocol": 1, "numbers": {numbers}}}'.encode()
    sent = b"INIT        " + struct.pack("=ii", 0, len(text)) + text
    with pytest.raises(InputError, match="INIT must be"):
        fuzz.wire((False, sent))


def test_absurd_places_and_cells_are_no_structures(tmp_path: Path) -> None:
    for positions, cell in ((1e300 * np.ones((1, 3)), 9 * np.eye(3)), (np.ones((1, 3)), 1e200 * np.eye(3))):
        with pytest.raises(StructureError):
            System(np.array([8]), positions, cell)
    (tmp_path / "RESTART").write_text(
        "<simulation><system><beads><names>[O]</names><q>[]</q></beads></system></simulation>"
    )
    with pytest.raises(InputError, match="no checkpoint of i-PI"):
        Template.read(tmp_path / "RESTART")


def test_settings_that_only_a_stranger_would_write(tmp_path: Path) -> None:
    for text in ("a = " + "[" * 100_000, "a = " + "9" * 5000):
        (tmp_path / "train.toml").write_text(text)
        with pytest.raises(InputError, match="not valid TOML"):
            read_toml(tmp_path / "train.toml", TrainSettings)
    for value in (float("inf"), 10**400):
        with pytest.raises(InputError):
            EngineSettings.parse({"threads": float("inf"), "electronic_temperature_K": value})


def test_no_code_of_a_model_file_runs(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "it_ran",)

    torch.save({"format_version": 4, "metadata": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"format_version": Evil()}))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(ModelFileError, match="is not a model file, or it is damaged"):
            load_model(tmp_path / name)
    assert not (tmp_path / "it_ran").exists()


def test_model_files_that_would_fill_the_memory_or_have_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    random_model().save(path)
    whole = path.read_bytes()
    weights = torch.load(path, weights_only=True)["network"]["repulsion"].numpy().tobytes()
    place = whole.index(weights) + 1
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(ModelFileError, match="damaged"):  # by its checksum: it is a number like any other
        load_model(path)
    path.write_bytes(whole)
    with (
        zipfile.ZipFile(path) as archive,
        zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in archive.namelist():
            small.writestr(name, archive.read(name))
    with pytest.raises(ModelFileError, match="damaged"):
        load_model(tmp_path / "small.pt")
    for changes in ({"channels": 10**9}, {"pair_hidden": (10**9, 8, 8)}, {"lmax": 60}, {"n_radial": -1}):
        with pytest.raises(InputError, match=r"sizes of the network|must be 2 at least"):
            HamiltonianNetwork(MINIMAL_SIO2, replace(SMALL_NETWORK, **changes))


def test_a_data_set_that_declares_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path, system = tmp_path / "data.h5", small_system()
    hdf5.append(path, LabelledStructure("a", system, -1.0, np.zeros((12, 3))), "train", {})
    for name, shape in (("positions", (10**10, 3)), ("eigenvalues", (10**9,)), ("stress", (10**6, 10**6))):
        other = tmp_path / f"{name}.h5"
        other.write_bytes(path.read_bytes())
        with h5py.File(other, "a") as file:
            if name in file["a"]:
                del file["a"][name]
            file["a"].create_dataset(name, shape=shape, chunks=(1000, 1)[: len(shape)], dtype="f8")
        with pytest.raises(
            InputError, match=rf"'a' of .*is damaged: /a/{name} has \d+ bytes, more than are in"
        ):
            read_split(other, "train")
    assert len(read_split(path, "train")) == 1

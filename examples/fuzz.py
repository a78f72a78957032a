"""Feed the package what no honest peer or file says, and count what comes of it.

    python examples/fuzz.py --cases 1000 wire remote settings structures model data

Each case must end with an answer or with an error of the package: anything else is a defect, which is printed
in the smallest form that hypothesis finds. Needs ``pip install hypothesis``. Cases of ``wire`` are what an MD
engine sends to a driver, those of ``remote`` what a server sends to an engine, ``settings`` are TOML files
and engine parameters; ``structures``, ``model`` and ``data`` are files with some bytes changed, left out or
repeated. The process may take 4 GB, so that a case that fills the memory is noticed.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import struct
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from rich.console import Console

from mlh_driver.data import hdf5, read_splits, read_structure
from mlh_driver.data.structure import LabelledStructure
from mlh_driver.engine_settings import EngineSettings
from mlh_driver.errors import MLHError
from mlh_driver.extrapolation import ExtrapolationIndicator
from mlh_driver.interfaces.sockets.remote import RemoteEngine
from mlh_driver.interfaces.sockets.session import DriverSession, extras_for_remote
from mlh_driver.interfaces.sockets.session_log import SessionLog
from mlh_driver.interfaces.sockets.template import Template
from mlh_driver.interfaces.sockets.wire import Channel, header, pack_forces, pack_system, to_atomic_units
from mlh_driver.learning.settings import LearnSettings
from mlh_driver.model import Model, load_model
from mlh_driver.network.network import HamiltonianNetwork, NetworkSettings
from mlh_driver.results import Results
from mlh_driver.settings import read_toml
from mlh_driver.structures import read_frames
from mlh_driver.system import System
from mlh_driver.training.settings import TrainSettings

EXAMPLES = Path(__file__).parent
MEMORY_BYTES = 4 << 30
QUARTZ = System(np.array([14, 8, 8]), np.eye(3), 8.0 * np.eye(3))
PATIENCE_S = 5.0
AT_ONCE = 1000
"""Cases of one seed: hypothesis remembers all of them."""


class Zero:
    """An engine that computes nothing."""

    def check_species(self, numbers: Any) -> None:
        """All are known."""

    def close(self) -> None:
        """There is nothing to give back."""

    def compute(self, system: System) -> Results:
        n = len(system)
        zeros = {
            name: 0.0 for name in ("band_energy", "electronic_entropy", "extrapolation", "charge_deviation")
        }
        levels = {"band_gap": 5.0, "fermi_level": 0.0, "homo": -2.5, "lumo": 2.5}
        atoms = {name: np.zeros(n) for name in ("energies", "charges", "extrapolations", "charge_deviations")}
        return Results(
            energy=0.0, forces=np.zeros((n, 3)), stress=np.zeros((3, 3)), **zeros, **levels, **atoms
        )


def changed(valid: bytes) -> st.SearchStrategy[bytes]:
    """Bytes with some of them replaced, cut, repeated or inserted."""
    place = st.integers(0, max(len(valid) - 1, 0))
    change = st.tuples(
        st.sampled_from(("set", "cut", "repeat", "insert", "end")), place, place, st.binary(max_size=8)
    )

    def apply(changes: list[tuple[str, int, int, bytes]]) -> bytes:
        content = valid
        for kind, i, j, new in changes:
            a, b = sorted((i, j))
            content = {
                "set": content[:i] + new + content[i + len(new) :],
                "cut": content[:a] + content[b:],
                "repeat": content[:b] + content[a:],
                "insert": content[:i] + new + content[i:],
                "end": content[:i],
            }[kind]
        return content

    return st.lists(change, min_size=1, max_size=4).map(apply)


def conversation() -> st.SearchStrategy[bytes]:
    """What may come from an MD engine: messages in any order, sizes and numbers of any kind, then damage."""
    count = st.one_of(st.integers(0, 9), st.integers(-(2**31), 2**31 - 1))
    text = st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [
                b'{"protocol": 1, "numbers": [14, 8, 8]}',
                b'{"protocol": 1, "numbers": [99999999999999999999]}',
                b"[" * 9999,
                b"{" * 99,
            ]
        ),
        count.map(lambda n: f"batch_size:{n}".encode()),
    )
    real = st.floats(width=64)
    size = st.one_of(st.none(), count)
    init = st.tuples(count, size, text).map(
        lambda t: header("INIT") + struct.pack("=ii", t[0], len(t[2]) if t[1] is None else t[1]) + t[2]
    )
    n_atoms, reals = st.one_of(st.just(3), count), st.lists(real, min_size=27, max_size=27)
    positions = st.tuples(n_atoms, reals).map(
        lambda t: header("POSDATA") + struct.pack("=18di9d", *t[1][:18], t[0], *t[1][18:])
    )
    named = [header(name) for name in ("STATUS", "GETFORCE", "EXIT", "WORKING", "NONSENSE")]
    message = st.one_of(
        st.sampled_from([*named, pack_system(QUARTZ)]), init, positions, st.binary(max_size=60)
    )
    return (
        st.lists(message, max_size=8)
        .map(b"".join)
        .flatmap(lambda whole: st.one_of(st.just(whole), changed(whole)))
    )


def wire(case: tuple[bool, bytes]) -> None:
    """A driver with a template of three atoms, or with none."""
    has_template, sent = case
    here, there = socket.socketpair()
    with here, there:
        there.sendall(sent)
        there.shutdown(socket.SHUT_WR)
        channel = Channel(here)
        channel.set_timeout(PATIENCE_S)
        template = Template.from_numbers([14, 8, 8], "the test") if has_template else None
        try:
            DriverSession(channel, Zero(), template, SessionLog(Console(quiet=True))).run()
        except MLHError as error:
            if error.__cause__ is not None:  # a session makes an MLHError of everything
                raise error.__cause__ from None
            raise


def answers() -> st.SearchStrategy[bytes]:
    """What may come from a server, after NEEDINIT."""
    results = Zero().compute(QUARTZ)
    energy, forces, virial = to_atomic_units(results, QUARTZ.volume)
    extras = extras_for_remote(results)
    good = pack_forces([energy], [forces], [virial], [extras])
    failed = json.dumps({"error": "StructureError", "message": "no"}).encode()
    odd = [extras.replace("0.0", value) for value in ("[]", '"x"', "null", "1e999")] + [
        "[]",
        "{}",
        "[" * 9999,
    ]
    whole = [good, header("FAILED") + struct.pack("=i", len(failed)) + failed, header("WORKING") + good]
    whole += [pack_forces([energy], [forces], [virial], [text]) for text in odd]
    whole += [
        header("FAILED") + struct.pack("=i", len(text)) + text
        for text in (b"[]", b"{}", b"x", b'{"error": 1}')
    ]
    answer = st.sampled_from(whole).flatmap(lambda one: st.one_of(st.just(one), changed(one)))
    return st.one_of(answer.map(lambda one: header("READY") + one), st.binary(max_size=200))


def remote(sent: bytes) -> None:
    """An engine that asks such a server."""
    here, there = socket.socketpair()
    with here, there, mock.patch("mlh_driver.interfaces.sockets.remote.connect", lambda *_: here):
        there.sendall(header("NEEDINIT") + sent)
        there.shutdown(socket.SHUT_WR)
        engine = RemoteEngine("unix:nowhere")
        with engine:
            engine.compute(QUARTZ)


def files(*names: str) -> st.SearchStrategy[tuple[str, bytes]]:
    """Files of the examples, damaged, with their names."""
    contents = [(Path(name).name, (EXAMPLES / name).read_bytes()) for name in names]
    return st.sampled_from(contents).flatmap(lambda one: st.tuples(st.just(one[0]), changed(one[1])))


def parameters() -> st.SearchStrategy[Any]:
    value = st.one_of(
        st.text(max_size=9), st.integers(), st.floats(), st.none(), st.lists(st.integers(), max_size=2)
    )
    names = st.sampled_from([*EngineSettings.__dataclass_fields__, "solvr"])
    return st.one_of(
        st.dictionaries(names, value, max_size=4), files("tutorial/train.toml", "tutorial/learn.toml")
    )


def settings_files(case: Any) -> None:
    if isinstance(case, dict):
        EngineSettings.parse(case)
        return
    name, content = case
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder, name)).write_bytes(content)
        read_toml(path, TrainSettings if name == "train.toml" else LearnSettings)


def structures(case: tuple[str, bytes]) -> None:
    name, content = case
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder, name)).write_bytes(content)
        try:
            for atoms in read_frames([path]).values():
                System.from_ase(atoms)
        finally:
            Template.read(path)


def small_data() -> bytes:
    """A data set of two structures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data.h5")
        for name in ("a", "b"):
            label = LabelledStructure(
                name, QUARTZ, -1.0, np.zeros((3, 3)), np.eye(3), np.eye(12), np.arange(12.0), 8
            )
            hdf5.append(path, label, "train", {"description": "none"})
        return path.read_bytes()


def data(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder, "data.h5")).write_bytes(content)
        for names in read_splits(path).values():
            for name in names:
                read_structure(path, name)


def small_model() -> bytes:
    """A model file of an untrained network."""
    shipped = load_model("asio2-minimal")
    layers = {"pair_hidden": (4, 2, 2), "hop_hidden": (4, 2, 2)}
    small = NetworkSettings(2, channels=2, pair_channels=2, n_radial=2, energy_channels=2, **layers)
    metadata = shipped.metadata.model_copy(update={"network": small, "training_data": ()})
    indicator = ExtrapolationIndicator(torch.zeros(2, 2), torch.zeros(2, 2, 2))
    network = HamiltonianNetwork(metadata.basis, small)
    with tempfile.TemporaryDirectory() as folder:
        Model(metadata, network, indicator, (QUARTZ,)).save(path := Path(folder, "model.pt"))
        return path.read_bytes()


def model(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder, "model.pt")).write_bytes(content)
        load_model(path)


Kind = tuple[Callable[[], st.SearchStrategy[Any]], Callable[[Any], None]]
KINDS: dict[str, Kind] = {
    "wire": (lambda: st.tuples(st.booleans(), conversation()), wire),
    "remote": (answers, remote),
    "settings": (parameters, settings_files),
    "structures": (
        lambda: files("glass.xyz", "../lammps_inputs/nve/host.data", "../ipi_inputs/nve/init.xyz"),
        structures,
    ),
    "model": (lambda: changed(small_model()), model),
    "data": (lambda: changed(small_data()), data),
}
"""What a case is, and what happens to it."""


def fuzz(kind: str, cases: int) -> Counter[str]:
    """Run so many cases; returns how many ended with which error of the package, or with an answer.

    Raises what is no error of the package, for the smallest case that hypothesis finds.
    """
    make, run = KINDS[kind]
    strategy = make()
    outcomes: Counter[str] = Counter()

    def one(case: Any) -> None:
        try:
            run(case)
            outcomes["answer"] += 1
        except MLHError as error:
            outcomes[type(error).__name__] += 1

    for number in range(0, cases, AT_ONCE):
        chosen = settings(
            max_examples=min(AT_ONCE, cases - number),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink),
        )
        seed(number)(chosen(given(strategy)(one)))()
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", choices=[[], *KINDS], default=list(KINDS))
    parser.add_argument("--cases", type=int, default=1000)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.simplefilter("ignore")
    for kind in options.kinds:
        start = time.monotonic()
        outcomes = fuzz(kind, options.cases)
        seconds = time.monotonic() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        counts = ", ".join(f"{name} {count}" for name, count in outcomes.most_common())
        print(f"{kind:10} {outcomes.total():7} cases {seconds:6.0f} s, {peak:.0f} MB: {counts}", flush=True)


if __name__ == "__main__":
    main()

"""Fixtures that several test files share."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch loads; several programs share the cores
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # what the package would say, were it imported first

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.spacegroup import crystal
from ase.units import Bohr, Hartree
from processes import Launcher, launching

from mlh_driver.basis import OrbitalBasis
from mlh_driver.engine import Engine
from mlh_driver.extrapolation import fit_indicator
from mlh_driver.graph import GraphBuilder
from mlh_driver.model import Model, ModelMetadata, load_model
from mlh_driver.network.network import HamiltonianNetwork, NetworkSettings
from mlh_driver.system import System

REPOSITORY = Path(__file__).parents[1]
MINIMAL_SIO2 = OrbitalBasis(
    species=("O", "Si"),
    shells=((0, 1), (0, 1)),
    occupations=((1.0, 2 / 3, 2 / 3, 2 / 3), (1.0, 1 / 3, 1 / 3, 1 / 3)),
)
_CELL = crystal(
    ["Si", "O"],
    [(0.3003, 0.3003, 0.0), (0.2392, 0.1044, 0.1787)],
    spacegroup=92,
    cellpar=[4.9717, 4.9717, 6.9223, 90, 90, 90],
)
#: The unit cell, of 12 atoms, without what ASE remembers of its spacegroup.
CRISTOBALITE = Atoms(_CELL.numbers, _CELL.positions, cell=_CELL.cell, pbc=True)
SMALL_NETWORK = NetworkSettings(
    channels=8,
    pair_channels=6,
    pair_hidden=(16, 8, 8),
    n_radial=6,
    hop_copies=2,
    hop_hidden=(8, 4, 4),
    energy_channels=8,
    pair_cutoff_A=5.0,
    message_cutoff_A=4.0,
    hop_cutoff_A=3.0,
)


def network_section(settings: NetworkSettings = SMALL_NETWORK) -> str:
    """The [network] section of a training file."""
    values = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(settings).items()}
    return "[network]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())


def glass(case: str) -> Atoms:
    """The start structure of one of the i-PI inputs."""
    lines = (REPOSITORY / "ipi_inputs" / case / "init.xyz").read_text().splitlines()
    cell = [float(word) for word in lines[1].split()[2:8]]
    rows = [line.split() for line in lines[2:]]
    positions = np.array([row[1:4] for row in rows], dtype=float)
    return Atoms([row[0] for row in rows], positions, cell=cell, pbc=True)


@pytest.fixture(scope="session")
def host() -> Atoms:
    """96 atoms of a-SiO2."""
    return glass("nve")


@pytest.fixture(scope="session")
def vacancy() -> Atoms:
    """The same size with one oxygen missing: 95 atoms."""
    return glass("vacancy_relaxation")


@pytest.fixture(scope="session")
def model64() -> Model:
    return load_model("asio2-minimal", dtype="float64")


@pytest.fixture
def engine64(model64: Model) -> Engine:
    return Engine(model64)


@pytest.fixture
def no_hang() -> Iterator[None]:
    """LAMMPS cannot be interrupted from Python: after three minutes the test process is ended."""
    faulthandler.dump_traceback_later(180, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Launcher]:
    """Starts programs in the folder of the test, and ends those that are left."""
    with launching(tmp_path) as launcher:
        yield launcher


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)


def random_model(basis: OrbitalBasis = MINIMAL_SIO2, settings: NetworkSettings = SMALL_NETWORK) -> Model:
    """An untrained model in double precision: enough for every property that holds by construction."""
    torch.manual_seed(1)
    network = HamiltonianNetwork(basis, settings).double()
    with torch.no_grad():
        network.repulsion.normal_()
        network.long_range.dipole.normal_(std=0.3)
        network.long_range.charge_factor.fill_(0.7)
        network.long_range.dipole_factors.copy_(torch.linspace(-0.5, 0.5, len(basis.species)))
        network.onsite[0].constant -= 8.0  # low levels on oxygen open a gap
    network.eval().requires_grad_(False)
    system = small_system(seed=3)
    if set(basis.species) != {"O", "Si"}:
        system = System(
            basis.numbers[np.arange(len(system)) % len(basis.numbers)], system.positions, system.cell
        )
    graph = GraphBuilder(basis, settings.pair_cutoff_A).build(system)
    indicator = fit_indicator(network(graph).descriptors, graph.species, len(basis.species))
    metadata = ModelMetadata(
        name="random",
        basis=basis,
        network=settings,
        atom_energies_eV=(-400.0,) * len(basis.species),
        reference="none",
        valid_range="none",
        license="",
        citation="",
        training_data=(),
    )
    return Model(metadata, network, indicator)


def small_system(seed: int = 0, n_atoms: int = 12) -> System:
    """Si4O8 at random places, at least 1.5 Å apart, in a triclinic cell smaller than the cutoff."""
    rng = np.random.default_rng(seed)
    cell = np.array([[5.8, 0.0, 0.0], [0.7, 6.1, 0.0], [-0.5, 0.9, 5.6]])
    atoms = Atoms(cell=cell, pbc=True)
    while len(atoms) < n_atoms:
        trial = atoms + Atoms("O" if len(atoms) % 3 else "Si", positions=[rng.random(3) @ cell])
        others = list(range(len(atoms)))
        if not others or trial.get_distances(-1, others, mic=True).min() > 1.5:
            atoms = trial
    return System.from_ase(atoms)


#: The settings of a short training on the structures of ``folder``.
CONFIG = (
    """
name = "tiny"
output = "run"
reference = "a random model"
valid_range = "nothing"

[[data]]
path = "data"

[[species]]
symbol = "Si"
shells = [0, 1]
electrons = [2, 2]
atom_energy_eV = -400.0

[[species]]
symbol = "O"
shells = [0, 1]
electrons = [2, 4]
atom_energy_eV = -400.0

"""
    + network_section()
    + """
[hamiltonian]
steps = 12
learning_rate = 1e-2
validate_every = 4

[energy]
steps = 8
learning_rate = 1e-2
validate_every = 4

[joint]
steps = 4
learning_rate = 1e-3
validate_every = 4
"""
)


@pytest.fixture(scope="module")
def teacher() -> Model:
    """Without bounds, as a network is while it is trained."""
    model = random_model()
    model.network.bounds.lift()
    return model


@pytest.fixture
def electrons_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model puts electrons on other atoms than it says; nothing holds them, as in training."""
    monkeypatch.setattr("mlh_driver.solvers.charge_response.TOLERATED_e", 1e6)


@pytest.fixture
def folder(tmp_path: Path, teacher: Model, electrons_free: None) -> Path:
    """A settings file and three structures labelled by a random model, H shifted by an arbitrary constant."""
    engine = Engine(teacher, electronic_temperature_K=0.0)
    (tmp_path / "data").mkdir()
    for k in range(3):
        system = small_system(seed=k)
        results, H = engine.compute(system), engine.hamiltonian(system)
        H = H + 7.0 * np.eye(len(H))
        np.savez(
            tmp_path / "data" / f"s{k}.npz",
            numbers=system.numbers,
            positions=system.positions,
            cell=system.cell,
            energy_Ha=results.energy / Hartree,
            forces_Ha_bohr=results.forces * Bohr / Hartree,
            h_min_Ha=H / Hartree,
            eig_Ha=np.linalg.eigvalsh(H) / Hartree,
            nocc=32,
            stress_eV_A3=results.stress,
        )
    (tmp_path / "data" / "split.json").write_text('{"train": ["s0", "s1"], "validation": ["s2"]}')
    (tmp_path / "tiny.toml").write_text(CONFIG)
    return tmp_path

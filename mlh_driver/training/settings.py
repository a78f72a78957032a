"""Settings of a training run, read from a TOML file; unknown keys are an error."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from mlh_driver.basis import OrbitalBasis
from mlh_driver.errors import InputError
from mlh_driver.network.network import NetworkSettings
from mlh_driver.settings import Settings, read_toml


class SpeciesSettings(Settings):
    """One element: its shells, the occupation of each shell in the neutral atom, its energy.

    shells:      angular momentum of each shell, such as [0, 1]
    electrons:   electrons (both spins) in each shell of the neutral atom
    atom_energy_eV: total energy of the isolated atom on the reference's scale
    """

    symbol: str
    shells: tuple[int, ...] = Field(min_length=1)
    electrons: tuple[float, ...]
    atom_energy_eV: float


class DataSettings(Settings):
    """A data set (HDF5, or a folder of .npz files), the splits to take from it, and a pattern of names."""

    path: Path
    names: str = Field(default="*", description="take structures of matching names only, such as v*")
    learn: Literal["all", "hamiltonian"] = Field(
        default="all", description="hamiltonian: H alone is learned, from the training splits"
    )
    repeat: int = Field(default=1, gt=0, description="its structures are drawn so many times as often")
    train: tuple[str, ...] = ("train",)
    validation: tuple[str, ...] = ("validation",)


class LossWeights(Settings):
    """Weights of the squared errors: H, energy and virial (-V stress) per atom in eV, forces in eV/Å."""

    hamiltonian: float = Field(default=1.0, ge=0)
    energy: float = Field(default=300.0, ge=0)
    forces: float = Field(default=1.0, ge=0)
    virial: float = Field(default=3.0, ge=0)


class StageSettings(Settings):
    """One stage: SOAP with a short warm-up and a cosine decay of the learning rate, one structure a step."""

    steps: int = Field(ge=0)
    learning_rate: float = Field(gt=0)
    validate_every: int = Field(default=200, gt=0)
    patience: int = Field(default=20, gt=0, description="validations without improvement before stopping")


class TrainSettings(Settings):
    """Everything that ``mlh-driver train`` needs; see ``examples/training/asio2-minimal.toml``."""

    name: str = Field(pattern=r"^[^/]+$")
    output: Path
    reference: str
    valid_range: str
    license: str = Field(default="", description="of the weights, such as MIT or CC-BY-4.0")
    citation: str = Field(default="", description="what to cite where the model was used")
    species: tuple[SpeciesSettings, ...] = Field(min_length=1)
    data: tuple[DataSettings, ...] = ()
    network: NetworkSettings = NetworkSettings()
    start_from: str | None = Field(default=None, description="name or path of a model to fine-tune")
    rehearse: int = Field(
        default=12, ge=0, description="structures of that model to be trained on, as it predicts them"
    )
    hamiltonian: StageSettings = StageSettings(steps=8000, learning_rate=3e-3)
    energy: StageSettings = StageSettings(steps=3000, learning_rate=3e-3)
    joint: StageSettings = StageSettings(steps=1000, learning_rate=5e-4, validate_every=100)
    weights: LossWeights = LossWeights()
    average_decay: float = Field(default=0.998, ge=0, lt=1)
    checkpoint_every_s: float = Field(default=120.0, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @property
    def model_path(self) -> Path:
        """Of the finished model, which whoever trains writes."""
        return self.output / f"{self.name}.pt"

    def basis(self) -> OrbitalBasis:
        species = sorted(self.species, key=lambda entry: _atomic_number(entry.symbol))
        return OrbitalBasis(
            species=tuple(entry.symbol for entry in species),
            shells=tuple(entry.shells for entry in species),
            occupations=tuple(_spread(entry) for entry in species),
        )

    def atom_energies(self) -> tuple[float, ...]:
        """Isolated-atom energies in eV, in the order of the basis."""
        by_symbol = {entry.symbol: entry.atom_energy_eV for entry in self.species}
        return tuple(by_symbol[symbol] for symbol in self.basis().species)


def _atomic_number(symbol: str) -> int:
    from ase.data import atomic_numbers

    if symbol not in atomic_numbers:
        raise InputError(f"species: {symbol!r} is not a chemical symbol")
    return int(atomic_numbers[symbol])


def _spread(entry: SpeciesSettings) -> tuple[float, ...]:
    """Spin-less occupation of each orbital: a shell's electrons, spread evenly."""
    if len(entry.shells) != len(entry.electrons):
        raise InputError(
            f"{entry.symbol}: {len(entry.shells)} shells, but {len(entry.electrons)} electron counts"
        )
    for l, electrons in zip(entry.shells, entry.electrons, strict=True):
        if not 0.0 <= electrons <= 2 * (2 * l + 1):
            raise InputError(
                f"{entry.symbol}: {electrons:g} electrons in a shell of angular momentum {l}, which holds 0 "
                f"to {2 * (2 * l + 1)}; correct electrons = [...]"
            )
    return tuple(
        0.5 * electrons / (2 * l + 1)
        for l, electrons in zip(entry.shells, entry.electrons, strict=True)
        for _ in range(2 * l + 1)
    )


def read_settings(path: Path) -> TrainSettings:
    """Read a TOML file; paths in it are relative to the file. Raises InputError with all problems."""
    settings = read_toml(path, TrainSettings)
    base = path.resolve().parent
    data = tuple(entry.model_copy(update={"path": base / entry.path}) for entry in settings.data)
    changes = {"data": data, "output": base / settings.output}
    if settings.start_from and (base / settings.start_from).is_file():
        changes["start_from"] = str(base / settings.start_from)
    return settings.model_copy(update=changes)

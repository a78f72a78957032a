"""Settings of a training that goes on from a model with more data, and with little else to decide."""

from __future__ import annotations

from pathlib import Path

from mlh_driver.data import read_splits
from mlh_driver.errors import InputError
from mlh_driver.model import Model, load_model
from mlh_driver.training.settings import (
    DataSettings,
    SpeciesSettings,
    StageSettings,
    TrainSettings,
)

#: As in the last stage of the shipped model; the first stages are those of the parent.
LEARNING_RATE = 4e-4


def finetune_settings(name: str, data: list[Path], out: Path, steps: int, rehearse: int) -> TrainSettings:
    """Of joint steps that start from the model ``name``; checkpoints are kept beside ``out``.

    Splits called ``validation`` are used as such, those called ``test`` are not used. Raises InputError where
    the model or the data cannot be used.
    """
    folder = out.with_name(f"{out.name.removesuffix('.pt')}.training")
    parent = load_model(name)
    nothing = StageSettings(steps=0, learning_rate=LEARNING_RATE)
    sources = []
    for path in data:
        splits = read_splits(path)
        train = tuple(split for split in splits if split not in ("validation", "test"))
        if not train:
            raise InputError(f"{path} has no structures for training, only {', '.join(splits)}")
        sources.append(DataSettings(path=path, train=train, validation=tuple({"validation"} & splits.keys())))
    files = ", ".join(path.name for path in data)
    return TrainSettings(
        name=out.stem,
        output=folder,
        reference=parent.metadata.reference,
        valid_range=f"{parent.metadata.valid_range.strip()} Fine-tuned with {files}.",
        license=parent.metadata.license,
        citation=parent.metadata.citation,
        species=_species(parent),
        data=tuple(sources),
        network=parent.metadata.network,
        start_from=name,
        rehearse=rehearse,
        hamiltonian=nothing,
        energy=nothing,
        joint=StageSettings(steps=steps, learning_rate=LEARNING_RATE, validate_every=100),
    )


def _species(model: Model) -> tuple[SpeciesSettings, ...]:
    """As in a training file."""
    basis = model.basis
    found = []
    for symbol, shells, occupations, energy in zip(
        basis.species, basis.shells, basis.occupations, model.metadata.atom_energies_eV, strict=True
    ):
        electrons, first = [], 0
        for l in shells:
            electrons.append(2.0 * sum(occupations[first : first + 2 * l + 1]))
            first += 2 * l + 1
        found.append(
            SpeciesSettings(symbol=symbol, shells=shells, electrons=tuple(electrons), atom_energy_eV=energy)
        )
    return tuple(found)

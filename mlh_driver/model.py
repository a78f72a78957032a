"""A trained model: network, isolated-atom energies, extrapolation indicator, and what is known about it.

A model file is a ``torch.save`` archive of plain types and tensors: ``format_version``, ``metadata`` (JSON),
``network``, ``indicator`` and ``structures``. It is loaded with ``weights_only=True``, so that nothing in it
runs, and takes no more memory than a few times its size: it is not compressed, and what its settings may ask
for is limited.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter
from torch import Tensor

from mlh_driver.basis import OrbitalBasis
from mlh_driver.errors import InputError, ModelFileError, reason
from mlh_driver.extrapolation import ExtrapolationIndicator
from mlh_driver.files import replacing
from mlh_driver.model_files import find_model, model_digest
from mlh_driver.network.network import HamiltonianNetwork, NetworkSettings
from mlh_driver.system import System

FORMAT_VERSION = 5


class ModelMetadata(BaseModel):
    """What a model declares about itself.

    atom_energies_eV: isolated atoms on the reference's total-energy scale, in the order of the basis
    reference:   the electronic-structure method of the labels
    valid_range: in words, the structures that the model is meant for
    license:     of the weights, such as an SPDX identifier; empty if it is not stated
    citation:    what to cite where the model was used; empty if it is not stated
    training_data: names of the training structures
    narrowest_cell_A: smallest distance between opposite faces of the training cells, which were wide enough
                 for Gamma; 0 if it is not known
    errors:      per split, the measured errors (see ``mlh-driver evaluate``)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    basis: OrbitalBasis
    network: NetworkSettings
    atom_energies_eV: tuple[float, ...]
    reference: str
    valid_range: str
    license: str
    citation: str
    training_data: tuple[str, ...]
    narrowest_cell_A: float = 0.0
    errors: dict[str, dict[str, float]] = {}


@dataclass(frozen=True)
class Model:
    """A network with everything that turns its output into energies; the indicator bounds its features.

    structures: those whose energies and forces it was trained on, which a fine-tuned model is to remember;
                empty in files of earlier versions
    digest:     of the file that it was loaded from, see :func:`~mlh_driver.model_files.model_digest`
    """

    metadata: ModelMetadata
    network: HamiltonianNetwork
    indicator: ExtrapolationIndicator
    structures: tuple[System, ...] = ()
    digest: str | None = None

    def __post_init__(self) -> None:
        self.network.bounds.features = self.indicator

    @property
    def basis(self) -> OrbitalBasis:
        return self.metadata.basis

    def save(self, path: str | Path) -> None:
        """Write the model file, in single precision; a file of that name is replaced when all is written."""
        content = {
            "format_version": FORMAT_VERSION,
            "metadata": self.metadata.model_dump_json(),
            "network": {name: value.float() for name, value in self.network.state_dict().items()},
            "indicator": {name: value.float() for name, value in asdict(self.indicator).items()},
            "structures": _packed(self.structures),
        }
        save_archive(Path(path), content)


def _packed(structures: tuple[System, ...]) -> dict[str, Tensor] | None:
    """Structures of different sizes behind each other."""
    if not structures:
        return None
    return {
        "n_atoms": torch.tensor([len(system) for system in structures]),
        "numbers": torch.cat([torch.tensor(system.numbers) for system in structures]).to(torch.int16),
        "positions": torch.cat([torch.tensor(system.positions) for system in structures]),
        "cells": torch.stack([torch.tensor(system.cell) for system in structures]),
    }


def _unpacked(packed: dict[str, Tensor] | None) -> tuple[System, ...]:
    if packed is None:
        return ()
    sizes = packed["n_atoms"].tolist()
    parts = (packed["numbers"].split(sizes), packed["positions"].split(sizes), packed["cells"])
    return tuple(System(z.numpy(), x.numpy(), cell.numpy()) for z, x, cell in zip(*parts, strict=True))


def save_archive(path: Path, content: dict[str, Any]) -> None:
    """``torch.save`` beside the file, which is replaced when all is written. Raises OSError."""
    archive = io.BytesIO()  # where torch writes itself, a full disk is an internal error of it
    torch.save(content, archive)
    with replacing(path) as partial:
        partial.write_bytes(archive.getbuffer())


def load_archive(path: Path) -> dict[str, Any]:
    """What :func:`save_archive` wrote: tensors and plain types, and nothing that could run.

    Raises anything for a file that is not an archive; a compressed one is refused, since it could fill the
    memory.
    """
    with zipfile.ZipFile(path) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise ValueError(f"{path} is compressed")
        if damaged := archive.testzip():
            raise ValueError(f"the checksum of {damaged} is wrong")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise TypeError(f"{path} holds a {type(content).__name__}")
    return content


def load_model(name: str | Path, dtype: str | torch.dtype = "float32", device: str = "cpu") -> Model:
    """Load a shipped model by name, or any model by path.

    dtype: "float32" or "float64", the precision of the network.
    Raises ModelFileError when the model is missing, damaged, or of an unknown format version, InputError
    when there is no such device or precision.
    """
    path = find_model(name)
    try:
        content = load_archive(path)
        version = content["format_version"]
    except Exception as error:  # torch raises anything
        raise ModelFileError(
            f"{path} is not a model file, or it is damaged ({type(error).__name__}); name a model or a file "
            "that mlh-driver train wrote"
        ) from error
    if version not in (*_UPGRADES, FORMAT_VERSION):
        raise ModelFileError(
            f"{path} has format version {version}; this version of mlh-driver reads versions "
            f"{min(_UPGRADES)} to {FORMAT_VERSION}: install the release that wrote the model, or train it "
            "again"
        )
    try:
        declared = json.loads(content["metadata"])
        for step in range(version, FORMAT_VERSION):
            _UPGRADES[step](content, declared)
        metadata = ModelMetadata.model_validate(declared)
        network = HamiltonianNetwork(metadata.basis, metadata.network)
        network.load_state_dict(content["network"])
        indicator = ExtrapolationIndicator(**content["indicator"])
        structures = _unpacked(content.get("structures"))
    except Exception as error:  # of what a stranger may have put there
        raise ModelFileError(f"{path} is damaged: {reason(error)}") from error
    network = network.to(torch_dtype(dtype)).eval().requires_grad_(False)
    try:
        return Model(metadata, network.to(device), indicator.to(device), structures, model_digest(path))
    except (RuntimeError, AssertionError) as error:  # torch raises the latter where it was built without CUDA
        raise InputError(f"device {device!r} cannot be used ({error}); use 'cpu'") from error


def _add_bounds(content: dict[str, Any], declared: dict[str, Any]) -> None:
    """Format 3 to 4: the bounds of what the network predicts, which are infinite in older models."""
    basis = TypeAdapter(OrbitalBasis).validate_python(declared["basis"])
    settings = TypeAdapter(NetworkSettings).validate_python(declared["network"])
    bounds = HamiltonianNetwork(basis, settings).bounds
    content["network"] |= {f"bounds.{name}": value for name, value in bounds.state_dict().items()}


def _add_terms(content: dict[str, Any], declared: dict[str, Any]) -> None:
    """Format 4 to 5: license and citation, of which older models say nothing."""
    declared |= {"license": "", "citation": ""}


_UPGRADES: dict[int, Callable[[dict[str, Any], dict[str, Any]], None]] = {3: _add_bounds, 4: _add_terms}
"""By format version: changes the content of a file and its metadata into those of the next."""


def torch_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """float32 or float64, by name or as it is; anything else is an InputError."""
    choices = {"float32": torch.float32, "float64": torch.float64}
    found = choices.get(dtype, dtype) if isinstance(dtype, str) else dtype
    if found not in choices.values():
        raise InputError(f"dtype is {dtype!r}; choose float32 or float64")
    return found  # type: ignore[return-value]

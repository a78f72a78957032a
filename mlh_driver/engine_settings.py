"""The settings of an engine: one set of names, units and defaults for every interface."""

from __future__ import annotations

import difflib
import math
import numbers
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from mlh_driver.errors import InputError
from mlh_driver.model_files import model_digest

if TYPE_CHECKING:
    from mlh_driver.model import Model

DEFAULT_MODEL = "asio2-minimal"
PRECISIONS = ("float32", "float64")
SAMPLINGS = ("auto", "gamma")
DEVICE = re.compile(r"cpu|(cuda|mps|xpu)(:\d+)?")
#: Settings on which a result depends, beside the model.
DECISIVE = ("solver", "electronic_temperature_K", "error_per_atom_meV", "sampling", "dtype")
#: What a setting may be, by the type of its default, and in words. NumPy's numbers are such numbers, too.
KINDS: dict[type, tuple[type, str]] = {
    float: (numbers.Real, "a number"),
    int: (numbers.Integral, "a whole number"),
    str: (str, "text"),
}


@dataclass(frozen=True)
class EngineSettings:
    """How a model is run.

    model:  name of a shipped model, path of a model file, or a loaded :class:`~mlh_driver.model.Model`,
            which stays in the precision and on the device that it has
    solver: of the density matrix: ``auto``, ``dense``, or in linear time ``sp2`` (gap of at least 20 kT) or
            ``foe`` (any kT > 0)
    electronic_temperature_K: of the Fermi-Dirac occupations; 0 is allowed when there is a gap
    error_per_atom_meV: what the linear-time solvers may miss of the energy, in meV per atom
    sampling: ``auto``: cells much narrower than those of the training are repeated inside, since Gamma
            alone would give them wrong energies (see :mod:`mlh_driver.small_cells`); ``gamma``: none is
    dtype:  precision of the network, ``float32`` or ``float64``; sums of energies are in double precision
    device: where the network runs: ``cpu``, ``cuda``, ``cuda:1`` ...
    threads: CPU threads of the whole process; 0 leaves them as they are

    Raises InputError for a value that cannot be used. Solver, model and device are looked up by the engine.
    """

    model: str | Path | Model = DEFAULT_MODEL
    solver: str = "auto"
    electronic_temperature_K: float = 300.0
    error_per_atom_meV: float = 0.1
    sampling: str = "auto"
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 0

    def __post_init__(self) -> None:
        self._check_types()
        if not 0 <= self.electronic_temperature_K < math.inf:
            raise InputError(
                f"electronic_temperature_K is {self.electronic_temperature_K}; give zero or a positive "
                "number of kelvin, such as 300"
            )
        if not 0 < self.error_per_atom_meV < math.inf:
            raise InputError(
                f"error_per_atom_meV is {self.error_per_atom_meV}; give a positive number of meV per "
                "atom, such as 0.1"
            )
        if self.sampling not in SAMPLINGS:
            raise InputError(f"sampling is {self.sampling!r}; choose {' or '.join(SAMPLINGS)}")
        if self.dtype not in PRECISIONS:
            raise InputError(f"dtype is {self.dtype!r}; choose {' or '.join(PRECISIONS)}")
        if not DEVICE.fullmatch(self.device):
            raise InputError(f"device is {self.device!r}; choose cpu, cuda, cuda:1 ..., mps or xpu")
        if self.threads < 0:
            raise InputError(f"threads is {self.threads}; give a number of CPU threads, or 0")

    def _check_types(self) -> None:
        """Of all settings but the model; numbers of NumPy become Python's, which JSON can hold."""
        for field in fields(self):
            kind, words = KINDS[type(field.default)]
            value = getattr(self, field.name)
            if field.name == "model":
                continue
            if not isinstance(value, kind) or isinstance(value, bool):
                raise InputError(f"{field.name} is {value!r}, a {type(value).__name__}; give {words}")
            convert: Any = type(field.default)
            object.__setattr__(self, field.name, convert(value))

    def described(self) -> str:
        """What a result depends on, beside the structure: for logs. The model is one by name or path."""
        threads = self.threads or os.environ.get("OMP_NUM_THREADS") or "all"
        model = f"{self.model} ({model_digest(str(self.model))})"
        return (
            f"mlh-driver {version('mlh-driver')}, model {model}, solver {self.solver}, "
            f"{self.electronic_temperature_K:g} K, {self.error_per_atom_meV:g} meV/atom, "
            f"sampling {self.sampling}, {self.dtype}, {self.device}, threads: {threads}"
        )

    def with_full_path(self) -> EngineSettings:
        """A file of a model by its full path, so that the settings hold in any folder."""
        if isinstance(self.model, str | Path) and Path(self.model).is_file():
            return replace(self, model=str(Path(self.model).resolve()))
        return self

    @classmethod
    def of(
        cls, model: str | Path | Model = DEFAULT_MODEL, **settings: Unpack[EngineKeywords]
    ) -> EngineSettings:
        """The same as the class itself, but an unknown name is an InputError that knows the right ones."""
        cls._check_names(settings)
        return cls(model, **settings)

    @classmethod
    def _check_names(cls, names: Iterable[str]) -> None:
        known = [field.name for field in fields(cls)]
        for name in names:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                raise InputError(
                    f"there is no setting {name!r}{f', but {close[0]!r}' if close else ''}; there are "
                    f"{', '.join(known)}"
                )

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> EngineSettings:
        """From text or numbers by name, as i-PI passes parameters on.

        Raises InputError for an unknown name, and for text that is no number where one is needed.
        """
        kinds = {field.name: type(field.default) for field in fields(cls)}
        cls._check_names(values)
        return cls(**{name: _convert(name, value, kinds[name]) for name, value in values.items()})


class EngineKeywords(TypedDict, total=False):
    """The settings beside the model, for ``**settings: Unpack[EngineKeywords]`` in a signature."""

    solver: str
    electronic_temperature_K: float
    error_per_atom_meV: float
    sampling: str
    dtype: str
    device: str
    threads: int


def _convert(name: str, value: Any, kind: type) -> Any:
    try:
        converted = kind(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name} is {value!r}; give a number") from None
    if kind is int and converted != float(value):
        raise InputError(f"{name} is {value!r}; give a whole number")
    return converted

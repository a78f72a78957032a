"""Options that several commands share, and the one way to build an engine from them."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mlh_driver.engine import Engine

DEFAULT_MODEL = "asio2-minimal"
DEFAULT_ELECTRONIC_TEMPERATURE_K = 300.0


class Precision(StrEnum):
    float32 = "float32"
    float64 = "float64"


ModelOption = Annotated[str, typer.Option("--model", "-m", help="Name of a shipped model, or a path.")]
SolverOption = Annotated[str, typer.Option("--solver", help="Density-matrix solver: auto or dense.")]
TemperatureOption = Annotated[
    float, typer.Option("--electronic-temperature", metavar="K", help="Electronic temperature in kelvin.")
]
PrecisionOption = Annotated[Precision, typer.Option("--dtype", help="Precision of the network.")]
DeviceOption = Annotated[str, typer.Option("--device", help="Where the network runs: cpu, cuda, cuda:1 ...")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON instead of tables.")]


def build_engine(
    model: str, solver: str, electronic_temperature: float, dtype: Precision, device: str
) -> Engine:
    """Load the model and make the engine; torch is imported here and not before."""
    from mlh_driver.engine import Engine

    return Engine(
        model,
        solver=solver,
        electronic_temperature=electronic_temperature,
        dtype=dtype.value,
        device=device,
    )

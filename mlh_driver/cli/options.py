"""Options that several commands share, and the one way to build an engine from them."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mlh_driver.engine import Engine
    from mlh_driver.model import Model

DEFAULT_MODEL = "asio2-minimal"
DEFAULT_ELECTRONIC_TEMPERATURE_K = 300.0
DEFAULT_ERROR_meV = 0.1


class Precision(StrEnum):
    float32 = "float32"
    float64 = "float64"


ModelOption = Annotated[str, typer.Option("--model", help="Name of a shipped model, or a path.")]
SolverOption = Annotated[str, typer.Option("--solver", help="Density-matrix solver: auto, dense, sp2, foe.")]
TemperatureOption = Annotated[
    float, typer.Option("--electronic-temperature", metavar="K", help="Electronic temperature in kelvin.")
]
ErrorOption = Annotated[
    float,
    typer.Option(
        "--error-per-atom",
        metavar="MEV",
        help="Energy error in meV per atom that the linear-time solvers sp2 and foe may make.",
    ),
]
PrecisionOption = Annotated[Precision, typer.Option("--dtype", help="Precision of the network.")]
DeviceOption = Annotated[str, typer.Option("--device", help="Where the network runs: cpu, cuda, cuda:1 ...")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=0, help="CPU threads; 0 leaves it to torch.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON instead of tables.")]


def build_engine(
    model: str | Model,
    solver: str,
    electronic_temperature: float,
    error_per_atom_meV: float,
    dtype: Precision,
    device: str,
) -> Engine:
    """Load the model, if it is a name, and make the engine; torch is imported here and not before."""
    from mlh_driver.engine import Engine

    return Engine(
        model,
        solver=solver,
        electronic_temperature=electronic_temperature,
        error_per_atom=1e-3 * error_per_atom_meV,
        dtype=dtype.value,
        device=device,
    )

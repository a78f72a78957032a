"""Options that several commands share, and the one way to build an engine from them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlh_driver.engine_settings import EngineSettings

if TYPE_CHECKING:
    from mlh_driver.engine import Engine

ThreadsOption = Annotated[int, typer.Option("--threads", min=0, help="CPU threads; 0 leaves it to torch.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON instead of tables.")]

ENGINE_OPTIONS: dict[str, Any] = {
    "model": Annotated[str, typer.Option("--model", help="Name of a shipped model, or a path.")],
    "solver": Annotated[str, typer.Option("--solver", help="Density-matrix solver: auto, dense, sp2, foe.")],
    "electronic_temperature_K": Annotated[
        float, typer.Option("--electronic-temperature", metavar="K", help="Electronic temperature in kelvin.")
    ],
    "error_per_atom_meV": Annotated[
        float,
        typer.Option(
            "--error-per-atom",
            metavar="MEV",
            help="Energy error in meV per atom that the linear-time solvers sp2 and foe may make.",
        ),
    ],
    "sampling": Annotated[
        str,
        typer.Option(
            "--sampling", help="auto: cells too narrow for Gamma are repeated inside; gamma: none is."
        ),
    ],
    "dtype": Annotated[str, typer.Option("--dtype", help="Precision of the network: float32, float64.")],
    "device": Annotated[str, typer.Option("--device", help="Where the network runs: cpu, cuda, cuda:1 ...")],
    "threads": ThreadsOption,
}
"""The option for each field of :class:`~mlh_driver.engine_settings.EngineSettings`."""


def with_options(
    name: str, options: Sequence[inspect.Parameter], build: Callable[..., Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command have these options in place of its parameter ``name``, which ``build`` makes of them."""

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in signature.parameters.values()
            if parameter.name != name
        ]

        @wraps(command)
        def run(**values: Any) -> None:
            built = build(**{option.name: values.pop(option.name) for option in options})
            command(**{name: built}, **values)

        run.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
        return run

    return decorated


def option(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    """An option for :func:`with_options`."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


with_engine_options = with_options(
    "settings",
    [option(field.name, field.default, ENGINE_OPTIONS[field.name]) for field in fields(EngineSettings)],
    EngineSettings,
)
"""Let a command that takes ``settings: EngineSettings`` have one option for each setting instead."""


def build_engine(settings: EngineSettings) -> Engine:
    """Set the process up, load the model and make the engine; torch is imported here and not before."""
    from mlh_driver.engine import Engine
    from mlh_driver.runtime import configure

    configure(settings.threads)
    return Engine(**vars(settings))

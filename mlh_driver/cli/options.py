"""Options that several commands share, and the one way to build an engine from them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlh_driver.engine_settings import EngineSettings

if TYPE_CHECKING:
    from mlh_driver.engine import Engine
    from mlh_driver.force_engine import ForceEngine

ThreadsOption = Annotated[int, typer.Option("--threads", min=0, help="CPU threads; 0 leaves it to torch.")]
SupervisorOption = Annotated[
    bool,
    typer.Option(
        "--supervisor/--no-supervisor",
        help="Keep the model in a process of its own, started again if it dies; without: for debugging.",
    ),
]
RestartsOption = Annotated[
    int,
    typer.Option("--restarts", min=0, metavar="N", help="How often that process may die over one structure."),
]
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


def with_engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command that takes ``settings: EngineSettings`` have one option for each setting instead."""
    signature = inspect.signature(command, eval_str=True)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=ENGINE_OPTIONS[field.name],
        )
        for field in fields(EngineSettings)
    ]
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in signature.parameters.values()
        if parameter.name != "settings"
    ]

    @wraps(command)
    def run(**values: Any) -> None:
        settings = EngineSettings(**{name: values.pop(name) for name in ENGINE_OPTIONS})
        command(settings=settings, **values)

    run.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return run


def build_engine(settings: EngineSettings) -> Engine:
    """Set the process up, load the model and make the engine; torch is imported here and not before."""
    from mlh_driver.engine import Engine
    from mlh_driver.runtime import configure

    configure(settings.threads)
    return Engine(**vars(settings))


@contextmanager
def engines(
    settings: EngineSettings, supervisor: bool, restarts: int, say: Callable[[str], None]
) -> Iterator[Callable[[], ForceEngine]]:
    """Makes engines with one model for MD engines: in a process of its own, or in this one."""
    if supervisor:
        from mlh_driver.interfaces.sockets.supervisor import Supervisor

        with Supervisor(settings, restarts=restarts, say=say) as owner:
            yield owner.engine
    else:
        from mlh_driver.interfaces.sockets.worker import EngineMaker

        yield EngineMaker(settings)

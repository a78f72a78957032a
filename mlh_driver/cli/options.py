"""Options that several commands share, and the one way to build an engine from them."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlh_driver.engine_settings import EngineSettings
from mlh_driver.errors import InputError
from mlh_driver.interfaces.alarm import GUARDED
from mlh_driver.interfaces.guard import GuardedEngine, Rule

if TYPE_CHECKING:
    from mlh_driver.engine import Engine
    from mlh_driver.force_engine import ForceEngine

ThreadsOption = Annotated[int, typer.Option("--threads", min=0, help="CPU threads; 0 leaves it to torch.")]
FormatOption = Annotated[
    str | None, typer.Option("--format", help="ASE's name of the format, where the file does not tell.")
]
ElementsOption = Annotated[
    str | None,
    typer.Option(
        "--elements",
        metavar="SYMBOLS",
        help="Elements of the atom types 1, 2 ... of LAMMPS, if not named: 'Si O'.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON instead of tables.")]
SecretOption = Annotated[
    Path | None,
    typer.Option(
        "--secret-file",
        metavar="FILE",
        help="File with a secret that server and clients share, for TCP; or set MLH_DRIVER_SECRET_FILE.",
    ),
]


class ReferenceCode(StrEnum):
    """Of DFT."""

    pyscf = "pyscf"
    cp2k = "cp2k"


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


def _guard_option(flag: str, name: str) -> Any:
    guarded = GUARDED[name]
    side = "below" if guarded.low else "above"
    return Annotated[
        str,
        typer.Option(
            flag,
            metavar="ACTION[:LIMIT]",
            help=f"warn, dump or stop where {guarded.words} is {side} {guarded.limit:g}, or another LIMIT "
            "(dump and stop only).",
        ),
    ]


SERVING_OPTIONS: dict[str, Any] = {
    "supervisor": Annotated[
        bool,
        typer.Option(
            "--supervisor/--no-supervisor",
            help="Keep the model in a process of its own, started again if it dies; without: for debugging.",
        ),
    ],
    "restarts": Annotated[
        int,
        typer.Option(
            "--restarts", min=0, metavar="N", help="How often that process may die over one structure."
        ),
    ],
    "on_extrapolation": _guard_option("--on-extrapolation", "extrapolation"),
    "on_charge_deviation": _guard_option("--on-charge-deviation", "charge_deviation"),
    "on_small_gap": _guard_option("--on-small-gap", "band_gap"),
    "on_large_force": _guard_option("--on-large-force", "largest_force"),
}


def word_list(text: str | None) -> list[str]:
    """What an option was given, between blanks or commas."""
    return (text or "").replace(",", " ").split()


@dataclass(frozen=True)
class Engines:
    """Makes engines, one for each MD engine; ``abandon`` ends what they compute, if anything can."""

    make: Callable[[], ForceEngine]
    abandon: Callable[[], None] = lambda: None

    def __call__(self) -> ForceEngine:
        return self.make()


@dataclass(frozen=True)
class Serving:
    """How an MD engine is served: where the model runs, and what a run is guarded against."""

    supervisor: bool = True
    restarts: int = 3
    on_extrapolation: str = "warn"
    on_charge_deviation: str = "warn"
    on_small_gap: str = "warn"
    on_large_force: str = "warn"

    def guarded(self, engine: ForceEngine) -> ForceEngine:
        """The engine with guards between it and the MD engine."""
        return GuardedEngine(engine, self.rules())

    def rules(self) -> dict[str, Rule]:
        """Raises InputError for an option that is none of the actions."""
        texts = {
            "extrapolation": self.on_extrapolation,
            "charge_deviation": self.on_charge_deviation,
            "band_gap": self.on_small_gap,
            "largest_force": self.on_large_force,
        }
        return {name: Rule.parse(name, text) for name, text in texts.items()}

    @contextmanager
    def engines(
        self, settings: EngineSettings, say: Callable[[str], None], ranks: int = 1
    ) -> Iterator[Engines]:
        """Makes guarded engines that share one model, in processes of its own or in this one."""
        self.rules()
        with ExitStack() as stack:
            if self.supervisor:
                from mlh_driver.interfaces.sockets.supervisor import Supervisor

                owner = stack.enter_context(
                    Supervisor(settings, restarts=self.restarts, say=say, ranks=ranks)
                )
                yield Engines(lambda: self.guarded(owner.engine()), owner.close)
            elif ranks > 1:
                raise InputError(
                    f"--no-supervisor keeps the model in one process, --ranks {ranks} in {ranks}; leave one "
                    f"of them away, or start mpiexec -n {ranks} mlh-driver serve ..."
                )
            else:
                from mlh_driver.interfaces.sockets.worker import EngineMaker

                make = EngineMaker(settings)
                yield Engines(lambda: self.guarded(make()))


def option(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    """An option for :func:`with_options`."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def with_options(
    command: Callable[..., None], name: str, build: Callable[..., Any], options: Sequence[inspect.Parameter]
) -> Callable[..., None]:
    """Let a command have these options in place of its parameter ``name``, which ``build`` makes of them."""
    signature = inspect.signature(command, eval_str=True)
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in signature.parameters.values()
        if parameter.name != name
    ]

    @wraps(command)
    def run(**values: Any) -> None:
        given = build(**{each.name: values.pop(each.name) for each in options})
        command(**{name: given}, **values)

    run.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return run


def with_engine_options(command: Callable[..., None], **defaults: Any) -> Callable[..., None]:
    """Let a command that takes ``settings: EngineSettings`` have one option for each setting instead.

    defaults: those in which the command differs from EngineSettings
    """
    options = [
        option(each.name, defaults.get(each.name, each.default), ENGINE_OPTIONS[each.name])
        for each in fields(EngineSettings)
    ]
    return with_options(command, "settings", EngineSettings, options)


def as_options(settings: EngineSettings) -> str:
    """The options with which ``mlh-driver lammps`` or ``ipi`` has these settings, to be copied."""
    words = []
    for each in fields(EngineSettings):
        if (value := getattr(settings, each.name)) != each.default:
            flag = ENGINE_OPTIONS[each.name].__metadata__[0].default  # where typer keeps the first name
            words += [flag, str(value)]
    return shlex.join(words)


def with_serving_options(command: Callable[..., None]) -> Callable[..., None]:
    """The same for ``serving: Serving``."""
    options = [option(each.name, each.default, SERVING_OPTIONS[each.name]) for each in fields(Serving)]
    return with_options(command, "serving", Serving, options)


def build_engine(settings: EngineSettings) -> Engine:
    """Set the process up, load the model and make the engine; torch is imported here and not before."""
    from mlh_driver.interfaces.sockets.worker import EngineMaker

    return EngineMaker(settings)()

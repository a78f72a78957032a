"""``mlh-driver lammps``: run a LAMMPS script with the model as its force engine.

LAMMPS' options have one dash, several letters and sometimes any number of values (``-var T 300 600 900``),
which the command-line library cannot declare. They reach this module undeclared, by
:data:`CONTEXT_SETTINGS`, and are sorted out by :func:`read_arguments`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlh_driver.cli import consoles
from mlh_driver.cli.options import (
    ENGINE_OPTIONS,
    SecretOption,
    Serving,
    with_engine_options,
    with_serving_options,
    word_list,
)
from mlh_driver.engine_settings import EngineSettings
from mlh_driver.errors import InputError

if TYPE_CHECKING:
    from mlh_driver.force_engine import ForceEngine

CONTEXT_SETTINGS = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": ["--help"],  # with -h, click would find it in LAMMPS' -echo
}
"""How the command has to be registered."""

PASSED_ON = {
    **dict.fromkeys(("-var", "-v"), 2),
    **dict.fromkeys(("-echo", "-e", "-log", "-l", "-screen", "-sc", "-suffix", "-sf", "-package", "-pk"), 1),
    **dict.fromkeys(("-nocite", "-nc", "-skiprun", "-sr", "-nonbuf", "-nb"), 0),
}
"""LAMMPS' own options that make sense here, with the least number of values that each needs."""


@dataclass
class Arguments:
    """What was typed, sorted.

    scripts:  the scripts named by ``-in``
    elements: symbols given by ``--elements``
    lammps:   arguments for LAMMPS itself
    """

    scripts: list[str] = field(default_factory=list)
    elements: list[str] = field(default_factory=list)
    lammps: list[str] = field(default_factory=list)


@with_engine_options
@with_serving_options
def lammps(
    context: typer.Context,
    settings: EngineSettings,
    serving: Serving,
    server: Annotated[
        str | None,
        typer.Option("--server", metavar="ADDRESS", help="HOST:PORT or unix:NAME of 'mlh-driver serve'."),
    ] = None,
    secret_file: SecretOption = None,
) -> None:
    """Run a LAMMPS script with the model as its force engine.

    The script contains [bold]fix ID all external pf/callback 1 1[/]; energy, forces, virial, energies per
    atom and the observables f_ID\\[1] ... f_ID\\[8] (band gap, Fermi level, HOMO, LUMO, band energy,
    electronic entropy, extrapolation, charge deviation) come from the model. Loops, several runs, minimize
    and any units work.

    [bold]Options of LAMMPS, typed as ever[/]

      -in SCRIPT             the script (required)
      -var NAME VALUE ...    index variable of the script
      -log FILE | none       -screen FILE | none       -echo STYLE
      -nocite  -skiprun  -suffix STYLE  -package STYLE ...  -nonbuf

    [bold]Elements of the atom types[/]

      --elements Si O        otherwise from 'labelmap', otherwise from the masses; NULL: without the model

    [bold]Example[/]

      mlh-driver lammps -in in.npt -var T 600 -log npt.log --model asio2-minimal
    """
    from mlh_driver.interfaces.lammps import run_script
    from mlh_driver.interfaces.lammps.library import refuse_launched_ranks
    from mlh_driver.interfaces.lammps.rewriting import existing_script

    refuse_launched_ranks()
    arguments = read_arguments(context.args)
    script = existing_script(Path(single_script(arguments)))
    with ExitStack() as stack:
        engine: ForceEngine
        if server is None:
            if secret_file is not None:
                raise InputError("--secret-file goes with --server, which asks for the secret")
            note = settings.described()
            say = consoles.for_messages().print
            engine = stack.enter_context(serving.engines(settings, say))()
        else:
            from mlh_driver.interfaces.sockets.remote import RemoteEngine

            refuse_settings_of_the_server(context)
            note = f"the model is in the server at {server}, whose output says more"
            engine = serving.guarded(RemoteEngine(server, secret_file=secret_file))
        stack.enter_context(closing(engine))
        run_script(script, engine, arguments=arguments.lammps, elements=arguments.elements, note=note)


def refuse_settings_of_the_server(context: typer.Context) -> None:
    """Raise InputError for options that the server has decided already."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        given = source is not None and source.name == "COMMANDLINE"
        if given and parameter.name in (*ENGINE_OPTIONS, "supervisor", "restarts"):
            raise InputError(
                f"{parameter.opts[0]} has no effect with --server, whose model is loaded already; give it to "
                "'mlh-driver serve'"
            )


def read_arguments(words: Sequence[str]) -> Arguments:
    """Sort the words of the command line; raises InputError for what cannot be passed on."""
    arguments = Arguments()
    for option, values in grouped(words):
        if option in ("-in", "-i", "--in"):
            arguments.scripts += values
        elif option == "--elements":
            arguments.elements += word_list(" ".join(values))
        elif option not in PASSED_ON:
            raise InputError(
                f"{option} is not an option of 'mlh-driver lammps', or not a LAMMPS option that works with "
                "it; see 'mlh-driver lammps --help'"
            )
        elif len(values) < PASSED_ON[option]:
            raise InputError(f"{' '.join([option, *values])}: {option} needs {PASSED_ON[option]} values")
        else:
            arguments.lammps += [option, *values]
    return arguments


def grouped(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Options, each with the words up to the next one; negative numbers are values."""
    starts = [i for i, word in enumerate(words) if re.match(r"--?[A-Za-z]", word)]
    if words and (not starts or starts[0] > 0):
        raise InputError(f"{words[0]!r} belongs to no option; the script is named by -in SCRIPT")
    for start, end in pairwise([*starts, len(words)]):
        yield words[start], list(words[start + 1 : end])


def single_script(arguments: Arguments) -> str:
    if len(arguments.scripts) != 1:
        given = " ".join(arguments.scripts) or "none"
        raise InputError(f"exactly one LAMMPS script is needed, given: {given}; name it by -in SCRIPT")
    return arguments.scripts[0]

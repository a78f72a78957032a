"""The shell and Python blocks of the documentation, as the tests and ``make figures`` find them.

A comment on the line before a block says what is special about it:

======================================  ===================================================================
``<!-- not run: REASON -->``            the tests leave it out
``<!-- figure NAME: REASON -->``        the tests leave it out; ``make figures`` runs it and keeps the output
``<!-- figure NAME on OTHER: ... -->``  the same, where the figure OTHER has left its files
``<!-- file: PATH -->``                 the tests write the block to this file before they go on
======================================  ===================================================================

All other ``bash`` and ``python`` blocks of a page are run by the tests, in order, from the repository root.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted(
    [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").glob("*.md")]
)
PROGRAMS = {"bash": ("bash", "-euo", "pipefail", "-c"), "python": ("python", "-c")}
"""The languages that are run, and how."""

_BLOCK = re.compile(r"^(?:<!-- (?P<note>[^\n]*) -->\n)?```(?P<language>\S*)\n(?P<text>.*?)^```$", re.M | re.S)
_NOTE = re.compile(r"(?P<kind>not run|figure (?P<name>[\w-]+)(?: on (?P<other>[\w-]+))?|file): (?P<value>.+)")


@dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, its language, and what the comment before it says.

    figure: name under which ``make figures`` keeps the output, or None
    other:  the figure in whose folder it runs, or None
    file:   where the block is to be written, or None
    reason: why the tests leave it out, or None
    """

    page: Path
    line: int
    language: str
    text: str
    figure: str | None = None
    other: str | None = None
    file: str | None = None
    reason: str | None = None

    @property
    def is_run(self) -> bool:
        """Whether the tests run it."""
        return self.language in PROGRAMS and self.reason is None and self.file is None

    @property
    def command(self) -> list[str]:
        return [*PROGRAMS[self.language], self.text]


def blocks(page: Path) -> Iterator[Block]:
    """All fenced blocks of a page, directives of Sphinx left out."""
    content = page.read_text()
    for match in _BLOCK.finditer(content):
        if match["language"].startswith("{"):
            continue
        line = content.count("\n", 0, match.start("language")) + 1
        yield Block(page, line, match["language"], match["text"], **_special(match["note"] or ""))


def _special(note: str) -> dict[str, str | None]:
    match = _NOTE.fullmatch(note)
    if match is None:
        return {}
    if match["kind"] == "file":
        return {"file": match["value"]}
    return {"figure": match["name"], "other": match["other"], "reason": match["value"]}

"""Pages that are made from the code whenever the documentation is built: nothing here can go out of date."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from html import escape
from pathlib import Path

from typer.testing import CliRunner

import mlh_driver
from mlh_driver.cli.main import COMMANDS, app
from mlh_driver.results import OBSERVABLES, Results

PACKAGE = Path(mlh_driver.__file__).parent
LAYOUT_TEST = Path(__file__).parents[1] / "tests" / "test_layout.py"
NOT_IN_THE_API = ("cli",)
"""Commands have a page of their own."""
COLUMNS = 88


def write_pages(folder: Path) -> None:
    """Write everything into ``folder``; files that would not change are left alone."""
    pages = {
        "command_line.md": command_line(),
        "messages.md": messages_page(),
        "layers.svg": layers_drawing(),
        "api.md": api_contents(),
    }
    pages |= {f"api/{part}.rst": api_page(part) for part in api_parts()}
    for name, content in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != content:
            path.write_text(content)


def command_line() -> str:
    """``--help`` of every command, word for word."""
    runner = CliRunner()
    sections = []
    for name in COMMANDS:
        shown = runner.invoke(app, [name, "--help"], env={"COLUMNS": str(COLUMNS), "TERM": "dumb"})
        sections.append(f"## mlh-driver {name}\n\n```text\n{shown.output.strip()}\n```\n")
    return "\n".join(sections)


def observables() -> str:
    """The table of ``files.md``: observables in LAMMPS' order, as Results describes them."""
    described = {
        name: " ".join(text.split())
        for names, text in re.findall(r"^ {4}([\w, ]+):\s+(.+(?:\n {8}.+)*)", Results.__doc__ or "", re.M)
        for name in names.split(", ")
    }
    rows = [f"| `f_ID[{i}]` | `{name}` | {described[name]} |" for i, name in enumerate(OBSERVABLES, start=1)]
    return "\n".join(["| LAMMPS | ASE, i-PI, JSON | what |", "|---|---|---|", *rows, ""])


def messages() -> Iterator[tuple[str, str]]:
    """Part of the package and text of each error raised in it; "…" stands for values."""
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and _is_error(ast.unparse(node.func)):
                text = _template(node.args[0])
                if text.strip("… :"):
                    yield part, text


def _is_error(name: str) -> bool:
    return name in ("ConnectionLost", "EngineCrashed", "LimitReached") or (
        name.endswith("Error") and name != "AttributeError"
    )


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(value) for value in node.values)
    if isinstance(node, ast.BinOp):
        return _template(node.left) + _template(node.right)
    return "…"


def messages_page() -> str:
    """All messages, by the part of the package that raises them."""
    parts: dict[str, list[str]] = {}
    for part, text in messages():
        parts.setdefault(part, []).append(textwrap.fill(text, COLUMNS, subsequent_indent="    "))
    return "\n".join(
        f"**{part}**\n\n```text\n" + "\n".join(parts[part]) + "\n```\n" for part in sorted(parts)
    )


def layers() -> tuple[tuple[str, ...], ...]:
    """The layers of the package from the lowest one on, as the test of the imports has them."""
    for node in ast.parse(LAYOUT_TEST.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS":
            found: tuple[tuple[str, ...], ...] = ast.literal_eval(node.value)
            return found
    raise LookupError(f"{LAYOUT_TEST} defines no LAYERS")


def layers_drawing() -> str:
    """The layers as floors of a house, drawn in SVG; imports go down, never up."""
    floor, box, gap, left = 40, 118, 10, 90
    rows = layers()[::-1]
    width = left + max(map(len, rows)) * (box + gap) + gap
    height = len(rows) * floor + gap
    shapes = []
    for row, names in enumerate(rows):
        y = gap + row * floor
        for column, name in enumerate(names):
            x = left + column * (box + gap)
            shapes.append(f'<rect x="{x}" y="{y}" width="{box}" height="{floor - gap}" rx="4"/>')
            shapes.append(f'<text x="{x + box / 2}" y="{y + 20}" text-anchor="middle">{escape(name)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="14"><style>rect {{fill: #e8eef7; stroke: #4a6fa5}} text {{fill: #1a1a1a}}</style>'
        f'<rect width="{width}" height="{height}" style="fill: white; stroke: none"/>'
        '<defs><marker id="tip" orient="auto" markerWidth="8" markerHeight="8" refX="4" refY="4">'
        '<path d="M0 0 L8 4 L0 8 z"/></marker></defs>'
        f'<path d="M30 {gap} V{height - 16}" stroke="black" stroke-width="1.5" marker-end="url(#tip)"/>'
        f'<text x="20" y="{height / 2}" transform="rotate(-90 20 {height / 2})" text-anchor="middle">'
        f"imports</text>{''.join(shapes)}</svg>\n"
    )


def api_parts() -> list[str]:
    """Parts of the package in the order of the data's way."""
    return [part for row in layers() for part in row if part not in NOT_IN_THE_API]


def api_contents() -> str:
    entries = "\n".join(f"generated/api/{part}" for part in api_parts())
    return f"```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n"


def api_page(part: str) -> str:
    """Autodoc directives for each module of one part."""
    root = PACKAGE / part
    paths = sorted(root.rglob("*.py")) if root.is_dir() else [root.with_suffix(".py")]
    sections = [f"{part}\n{'=' * len(part)}\n"]
    for path in paths:
        words = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(word for word in words if word != "__init__")
        sections.append(f"{name}\n{'-' * len(name)}\n\n.. automodule:: {name}\n")
    return "\n".join(sections)


def readable_docstring(lines: list[str]) -> list[str]:
    """reStructuredText that shows a docstring as it stands in the source.

    Docstrings here are written for readers of the code: aligned lists of arrays with shapes and units,
    formulas, tables. So paragraphs with any layout are kept letter by letter, the others are plain text.
    """
    shown: list[str] = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines).strip("\n")):
        text = re.sub(r":\w+:`~?([^`]*)`", r"``\1``", paragraph)
        if re.search(r"^(\s|>>>|==|[\w, ()]+:\s)", text, re.M):
            shown += ["::", "", *("    " + line.replace("``", "") for line in text.splitlines()), ""]
        else:
            shown += [_escaped(line) for line in re.sub(r"::$", ":", text).splitlines()] + [""]
    return shown


def _escaped(line: str) -> str:
    """Plain text for reStructuredText, with ``literals`` kept."""
    words = re.split(r"(``.+?``)", line)
    return "".join(word if word.startswith("``") else re.sub(r"([\\*`|_])", r"\\\1", word) for word in words)

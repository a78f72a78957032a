"""Sphinx: ``make docs`` builds the pages into docs/_build/html, without network and without warnings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import generate  # noqa: E402

import mlh_driver  # noqa: E402

project = "mlh-driver"
author = "The mlh-driver developers"
copyright = author
release = mlh_driver.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build", "generated/*.md"]
html_theme = "furo"
html_title = "mlh-driver"
myst_heading_anchors = 3
autodoc_default_options = {"members": True, "member-order": "bysource", "ignore-module-all": True}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True


def plain_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = generate.readable_docstring(lines)


def setup(app: Any) -> None:
    generate.write_pages(HERE / "generated")
    app.connect("autodoc-process-docstring", plain_docstring)

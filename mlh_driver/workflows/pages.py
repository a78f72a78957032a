"""Pages of results that work from a disk, without network: templates, pictures and scripts in one file."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

PAGE = files(__package__) / "page"
REPORT = "report.html"


def render(template: str, content: Mapping[str, Any]) -> str:
    """A page of ``page/``, with its style. Text is escaped, but for scripts and styles, which may not be."""
    environment = Environment(
        loader=FunctionLoader(text),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template(template).render(
        content, css=Markup(text("report.css")), citation=text("CITATION.cff")
    )


def text(name: str) -> str:
    """A file of ``page/``."""
    return (PAGE / name).read_text(encoding="utf-8")


def as_script(text: str) -> Markup:
    """Text within a ``script`` element, which ``</script`` would end, and ``<!--`` confuse.

    Both can only stand in strings, where ``\\u003c`` means the same.
    """
    return Markup(re.sub(r"<(?=/script|!--)", r"\\u003c", text, flags=re.IGNORECASE))


def number(value: Any, digits: int) -> str:
    """A number as the tables show it, with a true minus, and names as they are."""
    if value is None or value == "":
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:z.{digits}f}".replace("-", "−")


def embedded(png: bytes) -> str:
    """A picture as the source of an ``img``."""
    return "data:image/png;base64," + base64.b64encode(png).decode()

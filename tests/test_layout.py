"""The layers import downwards only, and the public names are those promised."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import mlh_driver

PACKAGE = Path(mlh_driver.__file__).parent
LAYERS = (
    ("errors", "runtime"),
    ("system", "basis", "settings", "structures"),
    ("results", "graph", "data"),
    ("network",),
    ("hamiltonian", "extrapolation"),
    ("solvers",),
    ("model",),
    ("engine",),
    ("interfaces", "evaluation", "training", "reference"),
    ("learning",),
    ("analysis",),
    ("cli",),
)
HOMES = {name: getattr(mlh_driver, name).__module__ for name in mlh_driver.__all__ if name[0] != "_"}
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported_parts(path: Path) -> set[str]:
    """Second component of every ``mlh_driver.X`` that a file imports, in any way."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "mlh_driver":
            names |= {HOMES.get(alias.name, f"mlh_driver.{alias.name}") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.split(".")[1] for name in names if name.startswith("mlh_driver.")} - {"__version__"}


def test_lower_layers_never_import_higher_ones() -> None:
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if part == "__init__":
            continue
        for imported in imported_parts(path):
            assert LEVEL[imported] <= LEVEL[part], f"{path.name} ({part}) imports {imported}"


def test_public_names() -> None:
    assert set(mlh_driver.__all__) == {
        "Engine", "MLHCalculator", "Results", "System", "__version__", "load_model",
    }  # fmt: skip
    for name in mlh_driver.__all__:
        assert getattr(mlh_driver, name) is not None


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, mlh_driver.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

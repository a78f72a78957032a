"""The layers import downwards only, and the public names are those promised."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import mlh_driver
from mlh_driver import errors

PACKAGE = Path(mlh_driver.__file__).parent
LAYERS = (
    ("errors", "constants"),
    ("files", "runtime", "model_files", "shipped"),
    ("system", "basis", "settings", "structures"),
    ("parts",),
    ("results", "graph", "data", "extrapolation"),
    ("force_engine", "small_cells"),
    ("network",),
    ("hamiltonian",),
    ("solvers",),
    ("model",),
    ("engine_settings",),
    ("engine",),
    ("distributed",),
    ("evaluation",),
    ("interfaces", "training", "reference"),
    ("learning",),
    ("analysis",),
    ("workflows",),
    ("cli",),
    ("__main__",),
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


def module_name(path: Path) -> str:
    return ".".join(("mlh_driver", *path.relative_to(PACKAGE).with_suffix("").parts))


def imported_modules(path: Path) -> set[str]:
    """Full names of the modules of the package that a file imports from."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return {node.module for node in nodes if (node.module or "").startswith("mlh_driver.")}


def test_layers_import_from_below_and_not_from_beside() -> None:
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if part == "__init__":
            continue
        for imported in imported_parts(path):
            below = LEVEL[imported] < LEVEL[part] or imported == part
            assert below, f"{path.name} ({part}) imports {imported}"


def test_no_file_imports_itself_by_way_of_others() -> None:
    order = TopologicalSorter()
    for path in PACKAGE.rglob("*.py"):
        if path.name != "__init__.py":
            order.add(module_name(path), *imported_modules(path))
    order.prepare()  # raises CycleError


def test_functions_are_short() -> None:
    """Sixty lines at most."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 60, f"{path.name}: {node.name} has {length} lines"


def test_public_names() -> None:
    assert set(mlh_driver.__all__) == {
        "Engine",
        "EngineSettings",
        "ForceEngine",
        "MLHCalculator",
        "Results",
        "System",
        "__version__",
        "load_model",
    }
    for name in mlh_driver.__all__:
        assert getattr(mlh_driver, name) is not None


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, mlh_driver.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_compiler_of_torch_stays_away_and_works_afterwards() -> None:
    """It takes a third of the time of all imports; those who need it can load it later, or before."""
    engine = "from mlh_driver import Engine; Engine()"
    check = f"import sys; {engine}; assert 'torch._dynamo' not in sys.modules"
    after = f"{check}; import torch; import torch._dynamo; assert torch.compiler.disable(len) is not len"
    before = f"import torch._dynamo; {engine}"
    for code in (after, before):
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_type_checkers_and_python_see_the_same_public_names() -> None:
    """The first by imports under TYPE_CHECKING, the second by imports on first use."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == mlh_driver._HOMES
    assert {*seen, "__version__"} == set(mlh_driver.__all__)


def test_every_exception_is_in_the_tree_of_errors() -> None:
    for path in PACKAGE.rglob("*.py"):
        import_module(".".join(("mlh_driver", *path.relative_to(PACKAGE).with_suffix("").parts)))
    tree = errors.__doc__.split("::")[1].split("Every message")[0]
    indented = {line.split("─ ")[1].split()[0]: line.index("─") for line in tree.splitlines() if "─ " in line}

    def check(kind: type, depth: int) -> None:
        for child in kind.__subclasses__():
            if child.__module__.startswith("mlh_driver."):
                assert indented.pop(child.__name__) == 4 * depth + 5, child.__name__
                check(child, depth + 1)

    check(errors.MLHError, 0)
    assert not indented, "no such exceptions"


def test_every_part_says_what_it_is() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"

"""The blocks of README and docs run, and what the pages say agrees with the code."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from processes import ENVIRONMENT, REPOSITORY

import mlh_driver
from mlh_driver.cli.main import COMMANDS
from mlh_driver.results import OBSERVABLES

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(REPOSITORY / "docs")
    import blocks
    import generate

SHOWN = {"text", "xml"}
"""Languages of blocks that are shown and not run."""
README_WORDS = 900
PAGES_WITH_RUNS = [page for page in blocks.PAGES if any(block.is_run for block in blocks.blocks(page))]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The inputs and examples of the repository, without the large data sets."""
    for name in ("examples", "lammps_inputs", "ipi_inputs"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("*.h5"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES_WITH_RUNS, ids=lambda page: page.name)
def test_blocks_of_a_page_run(page: Path, copy: Path) -> None:
    for block in blocks.blocks(page):
        if block.file:
            (copy / block.file).write_text(block.text)
        if block.is_run:
            done = subprocess.run(
                block.command, cwd=copy, env=ENVIRONMENT, capture_output=True, text=True, timeout=600
            )
            assert done.returncode == 0, f"{page.name}:{block.line}\n{block.text}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", blocks.PAGES, ids=lambda page: page.name)
def test_every_block_is_found_and_names_its_language(page: Path) -> None:
    fences = re.findall(r"^\s*```\S+", page.read_text(), re.M)
    directives = [fence for fence in fences if "{" in fence]
    found = list(blocks.blocks(page))
    assert len(found) == len(fences) - len(directives), "indented, or without a language?"
    assert page.read_text().count("```") == 2 * len(fences)
    for block in found:
        assert block.language in {*blocks.PROGRAMS, *SHOWN}, f"line {block.line}"


@pytest.mark.parametrize("page", blocks.PAGES, ids=lambda page: page.name)
def test_every_remark_on_a_block_is_understood(page: Path) -> None:
    remarks = re.findall(r"^<!-- (not run|figure|file)\b", page.read_text(), re.M)
    found = blocks.blocks(page)
    assert len(remarks) == sum(1 for block in found if block.file or block.reason)


def test_figures_have_names_of_their_own() -> None:
    figures = [block for page in blocks.PAGES for block in blocks.blocks(page) if block.figure]
    names = [block.figure for block in figures]
    assert len(names) == len(set(names)) > 5
    assert {block.other for block in figures if block.other} <= set(names)


def test_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().split()) <= README_WORDS


@pytest.mark.parametrize("page", blocks.PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)[^):]*\)", page.read_text()):
        if "generated/" not in target:
            assert (page.parent / target).exists(), target


def test_messages_explained_are_those_of_the_code() -> None:
    """But for what i-PI does, and LAMMPS says."""
    known = [text for _, text in generate.messages()]
    page = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
    of_others = {"i-PI waits for ever", "Thermo custom fix mlh does not compute a vector"}
    explained = set(re.findall(r"^### (.+)$", page, re.M)) - of_others
    assert len(explained) > 30
    for message in explained:
        assert any(message in text for text in known), message


def test_generated_pages_cover_the_code(tmp_path: Path) -> None:
    generate.write_pages(tmp_path)
    commands = (tmp_path / "command_line.md").read_text()
    assert all(f"Usage: mlh-driver {name} " in commands for name in COMMANDS)
    assert generate.observables() in (REPOSITORY / "docs" / "files.md").read_text()
    assert all(f"| `{name}` |" in generate.observables() for name in OBSERVABLES)
    modules = {path.stem for path in Path(mlh_driver.__file__).parent.glob("*.py")} - {"__init__"}
    assert modules <= {path.stem for path in (tmp_path / "api").glob("*.rst")}
    assert all(f">{name}<" in (tmp_path / "layers.svg").read_text() for name in modules)


def test_docstrings_are_shown_as_they_stand() -> None:
    shown = generate.readable_docstring(
        ["Sum over |m| of :func:`~a.b.f` and ``x``::", "", "H:  eV", "kT: eV"]
    )
    assert shown == [r"Sum over \|m\| of ``a.b.f`` and ``x``:", "", "::", "", "    H:  eV", "    kT: eV", ""]

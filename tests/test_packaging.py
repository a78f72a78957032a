"""What a wheel holds, and what it does in an environment where the repository is not at hand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY
from processes import ENVIRONMENT
from typer.testing import CliRunner

from mlh_driver.cli.main import app
from mlh_driver.errors import InputError
from mlh_driver.shipped import FOLDERS, copy_examples


def tracked(*folders: str) -> set[str]:
    """Files of the repository, without those that only training needs."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    left_out = ("examples/training/", "examples/comparison/", "examples/benchmarks/")
    return {name for name in listed if not name.startswith(left_out)}


def test_every_file_names_the_same_version() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    last, date = re.findall(r"^## (\S+) \((.+)\)$", (REPOSITORY / "CHANGELOG.md").read_text(), re.M)[0]
    citation = (REPOSITORY / "CITATION.cff").read_text()
    assert last == version
    assert f"version: {version}\n" in citation and f'date-released: "{date}"\n' in citation


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    subprocess.run([*command, str(REPOSITORY)], check=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel installed in an environment of its own, which finds what it depends on in this one."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    install = ["install", "--quiet", "--no-deps", "--no-compile", "--prefix", str(folder), str(wheel)]
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), *install], check=True
    )
    packages = {str(Path(path).resolve()) for path in sys.path if path.endswith("site-packages")}
    (site / "dependencies.pth").write_text("\n".join(packages))
    return folder


@pytest.mark.slow
def test_the_wheel_holds_package_models_inputs_and_small_examples(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = tracked("mlh_driver") | {f"mlh_driver/shipped_files/{name}" for name in tracked(*FOLDERS)}
    assert names == expected
    assert {"mlh_driver/models/asio2-minimal.pt", "mlh_driver/py.typed"} <= names
    assert wheel.stat().st_size < 6e6


@pytest.mark.slow
def test_an_installed_wheel_copies_its_examples_and_computes_one(environment: Path, tmp_path: Path) -> None:
    settings = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"}
    settings["PATH"] = f"{environment / 'bin'}{os.pathsep}{settings['PATH']}"

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = run(str(environment / "bin/python"), "-c", "import mlh_driver; print(mlh_driver.__file__)")
    assert where.startswith(str(environment))
    run("mlh-driver", "examples", ".")
    copied = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert copied == tracked(*FOLDERS)
    assert os.access(tmp_path / "ipi_inputs/nve/run.sh", os.X_OK)
    assert "eV" in run("mlh-driver", "predict", "examples/glass.xyz")


def test_examples_are_copied_from_the_repository_too_and_overwrite_nothing(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["examples", str(tmp_path / "new")]).exit_code == 0
    script = tmp_path / "new" / "lammps_inputs" / "nve" / "in.nve"
    assert script.read_bytes() == (REPOSITORY / "lammps_inputs" / "nve" / "in.nve").read_bytes()
    script.write_text("mine")
    with pytest.raises(InputError, match=r"lammps_inputs.* exists already; name another folder"):
        copy_examples(tmp_path / "new")
    assert script.read_text() == "mine"
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write into"):
        copy_examples(tmp_path / "file")

"""Energy conservation over a few hundred steps, in both engines."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from processes import DRIVER, ENVIRONMENT, REPOSITORY, copy_case

DRIFT_LIMIT_meV_ATOM_PS = 0.1
STEPS = 400
TIME_LIMIT_S = 900


@pytest.mark.slow
def test_drift_in_lammps(tmp_path: Path) -> None:
    folder = shutil.copytree(REPOSITORY / "lammps_inputs" / "nve", tmp_path / "nve")
    lengths = ["-var", "settle", "100", "-var", "steps", str(STEPS)]
    command = [*DRIVER, "lammps", "-in", "in.nve", *lengths]
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=True
    )
    found = re.search(r"drift of the total energy: (\S+) meV/atom/ps", done.stdout)
    assert found is not None
    assert abs(float(found[1])) < DRIFT_LIMIT_meV_ATOM_PS


@pytest.mark.slow
def test_drift_in_ipi(tmp_path: Path) -> None:
    folder = copy_case("nve", tmp_path)
    subprocess.run(
        ["./run.sh", str(STEPS)],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        timeout=TIME_LIMIT_S,
        check=True,
    )
    step, time_ps, conserved = np.loadtxt(folder / "nve.out")[:, :3].T
    settled = step >= 100
    slope = np.polyfit(time_ps[settled], conserved[settled], 1)[0]
    assert abs(1e3 * slope / 96) < DRIFT_LIMIT_meV_ATOM_PS

"""The settings of the process, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FORCE_CALL = """
import sys, torch
count = int(sys.argv[1])
torch.set_num_threads(count)
import numba
from conftest import random_model, small_system
from mlh_driver.engine import Engine
Engine(random_model()).compute(small_system())
print(torch.get_num_threads(), numba.get_num_threads())
"""


@pytest.mark.parametrize("count", ["1", "2"])
def test_torch_and_numba_use_the_number_of_threads_asked_for(count: str) -> None:
    """Compiled kernels that wait for a core of somebody else make a force call ten times slower."""
    several = {"NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", "PYTHONPATH": os.path.dirname(__file__)}
    found = subprocess.run(
        [sys.executable, "-c", FORCE_CALL, count], env=os.environ | several, capture_output=True, text=True
    )
    assert found.stdout.split() == [count, count], found.stderr

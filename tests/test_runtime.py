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


FORK = """
import multiprocessing, ase.io
from conftest import REPOSITORY
from mlh_driver import Engine, System
glass = System.from_ase(ase.io.read(REPOSITORY / "examples" / "glass.xyz"))
def energy(seed):
    return Engine().compute(glass).energy
fork = multiprocessing.get_context("fork")
with fork.Pool(1) as pool:
    print(pool.map(energy, [0])[0] == energy(0))
with fork.Pool(1) as pool:
    pool.map(energy, [0])
"""


def test_a_forked_process_computes_unless_its_parent_did() -> None:
    """OpenMP ends processes that use it again after a fork, and a pool would wait for them for ever."""
    several = {"NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", "PYTHONPATH": os.path.dirname(__file__)}
    command = [sys.executable, "-c", FORK]
    found = subprocess.run(command, env=os.environ | several, capture_output=True, text=True, timeout=120)
    assert found.stdout.split() == ["True"]
    assert "InputError: this process was forked" in found.stderr

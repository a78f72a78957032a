"""The settings of the process, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mlh_driver import runtime

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


def printed_by(code: str, **environment: str) -> str:
    """What a fresh process prints; variables that say how threads wait are not inherited."""
    inherited = {key: value for key, value in os.environ.items() if key not in WAITING}
    several = {"NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", "PYTHONPATH": os.path.dirname(__file__)}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=inherited | several | environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout + found.stderr


WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
SPINCOUNT = "import os, {}; print(os.environ.get('GOMP_SPINCOUNT'))"
START = """
import {}
import os, torch
from mlh_driver.runtime import use_torch_threads
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # not more than there are cores, by itself
for _ in range(2):
    use_torch_threads()
"""


def test_threads_sleep_soon_unless_the_user_says_how_they_wait() -> None:
    assert printed_by(SPINCOUNT.format("mlh_driver")) == f"{runtime.SPINS}\n"
    assert printed_by(SPINCOUNT.format("mlh_driver"), GOMP_SPINCOUNT="7") == "7\n"
    assert printed_by(SPINCOUNT.format("mlh_driver"), OMP_WAIT_POLICY="active") == "None\n"


def test_threads_that_will_spin_are_warned_of() -> None:
    """They were started before the package could say how long: the remedy is in the warning."""
    first, last = START.format("torch, mlh_driver"), START.format("mlh_driver, torch")
    warned = printed_by(first)
    assert "Import mlh_driver first, or set GOMP_SPINCOUNT=" in warned
    assert warned.count("RuntimeWarning") == 1
    assert "RuntimeWarning" not in printed_by(last)
    assert "RuntimeWarning" not in printed_by(first, GOMP_SPINCOUNT="100")
    assert "RuntimeWarning" not in printed_by(first, OMP_NUM_THREADS="1")


MALLOPT = """
import ctypes
from mlh_driver import runtime
class Libc:
    def __init__(self, name): pass
    def mallopt(self, option, value): print("memory")
from conftest import random_model
from mlh_driver import MLHCalculator
from mlh_driver.cli.options import build_engine
from mlh_driver.engine_settings import EngineSettings
model = random_model()
ctypes.CDLL = Libc
MLHCalculator(model)
print("calculator")
build_engine(EngineSettings(model, threads=1))
import torch
print(torch.get_num_threads())
"""


def test_only_the_command_line_changes_how_the_process_keeps_memory() -> None:
    assert printed_by(MALLOPT).splitlines() == [
        "calculator", "memory", "memory", "1",
    ]  # fmt: skip

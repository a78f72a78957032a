"""The state of the process: how it is stopped, and what makes its compiled parts fast.

What the package changes in a process of which it is a guest, and when:

* importing the package: how long OpenMP threads spin while they wait (:func:`limit_spinning`), unless the
  environment says so already;
* an engine, before it computes: numba runs on as many threads as torch (:func:`use_torch_threads`); both on
  as many as its settings say, if they do (:func:`use_threads`);
* the network: e3nn is imported without torch's compiler (:mod:`mlh_driver.network.so3`);
* the command line, which owns its process, or whoever calls :func:`configure`: freed memory is kept.

torch and numba are imported where they are used, so that the package can be imported before them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from threading import current_thread, main_thread

from mlh_driver.errors import InputError

SPINS = "3000"
"""OpenMP threads that wait spin some 0.03 ms and then sleep. The default of libgomp, 100 times as long, keeps
cores busy that other processes need, and a force call beside one waits for threads that have no core. On two
cores a call beside a busy process takes 1.7 times as long as alone, with 10,000 spins 2.6 times. With 1000
it takes 1.3 times, but a quiet machine loses up to a third, where threads are slow to wake."""
_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Environment variables with which users say how threads wait; libgomp reads them when torch is loaded."""
_RANK_COUNTS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Environment variables in which MPI launchers tell a process how many there are."""
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_LARGEST_INT = 2**31 - 1

_spinning_is_limited = False
_numba_runs_in: int | None = None


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Within this block SIGTERM is what Ctrl-C is: a KeyboardInterrupt in the main thread.

    In a process that ignores SIGTERM it stays ignored, and outside the main thread, which alone gets signals,
    nothing changes.
    """
    if current_thread() is not main_thread() or signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        yield
        return

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def launched_ranks() -> int:
    """How many processes an MPI launcher started together with this one; 1 without a launcher."""
    counts = [os.environ.get(name, "1") for name in _RANK_COUNTS]
    return max(int(count) if count.isdigit() else 1 for count in counts)


def configure(threads: int = 0) -> None:
    """Settings for a process whose work is the model: freed memory is kept; CPU threads, if they are given.

    ``mlh-driver`` calls this. In a program of your own it is optional, and saves a tenth of a force call in
    systems of thousands of atoms.
    """
    _keep_freed_memory()
    if threads:
        use_threads(threads)


def limit_spinning() -> None:
    """Let OpenMP threads sleep soon; without effect once torch is loaded, see :func:`use_torch_threads`."""
    global _spinning_is_limited
    said = any(name in os.environ for name in _WAITING)
    _spinning_is_limited = said or "torch" not in sys.modules
    if not said:
        os.environ["GOMP_SPINCOUNT"] = SPINS


def use_threads(count: int) -> None:
    """Use ``count`` CPU threads for everything compiled; 0 leaves it to torch."""
    import torch

    if count:
        torch.set_num_threads(count)
    use_torch_threads()


def use_torch_threads() -> None:
    """Let numba's kernels run on as many threads as torch's: both share one OpenMP runtime.

    To be called before any of them. Raises InputError in a fork of a process that has used them. Warns, once,
    when several threads will spin for long because torch was loaded before the package.
    """
    import numba
    import torch

    global _numba_runs_in
    count = torch.get_num_threads()
    if _numba_runs_in is None:  # its threads start now, for which numba sets the number of OpenMP threads
        _numba_runs_in = os.getpid()
        numba.set_num_threads(1)
        torch.set_num_threads(count)
        if count > 1 and not _spinning_is_limited:
            _warn_of_spinning()
    elif _numba_runs_in != os.getpid():
        raise InputError(
            "this process was forked from one that has used the model, and cannot use its threads: start it "
            "afresh, with multiprocessing.get_context('spawn')"
        )
    numba.set_num_threads(max(1, min(count, numba.config.NUMBA_NUM_THREADS)))  # type: ignore[attr-defined]


def _warn_of_spinning() -> None:
    warnings.warn(
        "torch was imported before mlh_driver, so its threads spin while they wait: beside other programs on "
        f"the same cores, force calls take several times as long. Import mlh_driver first, or set "
        f"GOMP_SPINCOUNT={SPINS} before Python starts",
        RuntimeWarning,
        stacklevel=2,
    )


def _keep_freed_memory() -> None:
    """Keep freed memory, up to 2 GiB of it, instead of asking the system for it again every step.

    Large arrays come from the heap too: fresh pages cost a tenth of a force call in systems of thousands of
    atoms. Does nothing where the C library is not glibc.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)

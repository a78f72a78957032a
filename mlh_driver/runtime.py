"""Settings of the process: how it is stopped, and what makes its compiled parts fast."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator

import numba
import torch

from mlh_driver.errors import InputError

_numba_runs_in: int | None = None
_MOST_THREADS: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_LARGEST_INT = 2**31 - 1


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Within this block SIGTERM is what Ctrl-C is: a KeyboardInterrupt in the main thread."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def use_torch_threads() -> None:
    """Let numba's kernels run on as many threads as torch's: both share one OpenMP runtime.

    To be called before any of them. Raises InputError in a fork of a process that has used them.
    """
    global _numba_runs_in
    count = torch.get_num_threads()
    if _numba_runs_in is None:  # its threads start now, for which numba sets the number of OpenMP threads
        _numba_runs_in = os.getpid()
        numba.set_num_threads(1)
        torch.set_num_threads(count)
    elif _numba_runs_in != os.getpid():
        raise InputError(
            "this process was forked from one that has used the model, and cannot use its threads: start it "
            "afresh, with multiprocessing.get_context('spawn')"
        )
    numba.set_num_threads(max(1, min(count, _MOST_THREADS)))


def use_threads(count: int) -> None:
    """Use ``count`` CPU threads for everything compiled; 0 leaves it to torch."""
    if count:
        torch.set_num_threads(count)
    use_torch_threads()


def keep_freed_memory() -> None:
    """Keep freed memory, up to 2 GiB of it, instead of asking the system for it again every step.

    Large arrays come from the heap too: fresh pages cost a tenth of a force call in systems of thousands of
    atoms. Does nothing where the C library is not glibc.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)

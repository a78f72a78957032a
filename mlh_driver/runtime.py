"""Settings of the process: how it is stopped, and what makes its compiled parts fast."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
from collections.abc import Iterator

import numba
import torch

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


def _start_numba() -> None:
    """Its threads: when they start, numba sets the number of OpenMP threads, and with it that of torch."""
    count = torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(count)


_start_numba()


def use_torch_threads() -> None:
    """Let numba's kernels run on as many threads as torch's: both share one OpenMP runtime."""
    numba.set_num_threads(max(1, min(torch.get_num_threads(), _MOST_THREADS)))


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

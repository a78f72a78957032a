"""The processes that share a structure, and what they tell each other."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlh_driver.errors import InputError, MLHError

if TYPE_CHECKING:
    from mpi4py import MPI

Ints = NDArray[np.int64]

#: Between two looks for news; to wait for them in MPI would keep a core busy between structures.
NAP_S = 5e-4
#: Kinds of messages, beside the rows of arrays.
_SWAP, _NEWS = 1, 2


class Idle(Exception):
    """There are more processes than atoms, and this one has nothing to do."""


def world(expected: int) -> Ranks:
    """All processes that were started together.

    Raises InputError without mpi4py, and if there are not as many as expected.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # the latter where it finds no MPI library
        raise InputError(
            f"several processes need mpi4py and an MPI library ({error}): pip install 'mlh-driver[mpi]'"
        ) from error
    if expected != MPI.COMM_WORLD.size:
        raise InputError(
            f"{expected} processes were started, but MPI knows of {MPI.COMM_WORLD.size}: mpiexec and mpi4py "
            "belong to different MPI libraries; take the mpiexec of 'mlh-driver[mpi]'"
        )
    return Ranks(MPI.COMM_WORLD)


class Ranks:
    """Processes with numbers from 0 on. All of them call the same methods in the same order."""

    def __init__(self, comm: MPI.Comm) -> None:
        self.comm, self.rank, self.size = comm, comm.rank, comm.size
        self._first: dict[int, Ranks] = {self.size: self}

    def first(self, count: int) -> Ranks:
        """The first ``count`` of them at most; raises Idle in the others."""
        count = min(count, self.size)
        here = self.rank < count
        if count not in self._first:
            self._first[count] = Ranks(self.comm.Split(0 if here else 1, self.rank))
        if not here:
            raise Idle
        return self._first[count]

    def total(self, values: Any) -> NDArray[Any]:
        """The sum over all processes of numbers or arrays of one shape."""
        own = np.ascontiguousarray(values)
        result = np.empty_like(own)
        wait(self.comm.Iallreduce(own, result))
        return result.reshape(np.shape(values))

    def anywhere(self, found: bool) -> bool:
        """Whether any process has found it."""
        return bool(self.total(np.array(found, dtype=np.int64)))

    @contextmanager
    def together(self) -> Iterator[None]:
        """An MLHError in this block is raised in all processes, when all have come to its end."""
        failure = None
        try:
            yield
        except MLHError as error:
            failure = error
        if self.anywhere(failure is not None):
            failures = self.swap([failure] * self.size)
            raise next(error for error in failures if error is not None)

    def swap(self, for_each: list[Any]) -> list[Any]:
        """Give an object to each process, and get one from each."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        requests = [self.comm.isend(for_each[rank], rank, _SWAP) for rank in others]
        got = [for_each[self.rank]] * self.size
        for rank in others:
            while not self.comm.Iprobe(rank, _SWAP):
                os.sched_yield()
            got[rank] = self.comm.recv(None, rank, _SWAP)
        for request in requests:
            wait(request)
        return got

    def tell(self, news: Any) -> None:
        """To all others, which :meth:`listen`; in rank 0."""
        for request in [self.comm.isend(news, rank, _NEWS) for rank in range(1, self.size)]:
            request.wait()

    def listen(self) -> Any:
        """For what rank 0 tells, hardly using the core meanwhile; in the others."""
        while not self.comm.Iprobe(0, _NEWS):
            time.sleep(NAP_S)
        return self.comm.recv(None, 0, _NEWS)

    def exchange(self, keys: Ints, owners: Ints, places: Ints, find: Callable[[Ints], Ints]) -> Exchange:
        """How to get the rows with these ``keys`` (K,) from their ``owners`` (K,).

        places: (K,) where they go in arrays here
        find:   where own rows of given keys stand
        """
        mine = [np.flatnonzero(owners == rank) for rank in range(self.size)]
        asked = self.swap([keys[which] for which in mine])
        return Exchange(
            self,
            {rank: find(wanted) for rank, wanted in enumerate(asked) if len(wanted)},
            {rank: places[which] for rank, which in enumerate(mine) if len(which)},
        )


@dataclass(frozen=True)
class Exchange:
    """Copies rows of arrays between processes: by rank, those to send, and where those received belong."""

    ranks: Ranks
    sends: dict[int, Ints]
    receives: dict[int, Ints]

    def fill(self, values: NDArray[Any]) -> None:
        """Overwrite the rows of others by what their owners have."""
        for rows, received in self._moved(values, self.sends, self.receives):
            values[rows] = received

    def collect(self, values: NDArray[Any]) -> None:
        """The reverse: add to own rows what others have there."""
        for rows, received in self._moved(values, self.receives, self.sends):
            values[rows] += received

    def _moved(
        self, values: NDArray[Any], sends: dict[int, Ints], receives: dict[int, Ints]
    ) -> Iterator[tuple[Ints, NDArray[Any]]]:
        comm = self.ranks.comm
        incoming = {
            rank: np.empty((len(rows), *values.shape[1:]), values.dtype) for rank, rows in receives.items()
        }
        outgoing = {rank: np.ascontiguousarray(values[rows]) for rank, rows in sends.items()}
        requests = [comm.Irecv(part, rank) for rank, part in incoming.items()]
        requests += [comm.Isend(part, rank) for rank, part in outgoing.items()]
        for request in requests:
            wait(request)
        for rank, rows in receives.items():
            yield rows, incoming[rank]


def launcher(count: int) -> list[str]:
    """The words before a command that start it ``count`` times; InputError without mpi4py or mpiexec."""
    here = Path(sys.executable).parent
    mpiexec = shutil.which("mpiexec", path=f"{here}{os.pathsep}{os.environ.get('PATH', '')}")
    if mpiexec is None or find_spec("mpi4py") is None:
        missing = "mpi4py" if mpiexec else "mpiexec"
        raise InputError(
            f"--ranks {count} needs {missing}, which is not installed: pip install 'mlh-driver[mpi]'"
        )
    return [mpiexec, "-n", str(count)]


def wait(request: MPI.Request) -> None:
    """For the end of a communication; MPI's own wait would keep a core that another process may need."""
    while not request.Test():
        os.sched_yield()

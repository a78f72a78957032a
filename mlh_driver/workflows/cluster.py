"""Tasks of a campaign in many processes, by dask (the extra ``cluster``).

What has to be so, and why:

* Threads per worker are set in the environment of each worker before it imports anything. Dask's nanny sets
  those of OpenMP and BLAS alone, and to one.
* Dask is not to retry a task whose worker was killed (it would kill four workers): the campaign counts
  attempts. A task that only waited at that worker has not been tried.
* Dask's own limits of memory and time are off: a model is memory that it does not know, over which it would
  pause workers for good; and workers that compute for minutes without a word are not dead.
* Dask does not replace a job that has come to the end of its time, until it is told the number of jobs again.
* Its status pages are at any free port: without them it would still take 8787, and complain if that is taken.
* A worker that is just being started again cannot be ended: dask fails at it, and leaves the others behind.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from mlh_driver.errors import InputError
from mlh_driver.workflows.campaign import RUNNING, Job, Pool, attempt, is_due, record_failure

if TYPE_CHECKING:
    from distributed import Client

#: What reads its number of threads from the environment: torch, numba, and BLAS beside them.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")

#: How often jobs of SLURM that have ended are replaced.
RENEWAL_MS = 60_000

#: Workers that died under a task before it began, in a row, until it is a failure of the task: more than
#: those at which it only waited.
MOST_UNBEGUN = 10

#: How long the end of a pool waits for workers that are being started again.
RESTART_SECONDS = 60

#: Settings of dask, see above.
SCHEDULER = {"distributed.scheduler.allowed-failures": 0, "distributed.scheduler.worker-ttl": None}


@contextmanager
def worker_processes(workers: int, threads: int = 0) -> Iterator[Pool]:
    """A pool of processes of this machine with so many threads each; 0 shares the cores among them."""
    _check_dask()
    import dask
    from distributed import Client, LocalCluster

    threads = threads or max(1, (os.cpu_count() or 1) // workers)
    with (
        dask.config.set(
            {
                "distributed.nanny.pre-spawn-environ": dict.fromkeys(THREADS, threads),
                **SCHEDULER,
            }
        ),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield lambda jobs: _finished(client, jobs)
        with suppress(TimeoutError):
            client.wait_for_workers(workers, timeout=RESTART_SECONDS)


@contextmanager
def slurm_jobs(jobs: int, threads: int = 0) -> Iterator[Pool]:
    """A pool of so many jobs of SLURM, each a worker with so many threads (0: one).

    Partition, memory, walltime and the like are those of ``jobqueue.yaml`` (dask-jobqueue). The jobs end with
    this block; they need this package, and to see the folder of the campaign under the same path.
    """
    _check_dask()
    import dask
    from distributed import Client
    from tornado.ioloop import PeriodicCallback

    with (
        dask.config.set(SCHEDULER),
        _slurm_cluster(threads) as cluster,
        Client(cluster) as client,
    ):
        cluster.scale(jobs=jobs)
        renewal = PeriodicCallback(lambda: cluster.scale(jobs=jobs), RENEWAL_MS)
        cluster.loop.add_callback(renewal.start)
        try:
            yield lambda jobs: _finished(client, jobs)
        finally:
            cluster.loop.add_callback(renewal.stop)


def slurm_script(threads: int = 0) -> str:
    """The script of a job of :func:`slurm_jobs`; needs no SLURM."""
    with _slurm_cluster(threads) as cluster:
        return str(cluster.job_script())


def _slurm_cluster(threads: int) -> Any:
    """Raises InputError where dask-jobqueue is not there, or not configured."""
    try:
        import dask
        from dask_jobqueue import SLURMCluster
    except ImportError:
        raise InputError(
            "jobs of SLURM need dask-jobqueue, which is not installed: pip install 'mlh-driver[cluster]'"
        ) from None
    if dask.config.get("jobqueue.slurm.memory") is None:
        raise InputError(
            "dask-jobqueue does not know the memory of a job; name it, and queue and walltime, under "
            "jobqueue: slurm: in ~/.config/dask/jobqueue.yaml"
        )
    threads = max(1, threads)
    return SLURMCluster(
        cores=1,
        processes=1,
        job_cpu=threads,
        job_script_prologue=[f"export {name}={threads}" for name in THREADS],
        worker_extra_args=["--memory-limit", "0"],
        scheduler_options={"dashboard_address": ":0"},
    )


@contextmanager
def existing_scheduler(scheduler: str) -> Iterator[Pool]:
    """A pool of the workers of a running dask scheduler, named by its address or by its scheduler file.

    They need this package, and to see the folder of the campaign under the same path.
    """
    _check_dask()
    from distributed import Client

    where = {"scheduler_file": scheduler} if Path(scheduler).is_file() else {"address": scheduler}
    try:
        client = Client(**where, timeout="20s")
    except (OSError, ValueError) as error:
        raise InputError(
            f"there is no dask scheduler at {scheduler}: {error}; start 'dask scheduler' and workers, and "
            "give its address, such as tcp://HOST:8786, or its scheduler file"
        ) from error
    with client:
        yield lambda jobs: _finished(client, jobs)


def _check_dask() -> None:
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise InputError(
            "several workers need dask, which is not installed: pip install 'mlh-driver[cluster]'"
        ) from None


def _finished(client: Client, jobs: Sequence[Job]) -> Iterator[Job]:
    """Jobs in the order in which they end; one whose worker was killed is started again while it may be."""
    from distributed import KilledWorker, as_completed

    started: dict[str, Job] = {}
    killed_before: Counter[Path] = Counter()

    def start(job: Job) -> object:
        task, folder = job
        key = f"{task.name}-{uuid4().hex}"  # or dask would answer with what it knows by this key
        started[key] = job
        return client.submit(attempt, task, folder.resolve(), key=key)

    waiting = as_completed([start(job) for job in jobs])
    for future in waiting:
        task, folder = started.pop(future.key)
        error = future.exception()
        if isinstance(error, KilledWorker):
            if (folder / RUNNING).exists():
                (folder / RUNNING).unlink()
                record_failure(folder, "its worker process was killed: is there enough memory?")
            elif (unbegun := killed_before[folder] + 1) >= MOST_UNBEGUN:
                record_failure(folder, "its worker died before it began: is there memory to load torch?")
            else:
                killed_before[folder] = unbegun
            if is_due(folder):
                waiting.add(start((task, folder)))
                continue
        elif error is not None:  # attempt itself raises nothing
            raise error
        yield task, folder

"""Campaigns: many independent tasks whose state is in files, and nowhere else.

==============================  ===========================================================================
RUN/campaign.json               what is computed: settings, version, model. Other settings in the same folder
                                are refused, so all results of a folder belong together
RUN/.lock                       held by the process that coordinates, gone with it
RUN/tasks/KEY/                  a task; KEY is a hash of its function, name and inputs
RUN/tasks/KEY/task.json         name and inputs, for people
RUN/tasks/KEY/running.json      host and process that work on it, and since when
RUN/tasks/KEY/result.json       what the task returned. It appears by a rename, so it means: done
RUN/tasks/KEY/error.json        why the last attempt failed, and the number of attempts so far
==============================  ===========================================================================

A task is a function of an importable module, so that worker processes can find it (and keep the model that
it loads): ``function(inputs, folder)`` with inputs and a returned value of JSON, and the task's own folder,
where it may leave checkpoints and other files. Tasks that are done are never computed again. One that fails
does not stop the others; it is tried again when the campaign is started again, three times in all. One whose
worker process is killed is tried again at once, which counts as an attempt, too. Whoever kills the
coordinator uses up no attempt.

Where tasks run is the business of a :data:`Pool`; :func:`in_this_process` is one,
:mod:`mlh_driver.workflows.cluster` has another.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from mlh_driver.errors import InputError, reason
from mlh_driver.files import alone_in, is_running, read_json, write_json
from mlh_driver.workflows.run_folder import check_same

#: Of a task that kills its process: once may be chance, three times are not.
MOST_ATTEMPTS = 3
CAMPAIGN, TASKS = "campaign.json", "tasks"
TASK, RUNNING, RESULT, ERROR = "task.json", "running.json", "result.json", "error.json"

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """One piece of work.

    name:     unique in its campaign
    function: of an importable module; gets ``inputs`` and the folder of the task, returns a dict of JSON
    inputs:   all that the result depends on, as JSON
    """

    name: str
    function: Callable[[Inputs, Path], dict[str, Any]]
    inputs: Inputs

    @property
    def key(self) -> str:
        function = f"{self.function.__module__}.{self.function.__qualname__}"
        text = json.dumps([function, self.name, _what_counts(self.inputs)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


Job = tuple[Task, Path]
Pool = Callable[[Sequence[Job]], Iterator[Job]]
"""Calls :func:`attempt` on each job, somewhere, and yields each as it ends, well or not."""

CampaignProgress = Callable[[str, int, int, int], None]
"""Gets the stage, and how many of its tasks are done, have failed, and are there."""


STATUSES = ("done", "running", "interrupted", "waiting", "failed")


@dataclass(frozen=True)
class State:
    """Of a task: its status, one of STATUSES, and what there is to say.

    attempts: that failed
    """

    name: str
    status: str
    attempts: int
    note: str = ""


class Campaign:
    """A folder of tasks, opened by :func:`open_campaign`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def task_folder(self, task: Task) -> Path:
        return self.folder / TASKS / task.key

    def run(
        self, tasks: Sequence[Task], pool: Pool, stage: str = "", progress: CampaignProgress | None = None
    ) -> dict[str, dict[str, Any]]:
        """Carry out what is not done yet; returns the results by name, of the tasks that have one."""
        jobs = [(task, self.task_folder(task)) for task in tasks]
        for task, folder in jobs:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / TASK).exists():
                write_json(folder / TASK, {"name": task.name, "inputs": task.inputs})
        due = [(task, folder) for task, folder in jobs if is_due(folder)]
        done = sum((folder / RESULT).exists() for _, folder in jobs)
        failed = len(jobs) - len(due) - done
        show = progress or (lambda *_: None)
        show(stage, done, failed, len(jobs))
        for _, folder in pool(due):
            succeeded = (folder / RESULT).exists()
            done, failed = done + succeeded, failed + (not succeeded)
            show(stage, done, failed, len(jobs))
        return {task.name: read_json(folder / RESULT) for task, folder in jobs if (folder / RESULT).exists()}


@contextmanager
def open_campaign(folder: str | Path, settings: Mapping[str, Any], n_tasks: int) -> Iterator[Campaign]:
    """Start a campaign, or go on with the one of ``folder``; no other process can, within this block.

    settings: all that decides about its results, as JSON
    n_tasks:  for those who look on; one that had more before keeps them

    Raises InputError if the folder has a campaign of other settings, or another process is at work there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder):
        n_before = check_campaign(folder, settings)
        write_json(folder / CAMPAIGN, {**_described(settings), "n_tasks": max(n_tasks, n_before)})
        yield Campaign(folder)


def check_campaign(folder: Path, settings: Mapping[str, Any]) -> int:
    """The number of tasks of the campaign of a folder, 0 where there is none.

    Raises InputError if it has other settings.
    """
    path = folder / CAMPAIGN
    if not path.exists():
        return 0
    before = read_json(path)
    n_tasks = int(before.pop("n_tasks"))
    check_same(folder, _what_counts(before), _what_counts(_described(settings)))
    return n_tasks


def _what_counts(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Without the paths of model files, which may be moved; their digests stand beside them."""
    return {
        name: _what_counts(value) if isinstance(value, Mapping) else value
        for name, value in inputs.items()
        if not (name == "model" and "digest" in inputs)
    }


def _described(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As it is in the file."""
    return dict(json.loads(json.dumps({"version": version("mlh-driver"), **settings})))


def in_this_process(jobs: Sequence[Job]) -> Iterator[Job]:
    """One task after the other: the simplest :data:`Pool`."""
    for job in jobs:
        attempt(*job)
        yield job


def attempt(task: Task, folder: Path) -> None:
    """Carry out a task, and leave its result or its error in its folder.

    Where a worker that an earlier coordinator has left behind is still at it, wait for that one's result.
    """
    with FileLock(folder / ".lock"):
        if is_due(folder):
            _carry_out(task, folder)


def _carry_out(task: Task, folder: Path) -> None:
    here = {"host": socket.gethostname(), "process": os.getpid(), "since": _now()}
    write_json(folder / RUNNING, here)
    try:
        result = task.function(task.inputs, folder)
        write_json(folder / RESULT, result)
    except Exception as error:  # whatever it is, the other tasks go on
        record_failure(folder, reason(error), traceback.format_exc())
    finally:
        (folder / RUNNING).unlink(missing_ok=True)


def record_failure(folder: Path, message: str, details: str = "") -> None:
    """One attempt more that failed."""
    write_json(
        folder / ERROR,
        {"attempts": attempts(folder) + 1, "message": message, "time": _now(), "details": details},
    )


def attempts(folder: Path) -> int:
    """How many attempts at a task failed."""
    path = folder / ERROR
    return int(read_json(path)["attempts"]) if path.exists() else 0


def is_due(folder: Path) -> bool:
    """Whether a task is neither done nor beyond hope."""
    return not (folder / RESULT).exists() and attempts(folder) < MOST_ATTEMPTS


def states(folder: Path) -> list[State]:
    """What has become of each task of a campaign; raises InputError if there is no campaign."""
    if not (folder / CAMPAIGN).exists():
        raise InputError(f"{folder} holds no campaign; name the folder that was given to --out")
    return sorted((state(path.parent) for path in folder.glob(f"{TASKS}/*/{TASK}")), key=lambda s: s.name)


def state(folder: Path) -> State:
    """What has become of the task of a folder."""
    name, failures = read_json(folder / TASK)["name"], attempts(folder)
    if (folder / RESULT).exists():
        return State(name, "done", failures)
    try:
        running = read_json(folder / RUNNING)
    except FileNotFoundError:  # none, or it has ended just now
        if not failures:
            return State(name, "waiting", 0)
        return State(name, "failed", failures, read_json(folder / ERROR)["message"])
    where = f"on {running['host']}, process {running['process']}, since {running['since']}"
    return State(name, "running" if _is_alive(running) else "interrupted", failures, where)


def _is_alive(running: dict[str, Any]) -> bool:
    """Whether a process runs; those of other machines are believed to."""
    return running["host"] != socket.gethostname() or is_running(running["process"])


def _now() -> str:
    return datetime.now().isoformat(" ", "seconds")

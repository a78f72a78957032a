"""Campaigns of tasks: their files are their state, and no failure stops the others."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path

import campaign_tasks
import pytest
from conftest import random_model
from filelock import FileLock
from processes import REPOSITORY, eventually
from typer.testing import CliRunner

from mlh_driver.cli.campaigns import campaign_pool
from mlh_driver.cli.main import app
from mlh_driver.engine_settings import EngineSettings
from mlh_driver.errors import InputError
from mlh_driver.files import read_json, write_json
from mlh_driver.workflows.campaign import (
    MOST_ATTEMPTS,
    RESULT,
    RUNNING,
    Task,
    attempt,
    attempts,
    in_this_process,
    open_campaign,
    states,
)
from mlh_driver.workflows.cluster import existing_scheduler, slurm_jobs, worker_processes
from mlh_driver.workflows.task_inputs import engine_fields, engine_for


def squares(*numbers: int) -> list[Task]:
    return [Task(f"square {x}", campaign_tasks.square, {"x": x}) for x in numbers]


def test_done_tasks_are_not_computed_again(tmp_path: Path) -> None:
    with open_campaign(tmp_path, {}, 2) as campaign:
        first = campaign.run(squares(2, 3), in_this_process)
    assert [first[name]["square"] for name in ("square 2", "square 3")] == [4, 9]
    with open_campaign(tmp_path, {}, 2) as campaign:
        calls: list[tuple[str, int, int, int]] = []
        ran: list[str] = []

        def watched(jobs):
            ran.extend(task.name for task, _ in jobs)
            return in_this_process(jobs)

        again = campaign.run(squares(2, 3, 4), watched, "squares", lambda *now: calls.append(now))
    assert ran == ["square 4"]
    assert again["square 2"] == first["square 2"]
    assert calls == [("squares", 2, 0, 3), ("squares", 3, 0, 3)]


def test_a_failed_task_stops_no_other_and_is_tried_three_times(tmp_path: Path) -> None:
    tasks = squares(1, 0, 2)
    for number in (1, 2, 3, 3):  # the fourth start does not try it again
        with open_campaign(tmp_path, {}, 3) as campaign:
            assert set(campaign.run(tasks, in_this_process)) == {"square 1", "square 2"}
        assert attempts(campaign.task_folder(tasks[1])) == number <= MOST_ATTEMPTS
    shown = CliRunner().invoke(app, ["status", str(tmp_path)]).output
    assert shown.startswith("2 done, 1 failed; 3 tasks in all\n")
    assert "nothing to square" in shown
    listed = json.loads(CliRunner().invoke(app, ["status", str(tmp_path), "--json"]).output)
    assert [state["status"] for state in listed["states"]] == ["failed", "done", "done"]


def test_states_are_those_of_the_files(tmp_path: Path) -> None:
    tasks = squares(1, 2, 3)
    with open_campaign(tmp_path, {}, 3) as campaign:
        campaign.run(tasks, lambda jobs: iter(()))
        here = {"host": os.uname().nodename, "process": os.getpid(), "since": "now"}
        write_json(campaign.task_folder(tasks[1]) / RUNNING, here)
        write_json(campaign.task_folder(tasks[2]) / RUNNING, here | {"process": 2**22 + 1})  # beyond any
    assert [state.status for state in states(tmp_path)] == ["waiting", "running", "interrupted"]
    with pytest.raises(InputError, match="holds no campaign"):
        states(tmp_path / "elsewhere")


def test_other_settings_and_a_second_process_are_refused(tmp_path: Path) -> None:
    with (
        open_campaign(tmp_path, {"settings": {"fmax": 0.1}}, 1),
        pytest.raises(InputError, match="another process is at work"),
        open_campaign(tmp_path, {"settings": {"fmax": 0.1}}, 1),
    ):
        pass
    with (
        pytest.raises(InputError, match=r"settings.fmax is 0.1 there and 0.2 now.*--out"),
        open_campaign(tmp_path, {"settings": {"fmax": 0.2}}, 1),
    ):
        pass
    with open_campaign(tmp_path, {"settings": {"fmax": 0.1}}, 1):
        pass


def test_a_task_at_which_a_worker_was_left_behind_is_waited_for(tmp_path: Path) -> None:
    (task,) = squares(3)
    with FileLock(tmp_path / ".lock"):
        second = threading.Thread(target=attempt, args=(task, tmp_path))
        second.start()
        second.join(0.5)
        assert second.is_alive()
        write_json(tmp_path / RESULT, {"square": "of the first"})
    second.join()
    assert read_json(tmp_path / RESULT) == {"square": "of the first"} and not attempts(tmp_path)


def test_a_model_file_that_was_replaced_is_no_longer_that_of_the_campaign(tmp_path: Path) -> None:
    model, path = random_model(), tmp_path / "own.pt"
    model.save(path)
    begun = engine_fields(EngineSettings(path))
    old = engine_for(begun)
    model.network.repulsion.data += 1.0
    model.save(path)
    assert engine_for(begun) is old
    assert engine_for(engine_fields(EngineSettings(path))) is not old
    with pytest.raises(InputError, match=r"own\.pt has changed since the campaign began"):
        engine_for(begun)


def test_a_model_file_may_be_moved(tmp_path: Path) -> None:
    """Its digest counts."""
    keys = set()
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        random_model().save(tmp_path / place / "own.pt")
        engine = engine_fields(EngineSettings(tmp_path / place / "own.pt"))
        keys.add(Task("one", campaign_tasks.square, {"x": 1, "engine": engine}).key)
        with open_campaign(tmp_path / "run", {"engine": engine}, 1):
            pass
        assert engine_for(engine).species == ("O", "Si")
    assert len(keys) == 1
    other = {**engine, "digest": "another"}
    with (
        pytest.raises(InputError, match=r"engine.digest is \w+ there and another now"),
        open_campaign(tmp_path / "run", {"engine": other}, 1),
    ):
        pass


def test_fewer_tasks_than_before_leave_those_that_are_there(tmp_path: Path) -> None:
    for number in (3, 2):
        with open_campaign(tmp_path, {}, number) as campaign:
            campaign.run(squares(*range(1, 1 + number)), in_this_process)
    assert CliRunner().invoke(app, ["status", str(tmp_path)]).output.startswith("3 done; 3 tasks in all")


def test_tasks_run_in_one_place_only() -> None:
    with (
        pytest.raises(InputError, match="--workers and --slurm were given; choose one"),
        campaign_pool(workers=2, threads=0, scheduler="", slurm=4),
    ):
        pass


def test_a_result_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / RESULT
    write_json(path, {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"x": float("nan")})
    assert read_json(path) == {"x": 1}


@pytest.mark.slow
def test_a_killed_worker_costs_one_attempt_of_one_task(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="dask is not installed: pip install 'mlh-driver[cluster]'")
    victim = Task("victim", campaign_tasks.wait_for_murder, {"x": 7})
    poison = Task("poison", campaign_tasks.kill_itself, {})
    tasks = [victim, *squares(*range(1, 9)), poison]

    def murder() -> None:
        mark = campaign.task_folder(victim) / "begun"
        assert eventually(lambda: mark.exists() and mark.read_text() != "")
        os.kill(int(mark.read_text()), signal.SIGKILL)

    with worker_processes(2, threads=1) as pool, open_campaign(tmp_path, {}, len(tasks)) as campaign:
        murderer = threading.Thread(target=murder)
        murderer.start()
        results = campaign.run(tasks, pool)
        murderer.join()
    assert {name: result["square"] for name, result in results.items()} == {
        "victim": 49,
        **{f"square {x}": x * x for x in range(1, 9)},
    }
    failures = {state.name: state.attempts for state in states(tmp_path) if state.attempts}
    assert failures == {"victim": 1, "poison": MOST_ATTEMPTS}
    for result in results.values():
        assert result["process"] != os.getpid()
        assert set(result["threads"].values()) == {"1"}


@pytest.mark.slow
def test_a_running_scheduler_carries_out_tasks(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="dask is not installed")
    with (
        distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        existing_scheduler(cluster.scheduler_address) as pool,
        open_campaign(tmp_path, {}, 3) as campaign,
    ):
        assert set(campaign.run(squares(1, 0, 2), pool)) == {"square 1", "square 2"}
    with pytest.raises(InputError, match="no dask scheduler at nonsense"), existing_scheduler("nonsense"):
        pass


SBATCH = """#!/bin/sh
cp "$1" "{folder}/job.sh"
bash "{folder}/job.sh" > "{folder}/job.log" 2>&1 &
echo $! > "{folder}/job.pid"
echo "Submitted batch job $!"
"""


def stand_in_for_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts a job at once."""
    for name, text in {"sbatch": SBATCH.format(folder=folder), "scancel": "#!/bin/sh\nkill $1\n"}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "tests"), prepend=os.pathsep)


@pytest.mark.slow
def test_campaigns_share_a_scheduler(tmp_path: Path) -> None:
    """Tasks of the same name in two of them are two tasks."""
    distributed = pytest.importorskip("distributed", reason="dask is not installed")
    jobs = {name: [(task, tmp_path / name / task.name) for task in squares(1, 2, 3)] for name in "ab"}
    for _, folder in jobs["a"] + jobs["b"]:
        folder.mkdir(parents=True)
    with (
        distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        existing_scheduler(cluster.scheduler_address) as one,
        existing_scheduler(cluster.scheduler_address) as other,
    ):
        half_way = one(jobs["a"])
        next(half_way)
        assert len(list(other(jobs["b"]))) == 3
        list(half_way)
    for name in "ab":
        assert sorted(read_json(folder / RESULT)["square"] for _, folder in jobs[name]) == [1, 4, 9]


@pytest.mark.slow
def test_jobs_of_slurm_carry_out_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for SLURM; the script of a job is the one that is printed."""
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    import dask

    stand_in_for_slurm(tmp_path, monkeypatch)
    with pytest.raises(InputError, match=r"memory.*jobqueue.yaml"), slurm_jobs(1):
        pass
    with dask.config.set({"jobqueue.slurm.memory": "2GB", "jobqueue.slurm.queue": "batch"}):
        printed = CliRunner().invoke(app, ["slurm-script", "--threads", "2"])
        with slurm_jobs(1, threads=2) as pool, open_campaign(tmp_path / "run", {}, 3) as campaign:
            results = campaign.run(squares(1, 0, 2), pool)
    assert set(results) == {"square 1", "square 2"}
    for result in results.values():
        assert result["process"] != os.getpid() and set(result["threads"].values()) == {"2"}
    assert "#SBATCH -p batch" in printed.output and "#SBATCH --cpus-per-task=2" in printed.output
    submitted = (tmp_path / "job.sh").read_text()
    for line in printed.output.splitlines():
        assert line in submitted or "dask_worker" in line


@pytest.mark.slow
def test_a_job_of_slurm_that_ends_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the end of its walltime."""
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    import dask

    monkeypatch.setattr("mlh_driver.workflows.cluster.RENEWAL_MS", 500)
    stand_in_for_slurm(tmp_path, monkeypatch)
    killed = Task("killed", campaign_tasks.wait_for_murder, {"x": 3})

    def end_the_job(folder: Path) -> None:
        eventually(lambda: (folder / "begun").exists())
        os.kill(int((folder / "begun").read_text()), signal.SIGKILL)
        os.kill(int((tmp_path / "job.pid").read_text()), signal.SIGKILL)

    with (
        dask.config.set({"jobqueue.slurm.memory": "2GB", "distributed.worker.death-timeout": 60}),
        slurm_jobs(1) as pool,
        open_campaign(tmp_path / "run", {}, 1) as campaign,
    ):
        ending = threading.Thread(target=end_the_job, args=(campaign.task_folder(killed),))
        ending.start()
        results = campaign.run([killed], pool)
        ending.join()
    assert results["killed"]["square"] == 9


def test_without_dask_several_workers_are_an_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'mlh-driver\[cluster\]'"), worker_processes(2):
        pass

"""A whole study: what is done is kept, what is not is done, and no failure of one run ends the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedet import InvalidInputError
from training.files import write_json
from training.study.conduct import Outcome, conduct
from training.study.evaluate_teacher import is_detector
from training.study.executor import Executor, Task
from training.study.grid import Grid
from training.study.lock import locked
from training.study.plan import Plan, Run, changes, plan, relevant_inputs
from training.study.records import FAILED, JOB, LOG, RESULT, STUDY, Job, read_record
from training.study.split import StudyData, divide, write_split
from training.teachers.attach import fingerprint


def run_study(grid: Grid, executor: Executor, say: Callable[[str], None]) -> Outcome:
    """Does what of a study is not done yet.

    Ctrl-C, SIGTERM and SIGHUP have the runs save and end; the next call resumes them, and tries again what failed.
    Raises InvalidInputError before anything starts for a grid or data that cannot be run, for another process that is
    at work on the study, and for runs that were made with other inputs.
    """
    with locked(grid.out, "a study"):
        todo = plan(grid)
        data = divide(grid)
        jobs = _jobs(grid, todo, data)
        write_split(grid.out, data)
        write_json(grid.out / STUDY, _description(grid, todo, data))
        tasks = [*_teacher_tasks(grid, todo, data), *(_run_task(grid.out, job) for job in jobs)]
        done = [run.folder for run in todo.runs if (run.folder / RESULT).exists()]
        say(f"study:  {grid.out}\ndata:   {data.report}")
        say(f"runs:   {len(todo.runs)}, of which {len(done)} are done; {executor.width} at a time")
        return conduct(tasks, executor, say)


def _jobs(grid: Grid, todo: Plan, data: StudyData) -> list[Job]:
    """The jobs of the runs that have no result. Raises InvalidInputError if any run was made with other inputs."""
    prints: dict[str, str] = {}
    jobs = []
    for run in todo.runs:
        inputs = json.loads(json.dumps(relevant_inputs(run, data.identity, prints)))
        before = read_record(run.folder / JOB)
        done, begun = (run.folder / RESULT).exists(), (run.folder / "config.json").exists()
        if (done or begun) and (found := changes((before or {}).get("inputs", {}), inputs)):
            more = f", and {len(found) - 3} more" if len(found) > 3 else ""
            raise InvalidInputError(
                f"{run.folder}: expected a run of what {grid.file} says, got one of something else: "
                f"{'; '.join(found[:3])}{more}. Give the method another name, or the study another out; or remove the "
                f"folder to train it again"
            )
        if not done:
            jobs.append(
                Job(
                    method=run.method,
                    weight=run.weight,
                    seed=run.seed,
                    options=run.options,
                    teachers=run.teachers,
                    config=run.config,
                    data=grid.data,
                    val_json=grid.val_json,
                    inputs=inputs,
                    grid_sha256=grid.sha256,
                )
            )
    return jobs


def _run_task(out: Path, job: Job) -> Task:
    folder = job.config.out
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / JOB, job.to_json())
    name = str(folder.relative_to(out))
    return Task(
        name, "training.study.run_one", (str(folder),), folder / LOG, result=folder / RESULT, failed=folder / FAILED
    )


def _teacher_tasks(grid: Grid, todo: Plan, data: StudyData) -> list[Task]:
    """What evaluates the teachers that are detectors, where that was not done with these weights and images."""
    tasks = []
    for source in filter(is_detector, todo.teachers):
        file = grid.out / f"teacher-{source.name}.json"
        record = {
            "name": source.name,
            "path": source.path,
            "fingerprint": fingerprint(source.path),
            "images": data.identity["val"],
            "data": None if grid.data is None else str(grid.data),
            "val_json": None if grid.val_json is None else str(grid.val_json),
        }
        before = read_record(file) or {}
        if "val" not in before or any(before.get(key) != record[key] for key in ("fingerprint", "images")):
            write_json(file, record)
            log, failed = file.with_suffix(".log"), file.with_suffix(".failed.json")
            module = "training.study.evaluate_teacher"
            tasks.append(Task(f"teacher {source.name}", module, (str(file),), log, result=file, failed=failed))
    return tasks


def _description(grid: Grid, todo: Plan, data: StudyData) -> dict[str, Any]:
    def about(run: Run) -> dict[str, Any]:
        folder = str(run.folder.relative_to(grid.out))
        return {"method": run.method, "weight": run.weight, "seed": run.seed, "folder": folder}

    return {
        "grid": grid.text,
        "grid_sha256": grid.sha256,
        "data": dict(data.identity),
        "runs": [about(run) for run in todo.runs],
        "teachers": [source.name for source in todo.teachers],
    }

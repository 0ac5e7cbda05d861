"""`python -m training.study.run_one FOLDER`: one run of a study, from its job.json to its result.json."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from edgedet.command import run_command
from training.config import TrainConfig, read_config
from training.files import write_json
from training.publish import evaluate_checkpoint
from training.recipes import device_of, resolve
from training.reporting import read_metrics
from training.study.lock import locked
from training.study.machine import machine, versions
from training.study.records import FAILED, RESULT, Job, read_job
from training.trainer import RunResult, resume, train
from training.weights.read import read_description

_MOST_WORKERS = 8
_PLACE = ("device", "threads", "workers", "train_json", "val_json")  # what may have moved since a run was begun


def run_one(folder: Path, *, device: str, cores: int) -> int:
    """Trains, or goes on training, and evaluates the best weights on the real validation split, once.

    device, cores: what of the machine the run may take, where its options do not say. Returns an exit code.
    Raises as `train` and `evaluate_checkpoint` do.
    """
    with locked(folder, "a run"):
        job = read_job(folder)
        config = resolve(_placed(job.config, device, cores))
        if (folder / "config.json").exists():
            own = {name: getattr(config, name) for name in _PLACE}
            write_json(folder / "config.json", replace(read_config(folder), **own).to_json())
            result = resume(folder)
        else:
            result = train(config)
        if result.signal:
            return 128 + result.signal
        metrics = evaluate_checkpoint(
            folder, data=job.data, val_json=job.val_json, device=config.device, batch=config.eval_batch
        )
        write_json(folder / RESULT, _result(job, result, metrics, cores=cores))
        (folder / FAILED).unlink(missing_ok=True)
        return 0


def seconds_per_step(records: Sequence[Mapping[str, Any]]) -> float | None:
    """The median over the stretches between records of steps; None where there are not two."""
    marks = [(record["step"], record["seconds"]) for record in records if record["kind"] == "step"]
    rates = [(end - start) / (last - first) for (first, start), (last, end) in pairwise(marks) if last > first]
    return median(rates) if rates else None


def _placed(config: TrainConfig, device: str, cores: int) -> TrainConfig:
    """The configuration with its share of the machine."""
    device = config.device if config.device != "auto" else device
    on_cpu = device_of(device).type == "cpu"
    threads = config.threads or (cores if on_cpu else 0)
    workers = config.workers
    if workers < 0:
        workers = max(0, min(_MOST_WORKERS, cores - (threads if on_cpu else 1)))
    return replace(config, device=device, threads=threads, workers=workers)


def _result(job: Job, result: RunResult, metrics: Mapping[str, float], *, cores: int) -> dict[str, Any]:
    config = read_config(result.run)
    records = read_metrics(result.run / "metrics.jsonl")
    steps = max(record["step"] for record in records)
    best = read_description(result.run / "best.safetensors")
    assert best is not None
    return {
        "method": job.method,
        "weight": job.weight,
        "seed": job.seed,
        "options": dict(job.options),
        "teachers": list(job.teachers),
        "val": dict(metrics),
        "select": best["metrics"],
        "best_step": best["step"],
        "steps": steps,
        "seconds": result.seconds,
        "seconds_per_step": seconds_per_step(records) or result.seconds / steps,
        "peak_memory": max((record["peak_memory"] for record in records if record["kind"] == "step"), default=None),
        "config": config.to_json(),
        "inputs": dict(job.inputs),
        "versions": versions(),
        "machine": machine(config.device, threads=config.threads, cores=cores),
        "grid_sha256": job.grid_sha256,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns an exit code, see `run_command`."""
    parser = argparse.ArgumentParser(prog="python -m training.study.run_one", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the run, with job.json")
    parser.add_argument("--device", default="auto", help="device, if the run's options do not say")
    parser.add_argument("--cores", type=int, required=True, help="CPU cores it may take")
    arguments = parser.parse_args(argv)
    return run_command(lambda: run_one(arguments.folder, device=arguments.device, cores=arguments.cores))


if __name__ == "__main__":
    raise SystemExit(main())

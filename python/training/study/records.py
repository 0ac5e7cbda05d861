"""The files of a study, written by one process and read by others.

    OUT/study.json                   what there is to do: runs, teachers, the text of the grid
    OUT/teacher-NAME.json            AP of a teacher, or why it has none
    OUT/split/train.json, select.json
    OUT/METHOD[-xW]/seed-S/          the folder of a run, as `train` writes it, and:
        job.json                     what to do, and all that the figures depend on
        log.txt                      what the run said
        result.json                  the figures: the run is done
        failed.json                  why the last attempt failed

Each appears whole or not at all, but for the log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgedet import InvalidInputError
from training.config import TrainConfig

STUDY, JOB, RESULT, FAILED, LOG = "study.json", "job.json", "result.json", "failed.json", "log.txt"


def row_name(method: str, weight: float) -> str:
    """What a method with a factor of its weights is called, in folders and tables."""
    return method if weight == 1.0 else f"{method}-x{weight:g}"


@dataclass(frozen=True)
class Job:
    """What the process of a run is told.

    method, weight, seed, options, teachers: see `plan.Run`. config: not yet resolved. data, val_json: what the run is
    judged by. inputs: see `plan.relevant_inputs`.
    """

    method: str
    weight: float
    seed: int
    options: Mapping[str, Any]
    teachers: tuple[str, ...]
    config: TrainConfig
    data: Path | None
    val_json: Path | None
    inputs: Mapping[str, Any]
    grid_sha256: str

    def to_json(self) -> dict[str, Any]:
        """In json's types."""
        paths = {name: None if (path := getattr(self, name)) is None else str(path) for name in ("data", "val_json")}
        options = {name: str(value) if isinstance(value, Path) else value for name, value in self.options.items()}
        return {**asdict(self), "config": self.config.to_json(), "options": options, **paths}


def read_job(folder: Path) -> Job:
    """The job of a run. Raises InvalidInputError if there is none."""
    content = read_record(folder / JOB)
    if content is None:
        raise InvalidInputError(f"{folder}: expected the folder of a run with {JOB}, got none; start it with ablate")
    try:
        paths = {name: None if content[name] is None else Path(content[name]) for name in ("data", "val_json")}
        config = TrainConfig.from_json(content["config"])
        return Job(**{**content, **paths, "config": config, "teachers": tuple(content["teachers"])})
    except (KeyError, TypeError) as error:
        raise InvalidInputError(f"{folder / JOB}: expected a job of this release, got {error!r}") from error


def read_record(file: Path) -> dict[str, Any] | None:
    """A json object, or None where there is no such file. Raises InvalidInputError for a broken one."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{file}: expected json, got something broken ({error}); remove the file") from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"{file}: expected a json object, got a {type(content).__name__}; remove the file")
    return content

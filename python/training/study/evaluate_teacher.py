"""`python -m training.study.evaluate_teacher FILE`: AP of a teacher that is a detector, as the runs are judged."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from edgedet import Error
from edgedet.command import run_command
from training.files import write_json
from training.publish import evaluate_checkpoint
from training.study.machine import versions
from training.study.records import read_record
from training.teachers.model_folder import HUB
from training.teachers.source import Source
from training.weights.huggingface import FAMILIES
from training.weights.read import read_json

_BATCH = 16


def is_detector(source: Source) -> bool:
    """Whether a teacher is a detector of this project, not an ONNX file, a bundle or a foundation model."""
    path = Path(source.path)
    if source.path.startswith(HUB) or path.suffix.lower() == ".onnx" or (path / "model.json").is_file():
        return False
    described = path / "config.json"
    kind = read_json(described).get("model_type") if described.is_file() else None
    return kind is None or kind in FAMILIES


def evaluate_teacher(file: Path, *, device: str) -> int:
    """Adds the metrics to the record of a teacher, or why there are none; returns an exit code.

    A teacher is evaluated at its own input size, and cannot be where its classes are not those of the data.
    """
    record = read_record(file) or {}
    data, val_json = (None if record[key] is None else Path(record[key]) for key in ("data", "val_json"))
    try:
        metrics = evaluate_checkpoint(Path(record["path"]), data=data, val_json=val_json, device=device, batch=_BATCH)
    except Error as error:
        print(f"not evaluated: {error}")
        record |= {"val": None, "why": str(error)}
    else:
        record["val"] = metrics
    write_json(file, {**record, "versions": versions()})
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns an exit code, see `run_command`."""
    parser = argparse.ArgumentParser(prog="python -m training.study.evaluate_teacher", description=__doc__)
    parser.add_argument("file", type=Path, help="teacher-NAME.json")
    parser.add_argument("--device", default="auto", help="where to run")
    parser.add_argument("--cores", type=int, required=True, help="CPU cores it may take")
    arguments = parser.parse_args(argv)

    def command() -> int:
        import torch

        torch.set_num_threads(arguments.cores)
        return evaluate_teacher(arguments.file, device=arguments.device)

    return run_command(command)


if __name__ == "__main__":
    raise SystemExit(main())

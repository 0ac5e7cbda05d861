"""`make`: every contender's model of every subject, each made once."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quantisers.contenders import FLOAT, OURS, TOOLS, Contender
from benchmarks.quantisers.workspace import BACKEND, Subject, calibration_digest, file_digest, read_json, write_json
from calibration.inputs import network_input
from calibration.sampling import read_checked, read_record
from edgedet import InvalidInputError
from edgedet.files import beside

PEERS = Path(__file__).parent / "peers"


def request(subject: Subject, contender: Contender) -> dict[str, Any]:
    """All that a contender's model depends on."""
    return {
        "tool": contender.tool,
        "settings": dict(contender.settings),
        "float_sha256": file_digest(subject.float_file),
        "calibration_sha256": calibration_digest(subject.sample),
    }


def is_made(record: Mapping[str, Any], wanted: Mapping[str, Any], model: Path | None) -> bool:
    """Whether a record speaks of `wanted` and its model is still the one it made. A recorded failure counts as made."""
    if record.get("request") != wanted:
        return False
    return "error" in record or (model is not None and record.get("sha256") == file_digest(model))


def write_inputs(subject: Subject, images: Path) -> None:
    """The calibration images through the runtime's own preprocessing, for quantisers that know no images."""
    described = {"calibration": calibration_digest(subject.sample), "input": subject.spec["input"]}
    note = subject.inputs.with_suffix(".json")
    if subject.inputs.is_file() and read_json(note) == described:
        return
    size = subject.spec["input"]
    shape = (len(subject.sample.images), 3, size["height"], size["width"])
    staging = beside(subject.inputs)
    subject.folder.mkdir(parents=True, exist_ok=True)
    tensors = np.lib.format.open_memmap(staging, mode="w+", dtype=np.float32, shape=shape)
    for index, image in enumerate(subject.sample.images):
        tensors[index] = network_input(read_checked(images, image), subject.spec)
    tensors.flush()
    staging.replace(subject.inputs)
    write_json(note, described)


def make(
    subject: Subject,
    contenders: Sequence[Contender],
    *,
    images: Path | None,
    pythons: Mapping[str, Path],
    say: Callable[[str], None],
) -> None:
    """Have every contender make its model of a subject; what is there already is left alone.

    Args:
        subject: the model.
        contenders: who.
        images: folder of the calibration images, where it is not the recorded one.
        pythons: interpreter of each tool's environment.
        say: told what happens.

    Raises:
        InvalidInputError: a tool without an interpreter, or calibration images that changed.
    """
    write_inputs(subject, images or Path(subject.sample.directory))
    for contender in contenders:
        folder = subject.of(contender)
        wanted = request(subject, contender)
        if contender.tool is None:
            _take(subject, contender, wanted)
            continue
        if is_made(read_json(folder / "record.json"), wanted, subject.model(contender)):
            say(f"{subject.name} {contender.key}: made before")
            continue
        if contender.tool not in pythons:
            raise InvalidInputError(
                f"expected --python {contender.tool}=PATH to make {contender.key}, got none; "
                f"name the interpreter of its environment, or leave it out with --only"
            )
        shutil.rmtree(folder, ignore_errors=True)
        record = _run(subject, contender, pythons[contender.tool])
        model = subject.model(contender)
        if model is not None:
            record["sha256"] = file_digest(model)
        write_json(folder / "record.json", {"request": wanted, **record})
        result = f"failed: {record['error']}" if "error" in record else f"{record['seconds']} s"
        say(f"{subject.name} {contender.key}: {result}")


def _take(subject: Subject, contender: Contender, wanted: Mapping[str, Any]) -> None:
    """Copy a model out of the bundle."""
    source = {FLOAT: subject.float_file, OURS: subject.our_file}[contender.key]
    folder = subject.of(contender)
    folder.mkdir(parents=True, exist_ok=True)
    if source is None:
        (folder / "model.onnx").unlink(missing_ok=True)
        write_json(folder / "record.json", {"request": wanted, "error": "the bundle holds no INT8 model"})
        return
    shutil.copyfile(source, folder / "model.onnx")
    settings = _our_settings(subject) if contender.key == OURS else {}
    write_json(
        folder / "record.json",
        {"request": {**wanted, "settings": settings}, "sha256": file_digest(folder / "model.onnx")},
    )


def _our_settings(subject: Subject) -> dict[str, Any]:
    """What calibration.json says of how the INT8 model was made, without the ranges and layers themselves."""
    record: Any = read_record(subject.bundle).get("quantization", {})
    made = record.get(BACKEND, {}) if isinstance(record, dict) else {}
    return {key: value for key, value in made.items() if key not in ("ranges", "layers", "kept_float")}


def _run(subject: Subject, contender: Contender, python: Path) -> dict[str, Any]:
    """Run a peer's script; a failure is a result too."""
    assert contender.tool is not None
    folder = subject.of(contender)
    job = {
        "model": str(subject.float_file.resolve()),
        "inputs": str(subject.inputs.resolve()),
        "image_input": subject.spec["input"]["name"],
        "size_input": subject.spec["output"].get("size_input"),
        "settings": dict(contender.settings),
    }
    write_json(folder / "job.json", job)
    command = [str(python), str(PEERS / TOOLS[contender.tool]), str((folder / "job.json").resolve())]
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0 or not (folder / "made.json").is_file():
        lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return {"error": lines[-1] if lines else f"exit status {done.returncode}"}
    return dict(json.loads((folder / "made.json").read_text(encoding="utf-8")))

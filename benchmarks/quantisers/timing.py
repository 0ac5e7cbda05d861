"""`time`: the network alone, all contenders of a model in all engines in turns, in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
import onnxruntime
import openvino

from benchmarks.end_to_end import compare, summary, take_turns
from benchmarks.quantisers.contenders import FLOAT, Contender
from benchmarks.quantisers.engines import load
from benchmarks.quantisers.workspace import Subject, file_digest, read_json, write_json
from edgedet import InvalidInputError

# What everything is compared with.
BASE = f"{FLOAT} openvino"
_WARM_UP = 10


def time_all(
    subject: Subject,
    contenders: Sequence[Contender],
    *,
    threads: int,
    rounds: int,
    calls: int,
    say: Callable[[str], None],
) -> None:
    """Time every model of a subject that loads, and write times.json.

    Everything takes turns of `calls` runs in an order that rotates, after one run that is not counted, so that a
    machine that slows down for a while slows all. The image is one of the calibration set: the time of these networks
    does not depend on it.

    Raises:
        InvalidInputError: the float model is not among the contenders, or a model was not evaluated before.
    """
    image = np.array(np.load(subject.inputs, mmap_mode="r")[0])
    running: dict[str, Callable[[], object]] = {}
    digests: dict[str, str] = {}
    for contender in contenders:
        model = subject.model(contender)
        if model is None:
            continue
        for engine in contender.engines:
            evaluated = read_json(subject.of(contender) / f"ap.{engine}.json")
            digest = file_digest(model)
            if evaluated.get("request", {}).get("sha256") != digest:
                raise InvalidInputError(
                    f"expected AP of {contender.key} in {engine}, got none for its model; run `evaluate` first"
                )
            if "error" in evaluated:
                continue
            loaded = load(engine, model, subject.spec, threads=threads)
            loaded.run(image)
            running[f"{contender.key} {engine}"] = loaded.repeat
            digests[f"{contender.key} {engine}"] = digest
    if BASE not in running:
        raise InvalidInputError(f"expected {FLOAT} among the contenders, got {', '.join(running)}; name it in --only")
    taken = take_turns(running, rounds=rounds, calls=calls, warmup=_WARM_UP)
    entries: dict[str, Any] = {}
    for name, times in taken.items():
        against = compare(taken, BASE, name)
        entries[name] = {
            "sha256": digests[name],
            **{key: round(value, 3) for key, value in summary(times).items()},
            "minimum": round(min(min(turn) for turn in times), 3),
            **{key: round(value, 4) for key, value in against.items()},
        }
        say(f"{subject.name} {name}: {entries[name]['p50']:.2f} ms, x{entries[name]['ratio_of_medians']:.3f}")
    record = {
        "measured": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": openvino.Core().get_property("CPU", "FULL_DEVICE_NAME"),
        "versions": {"onnxruntime": onnxruntime.__version__, "openvino": openvino.get_version()},
        "threads": threads,
        "rounds": rounds,
        "calls": calls,
        "entries": entries,
    }
    write_json(subject.folder / "times.json", record)

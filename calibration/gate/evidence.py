"""Run both engines on the evaluation images, in turns, and keep what they did."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from calibration.execution import int8_norms, kernel_share, kernel_time
from calibration.gate.batches import SIZES, BatchCheck, engine_batches, float_reference, graph_batches
from calibration.inputs import network_feed, network_input
from edgedet import Detections, Detector, backends, read_image
from edgedet.known_bad.check import gpu_capability, installed_version, known_bad
from edgedet.matching import CONFIDENT
from edgedet.onnx_graph import read_graph
from edgedet.verdict import Candidate, model_file

_WARM_UP: Final = 3
_REPEATED: Final = 8

Progress = Callable[[str, int, int], None]


@dataclass
class EngineRun:
    """What one engine did on the evaluation images, in their order.

    Attributes:
        detections: per image.
        total_ms: from frame in memory to detections.
        inference_ms: the network alone.
    """

    detections: list[Detections] = field(default_factory=list)
    total_ms: list[float] = field(default_factory=list)
    inference_ms: list[float] = field(default_factory=list)

    def add(self, detector: Detector, image: npt.NDArray[np.uint8]) -> None:
        """Run one image and take the time."""
        start = time.perf_counter()
        found, stages = detector.detect_timed([image])
        self.total_ms.append((time.perf_counter() - start) * 1e3)
        self.inference_ms.append(stages.inference)
        self.detections.append(found[0])


@dataclass(frozen=True)
class Evidence:
    """Everything the verdict is drawn from, apart from the labels.

    Attributes:
        precision: of the candidate.
        runs: of "fp32" and of the candidate's precision.
        deterministic: the candidate gave the same detections, to the bit, for the same images again.
        batches: of the candidate, on the engine and in the ONNX file.
        execution: what the candidate's engine executes, as in report.json.
        device: of the candidate's engine.
        threads: of the candidate's engine.
        reference: the float engine against its ONNX file in onnxruntime; None where that is not asked.
        known: combinations of network, precision and backend that were wrong elsewhere.
    """

    precision: Candidate
    runs: dict[str, EngineRun]
    deterministic: bool
    batches: tuple[BatchCheck, ...]
    execution: dict[str, Any]
    device: str
    threads: int
    reference: BatchCheck | None = None
    known: tuple[str, ...] = ()


def gather(
    bundle: Path,
    spec: Mapping[str, Any],
    paths: Sequence[Path],
    *,
    precision: Candidate,
    backend: str,
    threads: int,
    progress: Progress,
) -> Evidence:
    """Run the float model of a bundle and a candidate.

    The images are taken in turn by both engines, so that a change in the machine's speed meets both.

    Args:
        bundle: the bundle folder.
        spec: its model.json.
        paths: evaluation images, at least one.
        precision: of the candidate.
        backend: where both run.
        threads: CPU threads, 0 for the backend's choice.
        progress: told (stage, done, total).
    """
    reference = Detector(bundle, backend=backend, precision="fp32", threads=threads)
    candidate = Detector(bundle, backend=backend, precision=precision, threads=threads)
    engines = [("fp32", reference), (precision, candidate)]
    runs = {name: EngineRun() for name, _ in engines}
    first = read_image(paths[0])
    for _, engine in engines * _WARM_UP:
        engine(first)
    for number, path in enumerate(paths):
        image = read_image(path)
        for name, engine in engines if number % 2 else reversed(engines):
            runs[name].add(engine, image)
        progress("both engines", number + 1, len(paths))

    repeated = [candidate(read_image(path)) for path in paths[:_REPEATED]]
    model = bundle / str(model_file(spec, precision, backend))
    busy = [read_image(paths[at]) for at in _busiest(runs["fp32"].detections, max(SIZES))]
    batched = candidate
    reference_check = None
    if backend == "tensorrt":
        # For latency its engines take one image; and compilers of GPUs have been wrong in FP32.
        batched = Detector(bundle, backend=backend, precision=precision, threads=threads, mode="throughput")
        reference_check = float_reference(bundle / str(model_file(spec, "fp32", backend)), reference, busy, spec)
    batches = (engine_batches(batched, busy), graph_batches(model, busy, spec))
    graph = candidate.execution_graph()
    share = None
    if backend == "openvino":
        feed = network_feed(network_input(first, spec)[None], spec)
        share = round(kernel_time(model, feed, precision), 4)
    execution = {
        **kernel_share(graph, precision, backend=backend).to_json(),
        **({"norms": int8_norms(graph, backend=backend)} if precision == "int8" else {}),
        "time_share": share,
    }
    return Evidence(
        precision=precision,
        runs=runs,
        deterministic=_same(runs[precision].detections[:_REPEATED], repeated),
        batches=batches,
        reference=reference_check,
        known=_known(bundle, spec, backend, precision),
        execution=execution,
        device=candidate.info.device,
        threads=candidate.info.threads,
    )


def _known(bundle: Path, spec: Mapping[str, Any], backend: str, precision: Candidate) -> tuple[str, ...]:
    """What the table of known-bad combinations has of the two engines."""
    here = next((entry for entry in backends() if entry["name"] == backend), None)
    version = None if here is None else installed_version(here)
    if version is None:
        return ()
    found = []
    for kind in ("fp32", precision):
        graph = read_graph(bundle / str(model_file(spec, kind, backend)))
        entries = known_bad(graph, backend=backend, version=version, precision=kind, capability=gpu_capability())
        found += [f"{entry.symptom}; {entry.remedy} ({entry.sources[0]})" for entry in entries]
    return tuple(dict.fromkeys(found))


def _busiest(detections: Sequence[Detections], count: int) -> list[int]:
    """Positions of the images with the most confident detections: where there are none, nothing can be compared."""
    number = np.array([np.count_nonzero(found.scores >= CONFIDENT) for found in detections])
    return [int(at) for at in np.argsort(-number, kind="stable")[:count]]


def _same(first: Sequence[Detections], second: Sequence[Detections]) -> bool:
    return all(
        np.array_equal(a.boxes, b.boxes) and np.array_equal(a.scores, b.scores) and np.array_equal(a.labels, b.labels)
        for a, b in zip(first, second, strict=True)
    )

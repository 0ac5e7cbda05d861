"""Measure a candidate on the engine that will run it: how far its detections move, how long it takes, its AP."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from calibration.inputs import float_model
from calibration.render import BackendName
from edgedet import Detections, Detector, backends, read_image
from edgedet.bundle import add_model, load_model_json, name_model
from edgedet.coco_compare import compare, match_run
from edgedet.coco_eval import CocoDataset, CocoImage, match_categories
from edgedet.matching import pairwise_iou
from edgedet.turns import take_turns
from edgedet.verdict import HALVES, Half, model_file

# Detections of the float engine that count in the divergence.
_SCORE = 0.1
_TIMED_IMAGES = 8
_LEAST_PAIRS = 12


@dataclass(frozen=True)
class Time:
    """Candidate against float engine, in turns, from frame in memory to detections.

    Attributes:
        ratio: of medians.
        ms: median of the candidate.
        float_ms: median of the float engine in the same turns.
    """

    ratio: float
    ms: float
    float_ms: float


@dataclass(frozen=True)
class Loss:
    """AP on the images of the search.

    Attributes:
        ap: of the candidate.
        drop: of AP against the float engine.
        drop_se: standard error of `drop`.
    """

    ap: float
    drop: float
    drop_se: float


class Bench:
    """The float engine, the images, and a scratch bundle in which candidates become engines. A context manager."""

    def __init__(
        self,
        bundle: Path,
        backend: BackendName,
        *,
        dataset: CocoDataset,
        images: Sequence[CocoImage],
        paths: Sequence[Path],
        probe: Sequence[Path],
        threads: int,
    ) -> None:
        """Compile the float engine.

        Args:
            bundle: whose models are tried; it is not changed.
            backend: the engine.
            dataset: labels of `images`.
            images: those that AP is measured on.
            paths: their files.
            probe: a few images, none of them among `images`, that divergence is measured on.
            threads: for all engines, 0 for the backend's choice.
        """
        spec = load_model_json(bundle)
        self._backend, self._threads = backend, threads
        self._dataset, self._images, self._paths = dataset, images, paths
        self._categories = match_categories(dataset, spec["classes"], spec["category_ids"])
        self._half_files = half_files(spec, backend)
        self._scratch = tempfile.TemporaryDirectory()
        self._bundle = Path(shutil.copytree(bundle, Path(self._scratch.name) / "candidate"))
        self._float = self._open("fp32")
        self.device = self._float.info.device
        self.threads = self._float.info.threads
        self._probe = [read_image(path) for path in probe]
        self._expected = [self._float(image) for image in self._probe]
        self._float_run: list[Detections] = []

    def __enter__(self) -> Bench:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the scratch bundle."""
        self._scratch.cleanup()

    def engine(self, model: onnx.ModelProto) -> Detector:
        """Compile a candidate."""
        target = Path(self._scratch.name) / "candidate.onnx"
        onnx.save(model, str(target))
        add_model(self._bundle, "int8", self._backend, target)
        return self._open("int8")

    def halves(self) -> list[Half]:
        """Half types that this device computes in, and that the bundle has a file for."""
        return [half for half in computed_halves(self._backend) if half in self._half_files]

    def half(self, precision: Half) -> Detector:
        """Compile the model in a half type."""
        name_model(self._bundle, precision, self._backend, self._half_files[precision])
        return self._open(precision)

    def _open(self, precision: str) -> Detector:
        """An engine of the scratch bundle, of which nothing is kept: there will be hundreds, each opened once."""
        folder = Path(self._scratch.name) / "engines"  # TensorRT's times of kernels stay there, and speed up builds
        detector = Detector(
            self._bundle,
            backend=self._backend,
            precision=precision,
            threads=self._threads,
            cache_dir=folder if self._backend == "tensorrt" else "",
        )
        for kept in folder.glob("*.engine*"):
            kept.unlink()
        return detector

    def divergence(self, engine: Detector) -> float:
        """How far the probe images' detections are from the float engine's, in [0, 1]."""
        return divergence(self._expected, [engine(image) for image in self._probe])

    def time(self, engine: Detector, *, seconds: float) -> Time:
        """Time one candidate against the float engine."""
        return self.times([engine], seconds=seconds)[0]

    def times(self, engines: Sequence[Detector], *, seconds: float) -> list[Time]:
        """Time engines by turns, each image by each of them, so that a change in the machine's speed meets all."""
        medians = medians_by_turns([self._float, *engines], self._probe[:_TIMED_IMAGES], seconds=seconds)
        return [Time(median / medians[0], median, medians[0]) for median in medians[1:]]

    def loss(self, engine: Detector, progress: Callable[[int, int], None]) -> Loss:
        """AP of a candidate; that of the float engine is measured once."""
        if not self._float_run:
            self._float_run = self._run(self._float, progress)
        runs = {"fp32": self._float_run, "candidate": self._run(engine, progress)}
        matched = {
            name: match_run(found, self._dataset, self._images, self._categories)[0] for name, found in runs.items()
        }
        accuracy = compare(matched, self._dataset.categories)
        return Loss(accuracy.candidate, accuracy.drop, accuracy.drop_se)

    def _run(self, engine: Detector, progress: Callable[[int, int], None]) -> list[Detections]:
        found = []
        for number, path in enumerate(self._paths):
            found.append(engine(read_image(path)))
            progress(number + 1, len(self._paths))
        return found


def medians_by_turns(
    contenders: Sequence[Detector], frames: Sequence[npt.NDArray[np.uint8]], *, seconds: float
) -> list[float]:
    """Milliseconds a frame of each engine, by turns."""
    return [float(np.median(times)) for times in take_turns(contenders, frames, turns=_LEAST_PAIRS, seconds=seconds)]


def computed_halves(backend: BackendName) -> list[Half]:
    """Half types that this device computes in on a backend."""
    here: list[str] = next((entry["precisions"] for entry in backends() if entry["name"] == backend), [])
    return [half for half in HALVES if half in here]


def half_files(spec: Mapping[str, Any], backend: BackendName) -> dict[Half, str]:
    """The file that a backend runs in each half type.

    OpenVINO runs the float file in any; TensorRT takes types as they are written, so that a file of its own is needed
    (`calibration.half_bundle`).
    """
    if backend == "openvino":
        return dict.fromkeys(HALVES, float_model(spec, backend))
    named = {half: model_file(spec, half, backend) for half in HALVES}
    return {half: file for half, file in named.items() if file is not None and file != float_model(spec, backend)}


def divergence(reference: Iterable[Detections], other: Iterable[Detections]) -> float:
    """How far detections are from those of a reference, in [0, 1].

    Each detection of the reference looks for the partner of its class with the largest IoU x min(score ratio, 1);
    1 minus that is its divergence. The result is their mean, weighted by the reference's scores.
    """
    lost = weight = 0.0
    for ours, theirs in zip(reference, other, strict=True):
        counted = np.flatnonzero(ours.scores >= _SCORE)
        weight += float(ours.scores[counted].sum())
        kept: npt.NDArray[np.float64] = pairwise_iou(ours.boxes[counted], theirs.boxes)
        kept *= ours.labels[counted][:, None] == theirs.labels[None, :]
        kept *= np.minimum(theirs.scores[None, :] / ours.scores[counted][:, None], 1.0)
        best = kept.max(axis=1) if kept.shape[1] else np.zeros(len(counted))
        lost += float(((1.0 - best) * ours.scores[counted]).sum())
    return lost / weight if weight else 0.0

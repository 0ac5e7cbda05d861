"""Whether images give the same detections side by side as one by one: on the engine, and in the ONNX file itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from PIL import Image

from calibration.collect import session
from calibration.emulate import emulate
from calibration.inputs import network_feed, network_input
from calibration.outputs import decode_outputs, output_names
from calibration.typed import HALF, element_types
from edgedet import Detections, Detector, Error
from edgedet.matching import CONFIDENT, drift

#: Images per call that are compared with one at a time.
SIZES: Final = (1, 2, 8)
#: Share of detections that must be found again: other batch sizes may round and break ties differently.
_MATCHED: Final = 0.98
#: Largest mean distance in pixels.
_MOVED: Final = 1.0
#: Largest mean difference of scores.
_SCORED: Final = 0.01


@dataclass(frozen=True)
class BatchCheck:
    """One way of running batches.

    Attributes:
        where: "engine", "graph", or "float", which is no batch but the float engine against its ONNX file.
        sizes: images per call that were tried.
        matched: smallest share of detections found again, in [0, 1].
        moved_px: largest mean distance of the boxes found again, pixels.
        score: largest mean difference of their scores.
        reason: why it is refused, empty where it is not.
        note: why it was not tried, empty where it was.
    """

    where: str
    sizes: tuple[int, ...]
    matched: float = 1.0
    moved_px: float = 0.0
    score: float = 0.0
    reason: str = ""
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values for report.json."""
        return {**asdict(self), "sizes": list(self.sizes), "matched": round(self.matched, 4)}


def engine_batches(detector: Detector, images: Sequence[npt.NDArray[np.uint8]]) -> BatchCheck:
    """Calls of 1, 2 and 8 images to the engine against one image at a time.

    Args:
        detector: whose engine takes several images, where a backend has such: on TensorRT one for throughput.
        images: at least two.
    """
    singles = [detector(image) for image in images]
    runs = {
        size: [found for part in _parts(len(images), size) for found in detector([images[at] for at in part])]
        for size in SIZES
    }
    return _compare("engine", singles, runs)


def graph_batches(model: Path, images: Sequence[npt.NDArray[np.uint8]], spec: Mapping[str, Any]) -> BatchCheck:
    """Batches of 1, 2 and 8 through the ONNX file in onnxruntime.

    Our OpenVINO backend runs images one by one and would hide a graph that mixes the images of a batch; others would
    not.
    """
    name = spec["input"]["name"]
    network = onnx.load(str(model))
    try:
        # onnxruntime has few kernels of half precision on a CPU.
        runner = session(emulate(network) if HALF in element_types(network).values() else network)
    except Exception as cause:  # onnxruntime has one exception type per status code
        # An operator of a plugin, for one.
        return BatchCheck("graph", (), note=f"onnxruntime does not open the ONNX file ({str(cause).splitlines()[0]})")
    wanted = {value.name: value.shape for value in runner.get_inputs()}
    if isinstance(wanted[name][0], int):
        return BatchCheck("graph", (), note=f"the batch axis of the ONNX file is fixed at {wanted[name][0]}")
    tensors = np.stack([network_input(image, spec) for image in images])
    outputs = output_names(spec)
    runs: dict[int, list[Detections]] = {}
    for size in SIZES:
        runs[size] = []
        for part in _parts(len(images), size):
            feed = {key: value for key, value in network_feed(tensors[part], spec).items() if key in wanted}
            try:
                values = runner.run(outputs, feed)
                runs[size] += [decode_outputs(*(value[at] for value in values), spec=spec) for at in range(len(part))]
            except Exception as cause:  # onnxruntime has one exception type per status code
                line = str(cause).splitlines()[0] if not isinstance(cause, Error) else str(cause)
                reason = f"the ONNX file does not run at batch {len(part)} ({line}); export it with a fixed batch axis"
                return BatchCheck("graph", SIZES, matched=0.0, reason=reason)
    return _compare("graph", runs[SIZES[0]], runs)


def float_reference(
    model: Path, engine: Detector, images: Sequence[npt.NDArray[np.uint8]], spec: Mapping[str, Any]
) -> BatchCheck:
    """The float engine against its ONNX file in onnxruntime, an image at a time: whether the compiler got it right.

    Args:
        model: the ONNX file.
        engine: made of it.
        images: that both run on, at the size of the network input, so that pixels are the same for both.
        spec: model.json.
    """
    size = (spec["input"]["width"], spec["input"]["height"])
    sized = [np.asarray(Image.fromarray(image).resize(size)) for image in images]
    runner = session(onnx.load(str(model)))
    wanted = {value.name for value in runner.get_inputs()}
    expected = []
    for image in sized:
        feed = network_feed(network_input(image, spec)[None], spec)
        values = runner.run(output_names(spec), {key: value for key, value in feed.items() if key in wanted})
        expected.append(decode_outputs(*(value[0] for value in values), spec=spec))
    return _compare("float", expected, {1: [engine(image) for image in sized]})


def _compare(where: str, singles: Sequence[Detections], runs: Mapping[int, Sequence[Detections]]) -> BatchCheck:
    best = max((float(found.scores.max(initial=0.0)) for found in singles), default=0.0)
    score = min(CONFIDENT, best / 2)  # a model that is never sure must not pass for want of detections
    found = {
        size: [drift(singles, batched, score=score), drift(batched, singles, score=score)]
        for size, batched in runs.items()
    }
    wrong = [
        size
        for size, ways in found.items()
        if any(way.matched < _MATCHED or way.box_mean_px > _MOVED or way.score_mean > _SCORED for way in ways)
    ]
    ways = [way for both in found.values() for way in both]
    matched = min(way.matched for way in ways)
    moved, scored = max(way.box_mean_px for way in ways), max(way.score_mean for way in ways)
    reason = ""
    if wrong:
        what = {
            "engine": f"the engine gives other detections for {wrong[0]} images at a time than for one",
            "graph": f"the ONNX file gives other detections for {wrong[0]} images at a time than for one",
            "float": "the float engine gives other detections than its ONNX file in onnxruntime",
        }[where]
        reason = f"{what}: {matched:.1%} found again, moved by {moved:.1f} px, scores by {scored:.3f}"
    return BatchCheck(where, tuple(runs), matched, round(moved, 3), round(scored, 4), reason)


def _parts(count: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]

"""Images as points: what a detector's own encoder makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx

from calibration.collect import batched, session, with_outputs
from calibration.graph import Graph, load, prepare, static_shapes
from calibration.inputs import batch_size, float_model, network_feed, network_input
from edgedet import ModelError
from edgedet.bundle import load_model_json

_BATCH: Final = 4


class EncoderEmbedding:
    """The float model of a bundle, run up to its coarsest map and averaged over it: one number per channel.

    Args:
        bundle: folder of the bundle.
        backend: whose float model.
        threads: onnxruntime threads, 0 for its own choice.

    Raises:
        BundleError: the bundle is damaged.
        ModelError: the model is broken, or has no convolution whose map has a known size.
    """

    def __init__(self, bundle: Path, *, backend: str = "openvino", threads: int = 0) -> None:
        self._spec = load_model_json(bundle)
        model = load(bundle / float_model(self._spec, backend))
        self._batch = batch_size(Graph(model), self._spec, _BATCH)
        how = self._spec["input"]
        fixed = prepare(_with_size(model, how["name"], height=how["height"], width=how["width"]))
        self.tensor = coarsest_map(fixed)
        self._runner = session(with_outputs(fixed.model, [self.tensor]), threads=threads)
        self._inputs = {value.name for value in self._runner.get_inputs()}

    def prepare(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The network's input for an (H, W, 3) RGB image: (3, height, width)."""
        return network_input(pixels, self._spec)

    def points(self, prepared: Iterable[npt.NDArray[np.float32]]) -> Iterator[npt.NDArray[np.float32]]:
        """(n, C) float32 for the next n network inputs; n is that of a batch.

        Raises:
            ModelError: the network gives NaN or infinity.
        """
        for tensors in batched(prepared, self._batch):
            missing = self._batch - len(tensors)
            filled = np.concatenate([tensors, np.repeat(tensors[-1:], missing, axis=0)]) if missing else tensors
            feed = network_feed(filled, self._spec)
            (maps,) = self._runner.run([self.tensor], {name: feed[name] for name in self._inputs})
            points = maps[: len(tensors)].mean(axis=(2, 3), dtype=np.float64)
            if not np.isfinite(points).all():
                raise ModelError(f"tensor '{self.tensor}': expected finite values, got NaN or infinity")
            yield points.astype(np.float32)


def coarsest_map(graph: Graph) -> str:
    """Name of the last convolution's output among those with the fewest places, more than one: the encoder's summary.

    Found by structure alone. A decoder works on rows of queries and has no such maps; maps of a single place come from
    squeeze-and-excitation.

    Raises:
        ModelError: there is none.
    """
    shapes = static_shapes(graph.model, batch=1)
    maps: list[str] = [node.output[0] for node in graph.model.graph.node if node.op_type == "Conv"]
    places = {name: shapes[name][2] * shapes[name][3] for name in maps if len(shapes.get(name, ())) == 4}
    found = [name for name, count in places.items() if count > 1]
    if not found:
        raise ModelError(
            "expected a convolution with a map of known size, got none; choose with the strategy 'stratified'"
        )
    fewest = min(places[name] for name in found)
    return [name for name in found if places[name] == fewest][-1]


def _with_size(model: onnx.ModelProto, name: str, *, height: int, width: int) -> onnx.ModelProto:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        if value.name == name:
            for axis, size in ((2, height), (3, width)):
                value.type.tensor_type.shape.dim[axis].dim_value = size
    return fixed

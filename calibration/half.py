"""Half precision that keeps the detections: islands of float32 by rule, then by measurement, until boxes stay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from calibration.collect import Batch, CollectOptions, collect, session
from calibration.emulate import emulate
from calibration.graph import Graph, constants_to_initializers
from calibration.islands import islands, settle
from calibration.norms import fuse_layer_norms
from calibration.outputs import decode_outputs, output_names
from calibration.placement import weight_slot
from calibration.typed import HALF_QDQ_OPSET, element_types, opset_of, write_typed
from edgedet import Detections, InvalidInputError, ModelError
from edgedet.matching import CONFIDENT, Drift, drift

# Parts of the graph that are tried one by one where the rules do not suffice.
_PARTS = 16


@dataclass(frozen=True, kw_only=True)
class HalfOptions:
    """What half precision may change.

    Attributes:
        max_box_px: largest accepted 95th percentile of box movement, pixels of the network input.
        max_score: largest accepted 95th percentile of score changes.
        min_matched: smallest accepted share of confident float detections that are found again, in [0, 1].
        headroom: factor, >= 1, between the largest value seen and 65504, the end of half precision.
        layer_norm: LayerNorm as one operator; TensorRT 8.5 has none, there it stays spelt out, in float32.
        collect: batch, memory bound and threads.
    """

    max_box_px: float = 1.0
    max_score: float = 0.02
    min_matched: float = 0.98
    headroom: float = 4.0
    layer_norm: bool = True
    collect: CollectOptions = field(default_factory=CollectOptions)

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.max_box_px <= 0.0 or self.max_score <= 0.0:
            raise InvalidInputError(f"expected max_box_px > 0 and max_score > 0, got {self}")
        if not 0.0 <= self.min_matched <= 1.0 or self.headroom < 1.0:
            raise InvalidInputError(f"expected min_matched in [0, 1] and headroom >= 1, got {self}")


@dataclass(frozen=True)
class Half:
    """A model of explicit types.

    Attributes:
        model: float16 with islands of float32; inputs and outputs as in the float model.
        islands: node to the reason why it computes in float32.
        half: number of nodes in half precision.
        casts: number of casts between the two.
        drift: detections of the model, emulated, against those of the float model, in pixels of the network input.
    """

    model: onnx.ModelProto
    islands: dict[str, str]
    half: int
    casts: int
    drift: Drift

    def to_json(self) -> dict[str, Any]:
        """Plain values for calibration.json."""
        return {"half": self.half, "casts": self.casts, "drift": self.drift.to_json(), "islands": self.islands}


def half(
    graph: Graph,
    batches: Callable[[], Iterable[Batch]],
    spec: Mapping[str, Any],
    *,
    options: HalfOptions,
    advance: Callable[[int], None] = lambda images: None,
) -> Half:
    """Give a float graph explicit types.

    Rules decide first (`calibration.islands`). Then the model is run, emulated, beside the float one. If its detections
    move further than the options allow, the graph is cut into parts, each part alone is run in half precision, and the
    parts that move them most become float32 until the rest stays within the limits.

    Args:
        graph: as `calibration.graph.prepare` gives it; not changed.
        batches: returns a fresh iterable of model inputs.
        spec: model.json, which says what the outputs mean.
        options: limits.
        advance: told the number of images after each batch of the first pass.

    Raises:
        InvalidInputError: there is no batch.
        ModelError: an activation of the float model is NaN or infinite, or the graph has branches.
    """
    graph = _copy(graph)
    if any(entry.HasField("g") for node in graph.model.graph.node for entry in node.attribute):
        raise ModelError("expected a graph without If and Loop, got one with them; export it with fixed shapes")
    if options.layer_norm:
        fuse_layer_norms(graph)
    fixed = islands(graph, _extents(graph, batches, options, advance), headroom=options.headroom)
    judge = _Judge(graph, batches, spec, options)
    while True:
        chosen = settle(graph, fixed)
        model = write_typed(graph, chosen)
        found = judge.drift(model)
        if judge.accepts(found) or not chosen:
            break
        fixed = _grow(graph, fixed, chosen, judge)
    return Half(model, _reasons(graph, fixed, chosen), len(chosen), _added_casts(graph, model), found)


def type_quantised(model: onnx.ModelProto, reference: Half) -> onnx.ModelProto:
    """Explicit types for a Q/DQ model, with the islands that were found for its float graph.

    QuantizeLinear and DequantizeLinear carry scales of the type around them, as a strongly typed network wants it
    (TensorRT 10 and newer); that needs opset 19. `calibration.render` makes scales for TensorRT that are half precision
    numbers already, so nothing changes.

    Args:
        model: Q/DQ rendering of the graph that `reference` was made of, its node names kept.
        reference: whose islands to take.
    """
    source = _copy(Graph(model))
    if any(node.op_type == "LayerNormalization" for node in reference.model.graph.node):
        fuse_layer_norms(source)
    converted = onnx.version_converter.convert_version(source.model, max(HALF_QDQ_OPSET, opset_of(model)))
    constants_to_initializers(converted)
    graph = Graph(converted)
    return write_typed(graph, settle(graph, reference.islands))


class _Judge:
    """Detections of the float model, and how far those of a typed one are from them."""

    def __init__(
        self, graph: Graph, batches: Callable[[], Iterable[Batch]], spec: Mapping[str, Any], options: HalfOptions
    ) -> None:
        self._batches, self._spec, self._options = batches, spec, options
        self._expected = self._run(graph.model)
        best = max((float(found.scores.max(initial=0.0)) for found in self._expected), default=0.0)
        # A model that is never sure must not pass for want of detections.
        self._score = min(CONFIDENT, best / 2)

    def drift(self, model: onnx.ModelProto) -> Drift:
        """Run the emulation of a typed model. One that gives NaN, or indices out of range, finds nothing again."""
        try:
            found = self._run(emulate(model))
        except Exception:  # onnxruntime has one exception type per status code; ours is one of them
            nothing = np.zeros((0, 4), np.float32)
            found = [Detections(nothing, nothing[:, 0], np.zeros(0, np.int32), []) for _ in self._expected]
        return drift(self._expected, found, score=self._score)

    def accepts(self, found: Drift) -> bool:
        return self.harm(found) <= 1.0

    def harm(self, found: Drift) -> float:
        """The largest of the three deviations, each in units of what is allowed."""
        lost = (1.0 - found.matched) / max(1.0 - self._options.min_matched, 1e-9)
        return max(found.box_p95_px / self._options.max_box_px, found.score_p95 / self._options.max_score, lost)

    def _run(self, model: onnx.ModelProto) -> list[Detections]:
        runner = session(model, threads=self._options.collect.threads)
        wanted = {value.name for value in runner.get_inputs()}
        names = output_names(self._spec)
        found = []
        for batch in self._batches():
            values: list[npt.NDArray[Any]] = runner.run(names, {k: v for k, v in batch.items() if k in wanted})
            found += [decode_outputs(*rows, spec=self._spec) for rows in zip(*values, strict=True)]
        return found


def _grow(graph: Graph, fixed: Mapping[str, str], chosen: set[str], judge: _Judge) -> dict[str, str]:
    """Islands that suffice: whole parts of what is in half precision now, the worst first."""
    parts = _parts(graph, chosen)
    harm = []
    for part in parts:
        others = {node.name: "" for node in graph.model.graph.node if node.name not in part}
        harm.append(judge.drift(write_typed(graph, settle(graph, others))))
    grown = dict(fixed)
    for position in sorted(range(len(parts)), key=lambda position: -judge.harm(harm[position])):
        alone = harm[position]
        lost = f", {1.0 - alone.matched:.1%} lost" if alone.matched < 1.0 else ""
        reason = f"alone it moves boxes by {alone.box_p95_px:.2f} px, scores by {alone.score_p95:.3f}{lost}"
        grown.update((name, f"measured: {reason}") for name in parts[position] if name not in grown)
        if judge.accepts(judge.drift(write_typed(graph, settle(graph, grown)))):
            break
    return grown


def _parts(graph: Graph, chosen: set[str]) -> list[list[str]]:
    """Cut the nodes in half precision, in graph order, into parts with about the same number of layers."""
    nodes = [node for node in graph.model.graph.node if node.name in chosen]
    layers = sum(weight_slot(graph, node) is not None for node in nodes)
    size = max(-(-layers // _PARTS), 1)
    parts: list[list[str]] = [[]]
    held = 0
    for node in nodes:
        if weight_slot(graph, node) is not None:
            if held == size:
                parts.append([])
                held = 0
            held += 1
        parts[-1].append(node.name)
    return parts


def _extents(
    graph: Graph, batches: Callable[[], Iterable[Batch]], options: HalfOptions, advance: Callable[[int], None]
) -> dict[str, float]:
    """Largest magnitude of every float activation."""
    kinds = element_types(graph.model)
    names = [name for name, kind in kinds.items() if kind == TensorProto.FLOAT and name not in graph.constants]
    statistics = collect(graph.model, names, batches, options=options.collect, advance=advance)
    return {
        name: max(abs(entry.histogram.minimum), abs(entry.histogram.maximum)) if entry.histogram.total else 0.0
        for name, entry in statistics.items()
    }


def _reasons(graph: Graph, fixed: Mapping[str, str], chosen: set[str]) -> dict[str, str]:
    """Every float32 node with its reason, in graph order."""
    kinds = element_types(graph.model)

    def computes(node: onnx.NodeProto) -> bool:
        return any(kinds.get(name) == TensorProto.FLOAT for name in [*node.input, *node.output])

    return {
        node.name: fixed.get(node.name, "saves casts between islands")
        for node in graph.model.graph.node
        if node.name not in chosen and computes(node)
    }


def _added_casts(graph: Graph, model: onnx.ModelProto) -> int:
    written, before = ([node.op_type for node in source.graph.node].count("Cast") for source in (model, graph.model))
    return written - before


def _copy(graph: Graph) -> Graph:
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    return Graph(model)

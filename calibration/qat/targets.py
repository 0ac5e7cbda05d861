"""What a student has to give like its teacher: class logits, boxes and maps, found in the graph by what reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from calibration.graph import Graph, static_shapes
from edgedet import ModelError

# Between class logits and the TopK that chooses by them.
_BEFORE_CHOICE = {"ReduceMax", "Flatten", "Reshape", "Sigmoid", "Softmax", "Squeeze", "Unsqueeze", "Identity"}


@dataclass(frozen=True)
class Targets:
    """Names of tensors.

    Attributes:
        choices: second outputs of every TopK whose indices are read: the queries and the detections that are selected.
        logits: class logits, (N, rows, classes), that selections are made by, and those of the result.
        boxes: the result, (N, rows, 4).
        confidence: of each row of boxes: scores (N, rows) in [0, 1], or class logits (N, rows, classes).
        corners: whether boxes are xyxy in pixels; otherwise cxcywh in [0, 1].
        maps: feature maps (N, C, H, W) that are flattened into tokens.
    """

    choices: tuple[str, ...]
    logits: tuple[str, ...]
    boxes: str
    confidence: str
    corners: bool
    maps: tuple[str, ...]

    @property
    def compared(self) -> tuple[str, ...]:
        """The tensors that both networks have to give."""
        return tuple(dict.fromkeys([*self.logits, self.boxes, self.confidence, *self.maps]))


def find_targets(graph: Graph, output: Mapping[str, Any]) -> Targets:
    """Read the targets from a float graph.

    Args:
        graph: prepared graph.
        output: `output` of model.json.

    Raises:
        ModelError: the graph has no class logits, or lacks an output of model.json.
    """
    corners = "scores" in output
    confidence = output["scores"] if corners else output["logits"]
    if absent := [name for name in (output["boxes"], confidence) if name not in graph.outputs]:
        raise ModelError(f"expected an output '{absent[0]}' as model.json says, got none in the graph")
    selections = [
        node
        for node in graph.model.graph.node
        if node.op_type == "TopK" and (node.output[1] in graph.consumers or node.output[1] in graph.outputs)
    ]
    logits = [_before_choice(graph, node.input[0]) for node in selections]
    if not corners:
        logits.append(confidence)
    if not logits:
        raise ModelError("expected scores that detections are chosen by, got no TopK in the graph")
    return Targets(
        choices=tuple(node.output[1] for node in selections),
        logits=tuple(dict.fromkeys(logits)),
        boxes=output["boxes"],
        confidence=confidence,
        corners=corners,
        maps=_flattened_maps(graph),
    )


def _before_choice(graph: Graph, name: str) -> str:
    while (producer := graph.producers.get(name)) is not None and producer.op_type in _BEFORE_CHOICE:
        name = producer.input[0]
    return name


def _flattened_maps(graph: Graph) -> tuple[str, ...]:
    shapes = static_shapes(graph.model, batch=1)
    found: dict[str, None] = {}
    for node in graph.model.graph.node:
        before, after = shapes.get(node.input[0], ()) if node.input else (), shapes.get(node.output[0], ())
        if node.op_type not in ("Reshape", "Flatten") or len(before) != 4 or len(after) != 3:
            continue
        if after[1:] == (before[1], before[2] * before[3]) and node.input[0] not in graph.constants:
            found[node.input[0]] = None
    return tuple(found)

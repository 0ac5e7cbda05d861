"""The operator `EdgedetDeformableAttention`: its attributes, its node, and what it computes, in NumPy."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import onnx

OPERATOR, DOMAIN, VERSION = "EdgedetDeformableAttention", "edgedet", 1

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Attention:
    """The attributes of a node.

    Attributes:
        heads: of the attention.
        channels: of a head.
        layers: attentions whose values stand side by side in the table.
        layer: which of them this is.
        heights: of the maps, one level after another.
        widths: of the maps.
        points: sampling points of a head in each map.
    """

    heads: int
    channels: int
    layers: int
    layer: int
    heights: tuple[int, ...]
    widths: tuple[int, ...]
    points: tuple[int, ...]

    @property
    def rays(self) -> int:
        """Sampling points of all heads."""
        return self.heads * sum(self.points)

    @property
    def rows(self) -> int:
        """Rows of the table of values of an image: of a cell the layers, of those the heads."""
        cells = sum(height * width for height, width in zip(self.heights, self.widths, strict=True))
        return cells * self.layers * self.heads

    def node(self, name: str, projection: str, boxes: str, values: str, out: str) -> onnx.NodeProto:
        """The node. TensorRT's parsers find the plugin by operator and version; the domain is for everybody else."""
        return onnx.helper.make_node(
            OPERATOR,
            [projection, boxes, values],
            [out],
            name,
            domain=DOMAIN,
            plugin_version="1",
            **asdict(self),
        )


def attend(projection: FloatArray, boxes: FloatArray, values: FloatArray, attention: Attention) -> FloatArray:
    """Softmax of the weights, and weighted sums of what is found at the locations, bilinear and zero outside.

    A location is centre * side + offset * box side, 0.5 at the centre of the first cell.

    Args:
        projection: (B, Q, 3 * rays): x offsets, y offsets, logits of the weights.
        boxes: (B, Q, 4) cxcywh in [0, 1].
        values: (B, rows, channels).
        attention: the attributes.

    Returns:
        (B, Q, heads * channels).
    """
    batch, queries, _ = projection.shape
    heads, total = attention.heads, sum(attention.points)
    x, y, logits = (part.reshape(batch, queries, heads, total) for part in np.split(projection, 3, axis=-1))
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    table = values.reshape(batch, -1, attention.layers, heads, attention.channels)[:, :, attention.layer]
    image, head = np.arange(batch)[:, None, None, None], np.arange(heads)[:, None]
    centre_x, centre_y, width, height = (boxes[..., None, None, side] for side in range(4))
    out = np.zeros((batch, queries, heads, attention.channels), np.float32)
    cell = point = 0
    for rows, columns, count in zip(attention.heights, attention.widths, attention.points, strict=True):
        here = slice(point, point + count)
        at_x = x[..., here] * width + (centre_x * np.float32(columns) - np.float32(0.5))
        at_y = y[..., here] * height + (centre_y * np.float32(rows) - np.float32(0.5))
        left, top = np.floor(at_x), np.floor(at_y)
        for to_x in (0, 1):
            for to_y in (0, 1):
                share = np.abs(1 - to_x - (at_x - left)) * np.abs(1 - to_y - (at_y - top)) * weights[..., here]
                column, row = left + to_x, top + to_y
                inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
                index = cell + np.where(inside, row * columns + column, 0).astype(np.int64)
                found = table[image, index, head]  # (B, Q, heads, points, channels)
                out += (np.where(inside, share, 0)[..., None] * found).sum(-2)
        cell, point = cell + rows * columns, point + count
    return out.reshape(batch, queries, -1)

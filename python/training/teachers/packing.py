"""A teacher's output as one row of bytes per image, and back: what a cache stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.distillation.terms import Need
from training.models.outputs import Prediction, TeacherOutput

Kind = Literal["float32", "float16", "int8"]
Bytes = NDArray[np.uint8]

_SCALE_BYTES = 2  # per row of an int8 tensor: its scale, float16
_LARGEST = 65504.0  # of float16


@dataclass(frozen=True)
class Field:
    """One tensor of an output: (C, ...) per image. int8 has a scale per row of its first axis."""

    name: str
    shape: tuple[int, ...]
    kind: Kind

    @property
    def size(self) -> int:
        """Bytes per image."""
        count = int(np.prod(self.shape))
        if self.kind == "int8":
            return count + _SCALE_BYTES * self.shape[0]
        return count * np.dtype(self.kind).itemsize


def select(output: TeacherOutput, need: Need) -> dict[str, Tensor]:
    """The tensors of an output that a need is about, by name, each (B, ...); none where the teacher has none."""
    prediction = output.prediction
    found: dict[str, Tensor | None] = {}
    if need == "prediction" and prediction is not None:
        found = {"logits": prediction.logits, "boxes": prediction.boxes}
    elif need == "distributions" and prediction is not None:
        found = {"corners": prediction.corners, "reference": prediction.reference}
    elif need == "features":
        found = {f"features.{level}": each for level, each in enumerate(output.features)}
    elif need == "attention":
        found = {f"attention.{layer}": each for layer, each in enumerate(output.attention)}
    elif need == "queries":
        found = {"queries": output.queries}
    elif need == "semantic":
        found = {"patches": output.features[-1] if output.patches is None else output.patches}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def assemble(tensors: Mapping[str, Tensor]) -> TeacherOutput:
    """The output that `select` took apart, need by need."""
    series = {
        kind: [tensors[name] for name in sorted(tensors, key=_number) if name.startswith(f"{kind}.")]
        for kind in ("features", "attention")
    }
    prediction = None
    if "logits" in tensors:
        prediction = Prediction(tensors["logits"], tensors["boxes"], tensors.get("corners"), tensors.get("reference"))
    return TeacherOutput(
        prediction=prediction, queries=tensors.get("queries"), patches=tensors.get("patches"), **series
    )


def _number(name: str) -> int:
    return int(name.partition(".")[2] or 0)


def layout_of(tensors: Mapping[str, Tensor], bits: int) -> tuple[Field, ...]:
    """How tensors are stored: boxes in float32, logits in float16, maps and queries in float16 or int8."""
    kinds: dict[str, Kind] = {"boxes": "float32", "reference": "float32", "logits": "float16", "corners": "float16"}
    return tuple(
        Field(name, tuple(tensor.shape[1:]), kinds.get(name, "float16" if bits == 16 else "int8"))
        for name, tensor in tensors.items()
    )


def layout_to_json(layout: tuple[Field, ...]) -> list[dict[str, Any]]:
    """In json's types."""
    return [asdict(field) | {"shape": list(field.shape)} for field in layout]


def layout_from_json(content: list[dict[str, Any]]) -> tuple[Field, ...]:
    """The reverse. Raises KeyError, TypeError or ValueError for anything else."""
    layout = tuple(
        Field(str(each["name"]), tuple(int(side) for side in each["shape"]), cast(Kind, str(each["kind"])))
        for each in content
    )
    if any(field.kind not in ("float32", "float16", "int8") or min(field.shape) < 1 for field in layout):
        raise ValueError("unknown kinds or empty shapes")
    return layout


def pack(tensors: Mapping[str, Tensor], layout: tuple[Field, ...], count: int) -> Bytes:
    """(count, bytes): the images' rows. Values beyond float16 are cut to its range."""
    parts = [np.zeros((count, 0), np.uint8)]
    for field in layout:
        values = tensors[field.name].detach().float().cpu().contiguous().numpy()
        if field.kind == "int8":
            rows = values.reshape(count, field.shape[0], -1)
            scale = (np.abs(rows).max(-1, keepdims=True) / 127).clip(6e-8, _LARGEST).astype(np.float16)
            whole = np.rint(rows / scale.astype(np.float32)).clip(-127, 127).astype(np.int8)
            parts += [scale.reshape(count, -1).view(np.uint8), whole.reshape(count, -1).view(np.uint8)]
            continue
        if field.kind == "float16":
            values = values.clip(-_LARGEST, _LARGEST)
        parts.append(np.ascontiguousarray(values.astype(field.kind).reshape(count, -1)).view(np.uint8))
    return np.concatenate(parts, axis=1)


def unpack(rows: Bytes, layout: tuple[Field, ...], device: torch.device) -> dict[str, Tensor]:
    """The tensors of (B, bytes), float32, on a device; what is moved there is the packed form."""
    packed = torch.from_numpy(rows).to(device, non_blocking=True)
    found, start = {}, 0
    for field in layout:
        part = packed[:, start : start + field.size].contiguous()
        start += field.size
        shape = (len(packed), *field.shape)
        if field.kind == "int8":
            scales = part[:, : _SCALE_BYTES * field.shape[0]].contiguous().view(torch.float16).float()
            whole = part[:, _SCALE_BYTES * field.shape[0] :].contiguous().view(torch.int8)
            rows_of = whole.view(len(packed), field.shape[0], -1).float()
            found[field.name] = (rows_of * scales[..., None]).view(shape)
        else:
            found[field.name] = (
                part.view(torch.float16 if field.kind == "float16" else torch.float32).float().view(shape)
            )
    return found

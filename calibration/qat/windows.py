"""ONNX operators on maps (N, C, H, W): convolution, pooling, padding, resizing, sampling."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from calibration.qat.call import Call, Operator

_PADDINGS = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}


def _padded(call: Call, fill: float) -> tuple[Tensor, list[int]]:
    """The input, padded where its pads are not the same on both sides, and what is left for torch to pad."""
    call.expect(call.get("auto_pad", "NOTSET") in ("NOTSET", "VALID"), "explicit pads")
    call.expect(call[0].ndim == 4, "a map (N, C, H, W)")
    top, left, bottom, right = call.get("pads", [0, 0, 0, 0])
    if (top, left) == (bottom, right):
        return call[0], [top, left]
    return F.pad(call[0], (left, right, top, bottom), value=fill), [0, 0]


def _convolve(call: Call) -> Tensor:
    value, padding = _padded(call, 0.0)
    return F.conv2d(
        value,
        call[1],
        call.optional(2),
        stride=call.get("strides", [1, 1]),
        padding=padding,
        dilation=call.get("dilations", [1, 1]),
        groups=call.get("group", 1),
    )


def _max_pool(call: Call) -> Tensor:
    value, padding = _padded(call, -float("inf"))
    return F.max_pool2d(
        value,
        call.attributes["kernel_shape"],
        stride=call.get("strides", [1, 1]),
        padding=padding,
        dilation=call.get("dilations", [1, 1]),
        ceil_mode=bool(call.get("ceil_mode", 0)),
    )


def _average_pool(call: Call) -> Tensor:
    counts = bool(call.get("count_include_pad", 0))
    value, padding = _padded(call, 0.0)
    call.expect(counts or value is call[0], "the same pads on both sides where padding does not count")
    call.expect(not call.get("ceil_mode", 0), "ceil_mode 0")
    return F.avg_pool2d(
        value,
        call.attributes["kernel_shape"],
        stride=call.get("strides", [1, 1]),
        padding=padding,
        count_include_pad=counts,
    )


def _pad(call: Call) -> Tensor:
    pads, axes = call.integers(1), call.integers(3)
    mode = call.get("mode", "constant")
    call.expect(pads is not None and axes is None and mode in _PADDINGS, "pads for every axis, constant or from inside")
    assert pads is not None
    rank = call[0].ndim
    ordered = [size for axis in reversed(range(rank)) for size in (pads[axis], pads[axis + rank])]
    if mode == "constant":
        fill = call.optional(2)
        return F.pad(call[0], ordered, value=0.0 if fill is None else float(fill))
    call.expect(rank == 4 and not any(ordered[4:]), "reflected or repeated borders of maps only")
    return F.pad(call[0], ordered[:4], mode=_PADDINGS[mode])


def _resize(call: Call) -> Tensor:
    sizes, scales = call.integers(3), call.optional(2)
    height, width = call[0].shape[2:]
    if sizes is None:
        call.expect(scales is not None and scales.numel() == 4, "four sizes or scales")
        assert scales is not None
        sizes = [int(size * scale) for size, scale in zip(call[0].shape, scales.tolist(), strict=True)]
    call.expect(sizes[:2] == list(call[0].shape[:2]), "a resize of height and width")
    size = (sizes[2], sizes[3])
    mode, how = call.get("mode", "nearest"), call.get("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest":
        whole = size[0] % height == 0 and size[1] % width == 0
        floors = how == "asymmetric" and call.get("nearest_mode", "round_prefer_floor") == "floor"
        call.expect(floors or (whole and how == "half_pixel"), "the nearest value below, or a whole factor")
        return F.interpolate(call[0], size)
    call.expect(mode == "linear" and how in ("half_pixel", "pytorch_half_pixel", "align_corners"), "a bilinear resize")
    return F.interpolate(call[0], size, mode="bilinear", align_corners=how == "align_corners")


def _grid_sample(call: Call) -> Tensor:
    mode = {"linear": "bilinear"}.get(call.get("mode", "bilinear"), call.get("mode", "bilinear"))
    call.expect(mode in ("bilinear", "nearest"), "bilinear or nearest sampling")
    return F.grid_sample(
        call[0],
        call[1],
        mode=mode,
        padding_mode=call.get("padding_mode", "zeros"),
        align_corners=bool(call.get("align_corners", 0)),
    )


WINDOWS: dict[str, Operator] = {
    "AveragePool": _average_pool,
    "Conv": _convolve,
    "GlobalAveragePool": lambda call: call[0].mean((2, 3), keepdim=True),
    "GlobalMaxPool": lambda call: call[0].amax((2, 3), keepdim=True),
    "GridSample": _grid_sample,
    "MaxPool": _max_pool,
    "Pad": _pad,
    "Resize": _resize,
}

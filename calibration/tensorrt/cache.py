"""Calibration caches of TensorRT: a line that names version and algorithm, then `tensor: scale` for every tensor."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import onnx
from onnx import TensorProto

from calibration.collect import Batch, CollectOptions, Memory, collect
from calibration.observers import Method, Range, observe
from calibration.render import activation_grid
from calibration.typed import element_types
from edgedet import InvalidInputError
from edgedet.files import write_atomically

_ALGORITHM = "EntropyCalibration2"


def header(version: tuple[int, int, int]) -> str:
    """First line of a cache that IInt8EntropyCalibrator2 reads. TensorRT calibrates anew if it is not its own.

    Args:
        version: major, minor and patch of the TensorRT that will read it, such as (8, 6, 1). Its number is
            NV_TENSORRT_VERSION: 8601; from 10 on with two more digits, 100300.

    Raises:
        InvalidInputError: a version without calibrators.
    """
    major, minor, patch = version
    if not (8 <= major <= 10 and 0 <= minor < 100 and 0 <= patch < 100):
        raise InvalidInputError(f"expected TensorRT 8 to 10, which have calibrators, got {major}.{minor}.{patch}")
    number = major * 10000 + minor * 100 + patch if major >= 10 else major * 1000 + minor * 100 + patch
    return f"TRT-{number}-{_ALGORITHM}"


def cache_bytes(ranges: Mapping[str, Range], version: tuple[int, int, int]) -> bytes:
    """A cache: scale = largest magnitude of the range / 127, as the big-endian hexadecimal digits of a float32.

    Raises:
        InvalidInputError: a version without calibrators, or a tensor name that the format cannot hold.
    """
    lines = [header(version)]
    for name, extent in ranges.items():
        if "\n" in name or ": " in name:
            raise InvalidInputError(f"expected tensor names of one line without ': ', got {name!r}; rename the tensor")
        lines.append(f"{name}: {struct.pack('>f', activation_grid(extent, 'tensorrt').scale).hex()}")
    return ("\n".join(lines) + "\n").encode()


def parse_cache(content: bytes) -> tuple[str, dict[str, float]]:
    """First line and the scale of every tensor of a cache.

    Raises:
        InvalidInputError: the content is not a cache.
    """
    try:
        first, *lines = content.decode().splitlines()
        scales = {}
        for line in lines:
            name, _, digits = line.rpartition(": ")
            (scales[name],) = struct.unpack(">f", bytes.fromhex(digits))
    except (ValueError, struct.error) as cause:
        raise InvalidInputError(f"expected a calibration cache of TensorRT, got something else: {cause}") from cause
    if not first.startswith("TRT-"):
        raise InvalidInputError(f"expected a calibration cache of TensorRT, got a first line of {first[:40]!r}")
    return first, scales


def float_tensors(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the float inputs and of everything nodes compute in float, in graph order.

    TensorRT's parser names its tensors after those of the ONNX file that it reads, so this has to be the very file:
    simplifying a graph renames some. Tensors that the parser adds by itself have no name here; TensorRT then runs what
    reads them in float.
    """
    types = element_types(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    made = [name for node in model.graph.node if node.op_type != "Constant" for name in node.output if name]
    names = [value.name for value in model.graph.input if value.name not in constants] + made
    return tuple(name for name in names if types[name] == TensorProto.FLOAT)


def write_cache(
    model: onnx.ModelProto,
    target: Path,
    batches: Callable[[], Iterable[Batch]],
    *,
    version: tuple[int, int, int],
    options: CollectOptions,
    method: Method = "entropy",
    percentile: float = 99.99,
    advance: Callable[[int], None] = lambda images: None,
    memory: Memory | None = None,
) -> int:
    """Measure every float tensor of a model in onnxruntime and write the cache that TensorRT would have written.

    Args:
        model: the float model, as the file is that TensorRT will parse.
        target: the cache.
        batches: returns a fresh iterable of model inputs.
        version: of the TensorRT that will read it.
        options: batch, memory bound and threads.
        method: observer that reads a range from a histogram.
        percentile: kept share of values, read by the `percentile` observer only.
        advance: told the number of images after each run.
        memory: where statistics are kept while they grow.

    Returns:
        Number of tensors in it.
    """
    header(version)
    statistics = collect(model, float_tensors(model), batches, options=options, advance=advance, memory=memory)
    ranges = {
        name: observe(entry.histogram, method, percentile=percentile)
        for name, entry in statistics.items()
        if entry.histogram.total
    }
    write_atomically(target, cache_bytes(ranges, version))
    return len(ranges)

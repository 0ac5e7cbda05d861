"""Operators, versions and constants of an ONNX file, without the onnx package.

Reads what known-bad combinations are told by and passes over the rest. Files are hostile: numbers, nesting and sizes
are bounded. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import mmap
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from edgedet._core import ModelError
from edgedet.protobuf import DamagedError, fields, part, signed, text, varint

# Element types of TensorProto.
FLOAT, UINT8, INT8, INT32, FLOAT16 = 1, 2, 3, 6, 10
_KEPT: Final = {FLOAT: "<f4", UINT8: "u1", INT8: "i1", INT32: "<i4", FLOAT16: "<f2"}

_MOST_NODES: Final = 200_000
_MOST_TENSORS: Final = 200_000
_DEEPEST: Final = 8  # graphs within graphs
_LONGEST_TEXT: Final = 4096  # of an attribute that is kept
_LARGEST_TENSOR: Final = 1 << 16  # values of larger ones are not kept


@dataclass(frozen=True)
class Tensor:
    """A constant.

    Attributes:
        dtype: Element type, as TensorProto numbers them.
        values: Of a small tensor of a type that is looked at; None otherwise.
    """

    dtype: int
    values: np.ndarray[tuple[int], np.dtype[np.generic]] | None


@dataclass(frozen=True)
class Node:
    """An operator with the names of what it reads and writes, and those of its attributes that are integers or text."""

    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, int | str | tuple[int, ...]]


@dataclass
class OnnxGraph:
    """What a file says of itself.

    Attributes:
        opset: Version of the standard operators, 0 if it names none.
        nodes: Of the graph and of the graphs in it, in the order of the file.
        tensors: Constants by name, those of Constant nodes too.
    """

    opset: int = 0
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    _producers: dict[str, Node] | None = None

    @property
    def operators(self) -> Counter[str]:
        """How often each operator occurs; those of other domains as domain.operator."""
        return Counter(f"{node.domain}.{node.op}" if node.domain else node.op for node in self.nodes)

    def of(self, *operators: str) -> Iterator[Node]:
        """The standard operators of these names."""
        return (node for node in self.nodes if node.op in operators and not node.domain)

    def producer(self, tensor: str) -> Node | None:
        """The node that writes a tensor."""
        if self._producers is None:
            self._producers = {name: node for node in self.nodes for name in node.outputs if name}
        return self._producers.get(tensor)


def read_graph(path: str | os.PathLike[str]) -> OnnxGraph:
    """Reads an ONNX file.

    Raises:
        ModelError: It is missing, no ONNX file, or beyond the limits of this reader.
    """
    name = str(Path(path))
    try:
        with open(path, "rb") as file:
            # Never closed by hand: parts of it are still held while an error is on its way.
            return parse_graph(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except DamagedError as error:
        raise ModelError(
            f"{name}: expected an ONNX file, got one that is damaged or something else ({error})"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: expected an ONNX file, got: {error}") from None


def parse_graph(content: memoryview) -> OnnxGraph:
    """As `read_graph`, of the bytes of a file. Raises a ValueError that says what is wrong."""
    graph = OnnxGraph()
    graphs = 0
    for number, value, _ in fields(content):
        if number == 7:
            _read_graph(part(value), graph, 0)
            graphs += 1
        elif number == 8:
            domain, version = "", 0
            for inner, entry, _ in fields(part(value)):
                if inner == 1:
                    domain = text(entry)
                elif inner == 2:
                    version = signed(entry)
            if domain in ("", "ai.onnx"):
                graph.opset = max(graph.opset, version)
    if graphs != 1:
        raise DamagedError(f"it holds {graphs} graphs, not one")
    return graph


def _read_graph(view: memoryview, graph: OnnxGraph, depth: int) -> None:
    if depth > _DEEPEST:
        raise DamagedError(f"graphs are nested more than {_DEEPEST} deep")
    for number, value, _ in fields(view):
        if number == 1:
            _read_node(part(value), graph, depth)
        elif number == 5:
            _keep(graph, *_tensor(part(value)))


def _read_node(view: memoryview, graph: OnnxGraph, depth: int) -> None:
    if len(graph.nodes) >= _MOST_NODES:
        raise DamagedError(f"it has more than {_MOST_NODES} nodes")
    inputs: list[str] = []
    outputs: list[str] = []
    op = domain = ""
    attributes: dict[str, int | str | tuple[int, ...]] = {}
    held: Tensor | None = None
    inner: list[memoryview] = []
    for number, value, _ in fields(view):
        if number == 1:
            inputs.append(text(value))
        elif number == 2:
            outputs.append(text(value))
        elif number == 4:
            op = text(value)
        elif number == 7:
            domain = text(value)
        elif number == 5:
            tensor = _read_attribute(part(value), attributes, inner)
            held = tensor or held
    domain = "" if domain == "ai.onnx" else domain
    graph.nodes.append(Node(op, domain, tuple(inputs), tuple(outputs), attributes))
    if op == "Constant" and held is not None and outputs:
        _keep(graph, outputs[0], held)
    for content in inner:
        _read_graph(content, graph, depth + 1)


def _read_attribute(
    view: memoryview, attributes: dict[str, int | str | tuple[int, ...]], graphs: list[memoryview]
) -> Tensor | None:
    name = ""
    value: int | str | None = None
    integers: list[int] = []
    held: Tensor | None = None
    for number, entry, _ in fields(view):
        if number == 1:
            name = text(entry)
        elif number == 3:
            value = signed(entry)
        elif number == 4 and len(part(entry)) <= _LONGEST_TEXT:
            value = bytes(part(entry)).decode("utf-8", "replace")
        elif number == 5:
            _, held = _tensor(part(entry))
        elif number in (6, 11):
            graphs.append(part(entry))
        elif number == 8 and len(integers) < _LARGEST_TENSOR:
            integers += _integers(entry)
    if value is not None:
        attributes[name] = value
    elif integers:
        attributes[name] = tuple(integers)
    return held


def _tensor(view: memoryview) -> tuple[str, Tensor]:
    name, dtype = "", 0
    raw: memoryview | None = None
    numbers: list[int] = []
    floats: list[memoryview] = []
    for number, value, _ in fields(view):
        if number == 2:
            dtype = signed(value)
        elif number == 8:
            name = text(value)
        elif number == 9:
            raw = part(value)
        elif number == 4:
            floats.append(part(value))
        elif number == 5 and len(numbers) < _LARGEST_TENSOR:
            numbers += _integers(value)
    return name, Tensor(dtype, _values(dtype, raw, numbers, floats))


def _values(
    dtype: int, raw: memoryview | None, numbers: list[int], floats: list[memoryview]
) -> np.ndarray[tuple[int], np.dtype[np.generic]] | None:
    kind = _KEPT.get(dtype)
    if kind is None:
        return None
    held = raw if raw is not None else b"".join(floats) if dtype == FLOAT else None
    if held is not None:
        size = np.dtype(kind).itemsize
        if len(held) > _LARGEST_TENSOR:
            return None
        if len(held) % size:
            raise DamagedError("the size of a tensor is no multiple of that of its elements")
        return np.frombuffer(bytes(held), kind)
    if dtype == FLOAT16:  # as bit patterns
        return np.array([number & 0xFFFF for number in numbers], "<u2").view(kind)
    limits = np.iinfo(kind)
    if any(not limits.min <= number <= limits.max for number in numbers):
        raise DamagedError("a value is out of the range of its type")
    return np.array(numbers, kind)


def _keep(graph: OnnxGraph, name: str, tensor: Tensor) -> None:
    if len(graph.tensors) >= _MOST_TENSORS:
        raise DamagedError(f"it has more than {_MOST_TENSORS} constants")
    graph.tensors[name] = tensor


def _integers(value: int | memoryview) -> list[int]:
    """Of a repeated field, packed or not; no more than are kept."""
    if isinstance(value, int):
        return [signed(value)]
    found: list[int] = []
    at = 0
    while at < len(value) and len(found) < _LARGEST_TENSOR:
        number, at = varint(value, at)
        found.append(signed(number))
    return found

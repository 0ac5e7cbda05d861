"""Triton's config.pbtxt: the text form of its ModelConfig."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

# Element types of the core and of the KServe protocol, by Triton's names.
TYPES: Final = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "bytes": "TYPE_STRING",
}


@dataclass(frozen=True)
class Tensor:
    """An input or output. dims: without the batch, where the model has one; -1 is any size."""

    name: str
    dtype: str
    dims: Sequence[int]


def config_text(
    name: str,
    *,
    backend: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    max_batch: int,
    gpu: bool,
    file: str = "",
    parameters: Mapping[str, str] | None = None,
) -> str:
    """The configuration of one model.

    max_batch: 0 for one without a batch axis that Triton could fill. gpu: one instance on every GPU, not on the CPU.
    file: of the version's folder, where it is not the backend's own choice.
    """
    lines = [f"name: {_quoted(name)}", f"backend: {_quoted(backend)}"]
    if file:
        lines.append(f"default_model_filename: {_quoted(file)}")
    lines.append(f"max_batch_size: {max_batch}")
    for what, tensors in (("input", inputs), ("output", outputs)):
        lines += [
            f"{what} {{ name: {_quoted(one.name)} data_type: {TYPES[one.dtype]} dims: [ {_numbers(one.dims)} ] }}"
            for one in tensors
        ]
    lines.append(f"instance_group {{ count: 1 kind: {'KIND_GPU' if gpu else 'KIND_CPU'} }}")
    if max_batch:
        lines.append("dynamic_batching { }")
    lines += [
        f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"
        for key, value in (parameters or {}).items()
    ]
    return "\n".join(lines) + "\n"


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)

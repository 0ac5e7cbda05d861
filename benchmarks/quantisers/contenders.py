"""Who is compared, with every setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Engine = Literal["onnxruntime", "openvino"]

BOTH: tuple[Engine, ...] = ("onnxruntime", "openvino")
FLOAT, OURS = "fp32", "edgedet"

_CONV = ["Conv"]
# Bins of onnxruntime's histograms; 2048 is also what this project's observers use.
_BINS = 2048
_PERCENTILE: dict[str, Any] = {"bins": _BINS, "percentile": 99.99}
# Pairs on inputs only: what a quantised convolution writes stays float, as engines that fuse upwards want it.
_INPUTS: dict[str, Any] = {"ops": _CONV, "float_outputs": _CONV}
# Layers that write positions, distributions, scores or queries, and one that reads four numbers: they are small, and a
# grid step there moves boxes or reorders queries.
_DELICATE = [
    ".*score_head.*",
    ".*bbox_head.*layers[.]2.*",
    ".*integral.*",
    ".*reg_conf.*",
    ".*sampling_offsets.*",
    ".*attention_weights.*",
    ".*query_pos_head/layers[.]0.*",
]
_LINEAR: dict[str, Any] = {"ops": ["Conv", "MatMul", "Gemm"], "exclude": _DELICATE}
# ModelOpt quantises these too when it is left alone; disable_mha_qdq leaves the attention products out.
_MODELOPT: dict[str, Any] = {
    "op_types_to_exclude": ["TopK", "GridSample", "Softmax", "Clip", "Mul", "Add", "Gather", "GatherElements"],
    "nodes_to_exclude": _DELICATE,
    "disable_mha_qdq": True,
    "simplify": True,
}


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to a model.

    Attributes:
        key: its name in files and on the command line.
        title: its name in the table.
        tool: whose environment makes it, a key of `TOOLS`; None for what comes out of the bundle.
        engines: where the file can run. The first is the one its tool makes files for, as far as a CPU goes.
        settings: what the tool is told.
    """

    key: str
    title: str
    tool: str | None = None
    engines: tuple[Engine, ...] = BOTH
    settings: Mapping[str, Any] = field(default_factory=dict)


# Script of each tool, in `peers`.
TOOLS = {
    "onnxruntime": "with_onnxruntime.py",
    "modelopt": "with_modelopt.py",
    "nncf": "with_nncf.py",
}


def _onnxruntime(key: str, title: str, **settings: Any) -> Contender:
    return Contender(key=f"ort-{key}", title=f"onnxruntime {title}", tool="onnxruntime", settings=settings)


def _modelopt(key: str, title: str, method: str, **options: Any) -> Contender:
    settings = {"method": method, "options": options}
    return Contender(key=f"modelopt-{key}", title=f"ModelOpt {title}", tool="modelopt", settings=settings)


def _nncf(
    key: str, title: str, preset: str, model_type: str | None, *, fast: bool = True, ignored: Sequence[str] = ()
) -> Contender:
    settings = {
        "preset": preset,
        "model_type": model_type,
        "fast_bias_correction": fast,
        "ignored_types": list(ignored),
    }
    return Contender(key=f"nncf-{key}", title=f"NNCF {title}", tool="nncf", engines=("openvino",), settings=settings)


CONTENDERS: tuple[Contender, ...] = (
    Contender(key=FLOAT, title="FP32", engines=("openvino", "onnxruntime")),
    Contender(key=OURS, title="edgedet", engines=("openvino", "onnxruntime")),
    _onnxruntime("minmax", "min-max, Conv", method="minmax", ops=_CONV),
    _onnxruntime("average", "min-max averaged, Conv", method="minmax", ops=_CONV, moving_average=True),
    _onnxruntime("entropy", "entropy, Conv", method="entropy", ops=_CONV, bins=_BINS),
    _onnxruntime("percentile", "percentile, Conv", method="percentile", ops=_CONV, **_PERCENTILE),
    _onnxruntime("minmax-linear", "min-max, Conv and linear", method="minmax", **_LINEAR),
    _onnxruntime(
        "average-linear", "min-max averaged, Conv and linear", method="minmax", moving_average=True, **_LINEAR
    ),
    _onnxruntime("entropy-linear", "entropy, Conv and linear", method="entropy", bins=_BINS, **_LINEAR),
    _onnxruntime("percentile-linear", "percentile, Conv and linear", method="percentile", **_PERCENTILE, **_LINEAR),
    _onnxruntime("average-inputs", "min-max averaged, inputs of Conv", method="minmax", moving_average=True, **_INPUTS),
    _onnxruntime("entropy-inputs", "entropy, inputs of Conv", method="entropy", bins=_BINS, **_INPUTS),
    _onnxruntime("percentile-inputs", "percentile, inputs of Conv", method="percentile", **_PERCENTILE, **_INPUTS),
    _modelopt("max", "max, as it comes", "max"),
    _modelopt("entropy", "entropy, as it comes", "entropy"),
    _modelopt("max-layers", "max, Conv and linear", "max", **_MODELOPT),
    _modelopt("entropy-layers", "entropy, Conv and linear", "entropy", **_MODELOPT),
    _modelopt("max-conv", "max, Conv", "max", op_types_to_quantize=_CONV, simplify=True),
    _modelopt("entropy-conv", "entropy, Conv", "entropy", op_types_to_quantize=_CONV, simplify=True),
    _nncf("default", "default", "performance", None),
    _nncf("mixed", "mixed preset", "mixed", None),
    _nncf("transformer", "transformer", "mixed", "transformer"),
    _nncf("transformer-full", "transformer, full bias correction", "mixed", "transformer", fast=False),
    _nncf("transformer-conv", "transformer, Conv", "mixed", "transformer", ignored=["MatMul"]),
)

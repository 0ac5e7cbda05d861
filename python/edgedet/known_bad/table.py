"""The table. An entry that is certain is refused where an engine would be made of it; the others are warned about.

Where a source gives no version in which a fault is gone, none is assumed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Tuple

from edgedet.known_bad import patterns
from edgedet.onnx_graph import OnnxGraph

Version = Tuple[int, int]

_TRT: Final = "https://github.com/NVIDIA/TensorRT/issues/"


@dataclass(frozen=True)
class KnownBad:
    """One combination.

    Attributes:
        name: Short, for people and for JSON.
        backend: On which it is bad.
        symptom: What happens.
        remedy: What helps.
        sources: Where it was reported, or the page of this project that says how it was measured.
        since: First version (major, minor) in which it was seen or can be.
        until: Last one, None where no later version is known to be free of it.
        precisions: In which it is bad, empty for all.
        capability: Whether a GPU of this compute capability (major, minor) is affected; None: any is, and no GPU need
            be known.
        graph: Whether the network has what it takes; None: any has.
        certain: The engine cannot be built, or is wrong whatever the weights are.
    """

    name: str
    backend: str
    symptom: str
    remedy: str
    sources: tuple[str, ...]
    since: Version = (0, 0)
    until: Version | None = None
    precisions: tuple[str, ...] = ()
    capability: Callable[[Version], bool] | None = None
    graph: Callable[[OnnxGraph], bool] | None = None
    certain: bool = False

    def covers(self, version: Version) -> bool:
        """Whether this version of the backend is affected."""
        return self.since <= version and (self.until is None or version <= self.until)


TABLE: Final[tuple[KnownBad, ...]] = (
    KnownBad(
        name="grid-sample-linear",
        backend="tensorrt",
        graph=patterns.renamed_sampling,
        certain=True,
        symptom='GridSample\'s mode "linear" of opset 20 is not known to the parser, which samples the nearest pixel',
        remedy="export at opset 17 to 19, or with python -m training export --sampling gather",
        sources=(_TRT + "4646", "https://github.com/onnx/onnx-tensorrt/pull/1060"),
    ),
    KnownBad(
        name="grid-sample-miscompiled",
        backend="tensorrt",
        since=(10, 13),
        graph=lambda graph: patterns.has(graph, "GridSample"),
        symptom="GridSample in the decoder of a DETR is compiled to something else, in FP32 too, without any message",
        remedy="python -m training export --sampling gather; at least verify with --expect-ap, for FP32 is wrong too",
        sources=(
            _TRT + "4813",
            "https://github.com/lightly-ai/lightly-train/pull/917",
            "https://github.com/pytorch/TensorRT/issues/4074",
        ),
    ),
    KnownBad(
        name="layer-norm-unknown",
        backend="tensorrt",
        until=(8, 5),
        graph=lambda graph: patterns.has(graph, "LayerNormalization"),
        certain=True,
        symptom="the parser has no LayerNormalization",
        remedy="python -m calibration half --spelt-layer-norm, an export at opset 16, or TensorRT 8.6",
        sources=("https://github.com/ItayElam/SegmentAnything-TensorRT/issues/2", _TRT + "3642"),
    ),
    KnownBad(
        name="gelu-unknown",
        backend="tensorrt",
        until=(8, 6),
        graph=lambda graph: patterns.has(graph, "Gelu"),
        certain=True,
        symptom="the parser has no Gelu, an operator of opset 20",
        remedy="export at opset 17 to 19, where Gelu is spelt out",
        sources=("https://github.com/onnx/onnx-tensorrt/blob/release/8.6-GA/docs/operators.md",),
    ),
    KnownBad(
        name="zero-point-missing",
        backend="tensorrt",
        until=(8, 6),
        precisions=("int8",),
        graph=patterns.lacks_zero_points,
        symptom="the parser wants a zero-point at every QuantizeLinear and DequantizeLinear, also where it is 0",
        remedy="make the model with python -m calibration quantize --backend tensorrt",
        sources=("docs/tensorrt-models.md",),
    ),
    KnownBad(
        name="zero-point-not-0",
        backend="tensorrt",
        precisions=("int8",),
        graph=patterns.shifted,
        certain=True,
        symptom="the parser refuses a zero-point other than 0: TensorRT quantises symmetrically",
        remedy="make the model with python -m calibration quantize --backend tensorrt",
        sources=(_TRT + "2774", _TRT + "4698"),
    ),
    KnownBad(
        name="scale-not-positive",
        backend="tensorrt",
        graph=patterns.scale_not_positive,
        certain=True,
        symptom="the parser refuses a scale that is 0 or less",
        remedy="make the model with python -m calibration quantize --backend tensorrt",
        sources=(_TRT + "2498", "https://github.com/NVIDIA/Model-Optimizer/issues/454"),
    ),
    KnownBad(
        name="unsigned-integers",
        backend="tensorrt",
        precisions=("int8",),
        graph=patterns.unsigned,
        certain=True,
        symptom="unsigned integers between Q and DQ are taken for signed ones, at best with a warning",
        remedy="make the model with python -m calibration quantize --backend tensorrt",
        sources=("https://github.com/leimao/PyTorch-Eager-Mode-Quantization-TensorRT-Acceleration/issues/1",),
    ),
    KnownBad(
        name="integer-bias",
        backend="tensorrt",
        precisions=("int8",),
        graph=patterns.integer_bias,
        certain=True,
        symptom="the parser refuses an int32 bias behind a DequantizeLinear",
        remedy="make the model with python -m calibration quantize --backend tensorrt, which leaves biases in float",
        sources=(
            "https://github.com/microsoft/onnxruntime/issues/14229",
            "https://github.com/onnx/onnx-tensorrt/issues/850",
            "https://github.com/lyuwenyu/RT-DETR/issues/343",
        ),
    ),
    KnownBad(
        name="norm-in-fp16",
        backend="tensorrt",
        precisions=("fp16",),
        graph=lambda graph: patterns.spelt_norm(graph) and not patterns.is_typed(graph),
        symptom="a norm out of single operators overflows in half precision, in its square",
        remedy="make the half precision model with python -m calibration half, which keeps such parts in float32",
        sources=(_TRT + "2564", _TRT + "2781", "https://github.com/roboflow/rf-detr/issues/176"),
    ),
    KnownBad(
        name="fp16-detr-8",
        backend="tensorrt",
        until=(8, 6),
        precisions=("fp16",),
        graph=lambda graph: patterns.has(graph, "Softmax") and not patterns.is_typed(graph),
        symptom="RT-DETR and DEIMv2 lose much of their accuracy in half precision, on some GPUs only",
        remedy="make the model with python -m calibration half, then verify; or take TensorRT 10.6",
        sources=(
            _TRT + "3652",
            _TRT + "3657",
            "https://github.com/Intellindust-AI-Lab/DEIMv2/issues/60",
            "https://github.com/lyuwenyu/RT-DETR/issues/222",
        ),
    ),
    KnownBad(
        name="fp16-attention-10.3",
        backend="tensorrt",
        since=(10, 3),
        until=(10, 5),
        precisions=("fp16",),
        graph=lambda graph: patterns.has(graph, "Softmax") and not patterns.is_typed(graph),
        symptom="DEIMv2 finds nothing in half precision on 10.4, and DINOv3 is wrong on 10.3",
        remedy="take TensorRT 10.6 or later, or make the model with python -m calibration half; then verify",
        sources=("https://github.com/Intellindust-AI-Lab/DEIMv2/issues/112", _TRT + "4723"),
    ),
    KnownBad(
        name="fp16-by-choice-11",
        backend="tensorrt",
        since=(11, 0),
        precisions=("fp16",),
        graph=lambda graph: not patterns.is_typed(graph),
        certain=True,
        symptom="TensorRT 11 computes in the types of the file, and this one is in float32",
        remedy="make the model with python -m calibration half",
        sources=("docs/tensorrt-models.md",),
    ),
    KnownBad(
        name="attention-10.7",
        backend="tensorrt",
        since=(10, 7),
        until=(10, 7),
        graph=lambda graph: patterns.has(graph, "Softmax"),
        symptom="fused self-attention of some forms is wrong, in FP32 too",
        remedy="take another version of TensorRT; at least verify with --expect-ap",
        sources=(_TRT + "4333", _TRT + "4328"),
    ),
    KnownBad(
        name="dequantize-orin-10.16",
        backend="tensorrt",
        since=(10, 16),
        until=(10, 16),
        precisions=("int8",),
        capability=lambda capability: capability == (8, 7),
        graph=lambda graph: patterns.has(graph, "DequantizeLinear"),
        symptom='the build ends with "Could not infer output types for operation: dequantize" on Orin',
        remedy="take TensorRT 10.3 of JetPack 6, or fp16",
        sources=(_TRT + "4832",),
    ),
    KnownBad(
        name="volta",
        backend="tensorrt",
        since=(10, 5),
        capability=lambda capability: capability < (7, 5),
        certain=True,
        symptom="GPUs below compute capability 7.5 are not supported any more",
        remedy="take TensorRT 10.4 or earlier",
        sources=("https://github.com/Project-MONAI/MONAI/pull/8199",),
    ),
    KnownBad(
        name="blackwell",
        backend="tensorrt",
        until=(10, 7),
        capability=lambda capability: capability >= (10, 0),
        certain=True,
        symptom="GPUs of compute capability 10 and above are not supported yet",
        remedy="take TensorRT 10.8 or later",
        sources=(_TRT + "4317",),
    ),
    KnownBad(
        name="signed-activations",
        backend="openvino",
        precisions=("int8",),
        graph=patterns.signed_activations,
        symptom="on x86 convolutions of signed activations stay in float, and a LayerNorm behind them runs in int8",
        remedy="make the model with python -m calibration quantize --backend openvino",
        sources=("docs/calibration.md", "https://github.com/openvinotoolkit/openvino/pull/5787"),
    ),
    KnownBad(
        name="padded-pool-on-integers",
        backend="openvino",
        precisions=("int8",),
        graph=patterns.padded_pool_on_integers,
        symptom="an AveragePool that counts its padding takes it for the integer 0, which stands for another number",
        remedy="make the model with python -m calibration quantize --backend openvino",
        sources=("docs/calibration.md",),
    ),
)

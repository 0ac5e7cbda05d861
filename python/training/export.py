"""From a trained model to ONNX, and to a bundle that edgedet runs."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from edgedet import ModelError, __version__
from edgedet.bundle import InputSpec, LogitsBoxes, write_bundle
from edgedet.files import write_atomically
from training.models.deformable_attention import Sampling
from training.models.deploy import deploy
from training.models.detector import Detector

_TOLERANCE = 1e-2  # of the largest logit


def export_onnx(
    model: Detector,
    path: Path,
    *,
    sampling: Sampling | None = None,
    input_size: tuple[int, int] | None = None,
    opset: int = 17,
) -> Path:
    """Writes a model as one ONNX file, weights inside, and checks what was written.

    The graph maps `images` (N, 3, H, W) float32 to `logits` (N, Q, C) and `boxes` (N, Q, 4) cxcywh in [0, 1]; N is
    free.

    Args:
        model: Any mode, any device; it stays as it is.
        path: The file to write; it appears whole or not at all.
        sampling: How deformable attention reads its maps (see `Sampling`); if not given, as the model was trained: by
            `gather`, or `discrete`.
        input_size: (height, width); the model's own if not given.
        opset: ONNX operator set, at least 16.

    Raises:
        InvalidInputError: The model was not trained for the sampling, or the input is too small for it.
        ModelError: The weights or the outputs are not finite, or onnxruntime does not give the model's numbers.
    """
    import onnx

    _check_weights(model)
    size = input_size or model.config.input_size
    deployed = deploy(model, sampling=sampling, input_size=size)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, *size, generator=generator)
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        traced = Path(folder) / "traced.onnx"
        # The tracer warns about values that it takes as constants, which is what fixed shapes are, and this exporter
        # announces its successor. What matters is checked below.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            deployed,
            (images,),
            traced,
            dynamo=False,
            opset_version=opset,
            input_names=["images"],
            output_names=["logits", "boxes"],
            dynamic_axes={name: {0: "N"} for name in ("images", "logits", "boxes")},
            do_constant_folding=True,
        )
        shapes = [tuple(output.shape[1:]) for output in deployed(images)]
        content = _tidied(traced.read_bytes(), shapes)
    onnx.checker.check_model(content, full_check=True)
    _check_outputs(deployed, content, images)
    write_atomically(path, content)
    return path


def write_bundle_from_model(
    model: Detector,
    bundle: Path,
    *,
    name: str,
    input: InputSpec,
    classes: Sequence[str],
    category_ids: Sequence[int],
    sampling: Sampling | None = None,
    top_k: int = 300,
    licence: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a model as a bundle; its input size is that of `input`.

    Raises:
        InvalidInputError, ModelError: As `export_onnx`; ModelError too for a number of classes that is not the model's.
        BundleError: The folder exists and may not be replaced.
    """
    count = model.config.decoder.num_classes
    if len(classes) != count or len(category_ids) != count:
        raise ModelError(
            f"expected {count} class names and category ids, as many as the model has classes, "
            f"got {len(classes)} and {len(category_ids)}"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = export_onnx(
            model, Path(folder) / "model.onnx", sampling=sampling, input_size=(input.height, input.width)
        )
        return write_bundle(
            bundle,
            file,
            name=name,
            input=input,
            output=LogitsBoxes(top_k=top_k),
            classes=classes,
            category_ids=category_ids,
            licence=licence,
            overwrite=overwrite,
        )


def _check_weights(model: Detector) -> None:
    for name, tensor in model.state_dict().items():
        if name != "decoder.anchors" and tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(
                f"expected finite weights, got NaN or infinite values in {name}; "
                "the training that made them diverged: use an earlier checkpoint"
            )


def _tidied(content: bytes, shapes: Sequence[tuple[int, ...]]) -> bytes:
    """Constants folded and stored once, everything named after the module it comes from, nothing of the machine left.

    shapes: of the outputs, without the batch axis.
    """
    import onnx
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    graph = (model := onnx.load_from_string(content)).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == "Constant" or (
            node.output[0] not in {o.name for o in graph.output}
            and all(name in constants or not name for name in node.input)
        ):
            alone = onnx.helper.make_graph(
                [node],
                "constant",
                [],
                [onnx.helper.make_empty_tensor_value_info(name) for name in node.output],
                [numpy_helper.from_array(constants[name], name) for name in node.input if name],
            )
            one = onnx.helper.make_model(alone, opset_imports=model.opset_import)
            values: Any = ReferenceEvaluator(one).run(None, {})
            constants.update(zip(node.output, values, strict=True))
        else:
            kept.append(node)

    outputs = {value.name for value in graph.output}
    names: dict[str, str] = {}
    stored: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    used: dict[str, int] = {}

    def unique(base: str) -> str:
        used[base] = used.get(base, -1) + 1
        return f"{base}_{used[base]}" if used[base] else base

    initializers = []
    for node in kept:
        node.name = unique(node.name.strip("/").replace("/", "."))
        node.doc_string = ""
        for name in node.input:
            if name in constants and name not in names:
                value = constants[name]
                key = (str(value.dtype), value.shape, value.tobytes())
                if key not in stored:
                    parameter = name if not name.startswith(("/", "onnx::")) and "Constant" not in name else ""
                    stored[key] = unique(parameter or f"{node.name}.constant")
                    initializers.append(numpy_helper.from_array(value, stored[key]))
                names[name] = stored[key]
        for index, name in enumerate(node.output):
            if name and name not in outputs:
                names[name] = node.name if index == 0 else f"{node.name}:{index}"
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for field, content_of in (("node", kept), ("initializer", initializers)):
        graph.ClearField(field)
        getattr(graph, field).extend(content_of)
    for value, shape in zip(graph.output, shapes, strict=True):
        for dimension, size in zip(list(value.type.tensor_type.shape.dim)[1:], shape, strict=True):
            dimension.dim_value = size
    graph.ClearField("value_info")
    graph.name = "edgedet"
    model.producer_name, model.producer_version = "edgedet", __version__
    return model.SerializeToString()  # type: ignore[no-any-return]


def _check_outputs(deployed: torch.nn.Module, content: bytes, images: torch.Tensor) -> None:
    """Onnxruntime gives the deployed model's detections, at batch 1 and 2.

    Compared are rows (a query's logits and box) with the nearest row, and nine of ten have to agree: near ties among
    the encoder's scores may order queries differently and swap the last ones.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    for batch in (images[:1], images):
        with torch.no_grad():
            wanted = torch.cat(deployed(batch), dim=-1)
        got = torch.cat([torch.from_numpy(array) for array in session.run(None, {"images": batch.numpy()})], dim=-1)
        if not got.isfinite().all():
            raise ModelError("export: expected finite outputs, got NaN or infinite values; are the weights trained?")
        error = torch.cdist(wanted, got, p=float("inf")).amin(-1).quantile(0.9)
        if got.shape != wanted.shape or error > _TOLERANCE * max(1.0, float(wanted.abs().max())):
            raise ModelError(
                f"export: expected the model's outputs from onnxruntime, got differences of {float(error):.2g}; "
                "try another onnxruntime or torch, and report it"
            )

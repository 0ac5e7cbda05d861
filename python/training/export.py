"""From a trained model to ONNX, and to a bundle that edgedet runs."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from edgedet import ModelError
from edgedet.bundle import InputSpec, LogitsBoxes, write_bundle
from training.files import write_atomically
from training.models.deformable_attention import Sampling
from training.models.deimv2 import Deimv2
from training.models.deploy import deploy

_TOLERANCE = 1e-3


def export_onnx(
    model: Deimv2,
    path: Path,
    *,
    sampling: Sampling = "gather",
    input_size: tuple[int, int] | None = None,
    opset: int = 17,
) -> Path:
    """Writes a model as one ONNX file, weights inside, and checks what was written.

    The graph maps `images` (N, 3, H, W) float32 to `logits` (N, Q, C) and `boxes` (N, Q, 4) cxcywh in [0, 1]; N is free.

    Args:
        model: Any mode, any device; it stays as it is.
        path: The file to write; it appears whole or not at all.
        sampling: How deformable attention reads its maps (see `Sampling`).
        input_size: (height, width); the model's own if not given.
        opset: ONNX operator set, at least 16.

    Raises:
        ModelError: The weights or the outputs are not finite, or onnxruntime does not give the model's numbers.
    """
    import onnx

    _check_weights(model)
    size = input_size or model.config.input_size
    deployed = deploy(model, sampling=sampling, input_size=size)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, *size, generator=generator)
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The tracer warns about values it takes as constants; that is what fixed shapes are.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.onnx")
        torch.onnx.export(
            deployed,
            (images,),
            buffer,
            dynamo=False,
            opset_version=opset,
            input_names=["images"],
            output_names=["logits", "boxes"],
            dynamic_axes={name: {0: "N"} for name in ("images", "logits", "boxes")},
            do_constant_folding=True,
        )
    content = _tidied(buffer.getvalue())
    onnx.checker.check_model(content, full_check=True)
    _check_outputs(deployed, content, images)
    write_atomically(path, content)
    return path


def write_bundle_from_model(
    model: Deimv2,
    bundle: Path,
    *,
    name: str,
    input: InputSpec,
    classes: Sequence[str],
    category_ids: Sequence[int],
    sampling: Sampling = "gather",
    top_k: int = 300,
    licence: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a model as a bundle; its input size is that of `input`.

    Raises:
        ModelError: As `export_onnx`, or the number of classes is not the model's.
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


def _check_weights(model: Deimv2) -> None:
    for name, tensor in model.state_dict().items():
        if name != "decoder.anchors" and tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(
                f"expected finite weights, got NaN or infinite values in {name}; "
                "the training that made them diverged: use an earlier checkpoint"
            )


def _tidied(content: bytes) -> bytes:
    """Nodes and values get short names after the modules they come from; nothing of the machine stays in the file."""
    import onnx

    graph = (model := onnx.load_from_string(content)).graph
    outputs = {value.name for value in graph.output}
    renamed: dict[str, str] = {}
    seen: dict[str, int] = {}
    for node in graph.node:
        base = node.name.strip("/").replace("/", ".") or node.op_type
        count = seen[base] = seen.get(base, -1) + 1
        node.name = f"{base}_{count}" if count else base
        for index, output in enumerate(node.output):
            if output and output not in outputs:
                renamed[output] = node.name if index == 0 else f"{node.name}:{index}"
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        node.doc_string = ""
    del graph.value_info[:]
    graph.name = "edgedet"
    model.producer_name, model.producer_version = "edgedet", ""
    return model.SerializeToString()


def _check_outputs(deployed: torch.nn.Module, content: bytes, images: torch.Tensor) -> None:
    """onnxruntime gives the deployed model's numbers, at batch 1 and 2."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    for batch in (images[:1], images):
        with torch.no_grad():
            wanted = deployed(batch)
        for name, want, got in zip(("logits", "boxes"), wanted, session.run(None, {"images": batch.numpy()}), strict=True):
            if not np.isfinite(got).all():
                raise ModelError(f"export: expected finite {name}, got NaN or infinite values; are the weights trained?")
            # Sorted, because near ties among the encoder's scores may order the queries differently.
            error = float(np.abs(np.sort(want.numpy(), axis=1) - np.sort(got, axis=1)).max())
            if error > _TOLERANCE * max(1.0, float(np.abs(got).max())):
                raise ModelError(f"export: expected the model's {name} from onnxruntime, got a difference of {error:.2g}")

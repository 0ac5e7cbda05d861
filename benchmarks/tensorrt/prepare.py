"""`prepare`: everything that needs no GPU, on a machine without one, into a folder to carry over."""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import onnx
import torch

from benchmarks.tensorrt.models import CARRIED_AT_A_TIME, FORMAT, MODELS, PREPARED, Model, folder_bytes
from benchmarks.tensorrt.reference import onnxruntime_detector, run_dataset, save_reference
from benchmarks.tensorrt.thin import thin
from calibration.collect import CollectOptions
from calibration.graph import load
from calibration.graph import prepare as prepare_graph
from calibration.half import Half, HalfOptions, half, type_quantised
from calibration.inputs import float_model, sample_batches
from calibration.quantize import QuantizeOptions, quantize, record_sample
from calibration.sampling import draw, evaluation_images, read_record, read_sample
from edgedet import InvalidInputError, __version__
from edgedet.bundle import InputSpec, add_json, add_model, load_model_json
from edgedet.coco_eval import load_annotations
from edgedet.files import write_atomically
from edgedet.labels import COCO80
from edgedet.onnx_import import import_model
from training.export import write_bundle_from_model
from training.models.detector import build
from training.models.zoo import detector_config
from training.weights.load import load_weights


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """models: folder of published weights. train: photos to calibrate on, none of which is among `images`.

    count: of them, for a network of trained weights. few: of them, for one of random weights, and for half precision.
    """

    models: Path
    images: Path
    annotations: Path
    train: Path
    out: Path
    only: tuple[str, ...] = ()
    count: int = 200
    few: int = 8
    threads: int = 2


def prepare(options: PrepareOptions) -> dict[str, Any]:
    """Makes what is missing, network by network, and returns what is in prepared.json.

    Raises:
        InvalidInputError: no weights of a network of trained ones.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / PREPARED
    document: dict[str, Any] = {"format": FORMAT, "models": {}}
    if file.is_file():
        document = json.loads(file.read_text(encoding="utf-8"))
    document["versions"] = {
        "edgedet": __version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "python": platform.python_version(),
    }
    for model in MODELS:
        if model.name in document["models"] or (options.only and model.name not in options.only):
            continue
        print(f"{model.name} ...", flush=True)
        start = time.perf_counter()
        facts = _make(model, options)
        document["models"][model.name] = {**facts, "seconds": round(time.perf_counter() - start, 1)}
        write_atomically(file, (json.dumps(document, indent=2) + "\n").encode())
        print(f"{model.name}: {facts['bytes'] / 2**20:.1f} MiB", flush=True)
    return document


def sizes(document: dict[str, Any]) -> str:
    """What is to be carried, and in how many goes."""
    lines = [f"{name}: {facts['bytes'] / 2**20:.1f} MiB" for name, facts in document["models"].items()]
    whole = sum(facts["bytes"] for facts in document["models"].values())
    goes = -(-whole // CARRIED_AT_A_TIME)
    limit = CARRIED_AT_A_TIME // 2**20
    return "\n".join([*lines, f"together {whole / 2**20:.1f} MiB: {goes} of at most {limit} MiB at a time"])


def _make(model: Model, options: PrepareOptions) -> dict[str, Any]:
    target = options.out / model.name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    with tempfile.TemporaryDirectory(dir=options.out) as scratch:
        bundle, source = _float_bundle(model, options, Path(scratch) / "bundle")
        count = options.count if model.trained else options.few
        record_sample(bundle, draw(options.train, count=count, seed=0, exclude=evaluation_images([options.images])))
        made = _half(bundle, options)
        quantised = quantize(
            bundle,
            backend="tensorrt",
            options=QuantizeOptions(collect=_collect(options)),
            images=options.train,
        )
        typed = Path(scratch) / "typed"
        shutil.copytree(bundle, typed)
        _add(typed, "int8", type_quantised(quantised.model, made))
        facts = {
            "trained": model.trained,
            "source": source,
            "side": load_model_json(bundle)["input"]["width"],
            "calibration_images": count,
            "int8_layers": len(quantised.placement.layers),
            "half_nodes": made.half,
            "float_nodes": len(made.islands),
        }
        for folder in (bundle, typed):
            if model.trained:
                shutil.copytree(folder, target / folder.name)
            else:
                thin(folder, target / folder.name)
        if model.trained:
            facts["reference"] = _reference(bundle, options, target / "reference.npz")
    return {**facts, "bytes": folder_bytes(target)}


def _float_bundle(model: Model, options: PrepareOptions, bundle: Path) -> tuple[Path, str]:
    """Our own export, of published weights or random ones; a published ONNX file where there are no weights."""
    config = detector_config(model.name)
    height, width = config.input_size
    torch.manual_seed(0)
    weights = sorted(options.models.glob(f"*_{model.name}_*.safetensors"))
    published = sorted(options.models.glob(f"*_{model.name}_*.onnx"))
    if model.trained and not weights:
        if not published:
            raise InvalidInputError(
                f"{options.models}: expected *_{model.name}_*.safetensors or .onnx, got neither; download the weights"
            )
        return import_model(published[0], bundle, labels=COCO80, name=model.name), published[0].name
    network = build(config)
    if model.trained:
        load_weights(network, weights[0])
    write_bundle_from_model(
        network,
        bundle,
        name=model.name,
        input=InputSpec(width=width, height=height),
        classes=COCO80.names,
        category_ids=COCO80.category_ids,
    )
    return bundle, weights[0].name if model.trained else "random weights, seed 0"


def _collect(options: PrepareOptions) -> CollectOptions:
    return CollectOptions(threads=options.threads)


def _half(bundle: Path, options: PrepareOptions) -> Half:
    """What `python -m calibration half` does, whose result is needed once more."""
    spec, sample = load_model_json(bundle), read_sample(bundle)
    source = float_model(spec, "tensorrt")
    batch = _collect(options).batch
    made = half(
        prepare_graph(load(bundle / source)),
        lambda: islice(sample_batches(options.train, sample, spec, batch=batch), -(-options.few // batch)),
        spec,
        options=HalfOptions(collect=_collect(options)),
    )
    _add(bundle, "fp16", made.model)
    entry = {"float_sha256": spec["files"][source]["sha256"], "images": options.few, **made.to_json()}
    add_json(bundle, "calibration.json", {**read_record(bundle), "half": {"tensorrt": entry}})
    return made


def _add(bundle: Path, precision: Any, model: onnx.ModelProto) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "model.onnx"
        onnx.save(model, str(file))
        add_model(bundle, precision, "tensorrt", file)


def _reference(bundle: Path, options: PrepareOptions, target: Path) -> dict[str, Any]:
    """AP of onnxruntime in float32 on every labelled image, and what it found."""
    dataset = load_annotations(options.annotations)
    detect = onnxruntime_detector(bundle, threads=options.threads)
    found, figures = run_dataset(detect, load_model_json(bundle), dataset, options.images)
    save_reference(target, found, figures)
    return {"images": len(found), "AP": figures["AP"]}

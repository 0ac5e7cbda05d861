"""Every detector at its published size on real photos: torch against onnxruntime and OpenVINO at batch 1, 2 and 8.

    python -m benchmarks.export_parity IMAGES --out FILE.json [--weights FOLDER] [--model NAME ...]

Prints a Markdown row per model and export form, and keeps figures of earlier runs that FILE.json has. FOLDER holds
published weights, one file per model whose name contains the model's; other models have random weights, moved so that
scores differ, and batch norms that have seen the photos, so that activations have the size that training gives them.
Compared are the queries of torch with the nearest query that came out. A query without one within 0.5 px and 0.001 of
score is lost: of cells whose scores nearly tie, another rounding selects another one. How often rounding alone does
that is shown by torch itself, in float64 against float32.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import edgedet
from training.export import export_onnx
from training.models.deformable_attention import Sampling
from training.models.detector import build
from training.models.edge_decoder import EdgeDecoderConfig
from training.models.zoo import MODELS, detector_config
from training.weights.load import load_weights

BATCHES = (1, 2, 8)
PIXELS, SCORE = 0.5, 1e-3
Queries = tuple[Tensor, Tensor]  # logits (Q, C) and boxes (Q, 4) of one image
Run = Callable[[NDArray[np.float32]], list[Queries]]


def vary(model: nn.Module, images: Tensor) -> None:
    """Moves weights from their symmetric start, then has batch norms see the images and keep their statistics."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            size = 0.3 / math.sqrt(parameter[0].numel()) if parameter.dim() > 1 else 0.05
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        model.train()(images)


def compare(wanted: list[Queries], got: list[Queries], side: int) -> dict[str, float]:
    """The largest differences of queries that have a near one, and how many have none."""
    lost, pixels, scores = 0, 0.0, 0.0
    for (logits, boxes), (other_logits, other_boxes) in zip(wanted, got, strict=True):
        box = torch.cdist(boxes * side, other_boxes * side, p=float("inf"))
        score = torch.cdist(logits.sigmoid(), other_logits.sigmoid(), p=float("inf"))
        near = torch.maximum(box / PIXELS, score / SCORE).argmin(-1, keepdim=True)
        box, score = box.gather(1, near)[:, 0], score.gather(1, near)[:, 0]
        found = (box <= PIXELS) & (score <= SCORE)
        lost += int((~found).sum())
        if bool(found.any()):
            pixels, scores = max(pixels, float(box[found].max())), max(scores, float(score[found].max()))
    return {"pixels": pixels, "score": scores, "lost": lost, "queries": sum(len(logits) for logits, _ in wanted)}


def in_torch(model: nn.Module, images: NDArray[Any]) -> list[Queries]:
    """The model's queries, an image at a time."""
    with torch.no_grad():
        finals = [model.eval()(torch.from_numpy(image[None])).final for image in images]
    return [(final.logits[0].float(), final.boxes[0].float()) for final in finals]


def in_onnxruntime(file: Path) -> Run:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(images: NDArray[np.float32]) -> list[Queries]:
        logits, boxes = session.run(["logits", "boxes"], {"images": images})
        return list(zip(torch.from_numpy(logits), torch.from_numpy(boxes), strict=True))

    return run


def in_openvino(file: Path) -> Run:
    compiled = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(images: NDArray[np.float32]) -> list[Queries]:
        found = compiled({"images": images})
        return list(zip(torch.from_numpy(found["logits"]), torch.from_numpy(found["boxes"]), strict=True))

    return run


def measure(name: str, sampling: Sampling | None, photos: list[Path], weights: Path | None) -> dict[str, Any]:
    config = detector_config(name)
    side = config.input_size[0]
    model = build(config)
    files = sorted(weights.glob(f"*_{name}_*.safetensors")) if weights is not None else []
    images = np.stack([edgedet.preprocess(edgedet.read_image(p), width=side, height=side) for p in photos])
    if files:
        load_weights(model, files[0])
    else:
        vary(model, torch.from_numpy(images))
    wanted = in_torch(model, images)
    exact = in_torch(copy.deepcopy(model).double(), images.astype(np.float64))
    row: dict[str, Any] = {"model": name, "sampling": sampling, "weights": "published" if files else "random"}
    row["float64"] = compare(wanted, exact, side)
    with tempfile.TemporaryDirectory() as folder:
        file = export_onnx(model, Path(folder) / "model.onnx", sampling=sampling)
        row |= {"size": side, "megabytes": file.stat().st_size / 1e6, "nodes": len(onnx.load(file).graph.node)}
        for runtime, start in (("onnxruntime", in_onnxruntime), ("openvino", in_openvino)):
            run = start(file)
            row[runtime] = {batch: compare(wanted[:batch], run(images[:batch]), side) for batch in BATCHES}
    return row


def markdown(row: dict[str, Any]) -> str:
    cells = [row["model"], row["sampling"] or "-", row["weights"], f"{row['megabytes']:.1f}", str(row["nodes"])]
    for runtime in ("onnxruntime", "openvino"):
        runs = list(row[runtime].values())
        cells += [f"{max(r['pixels'] for r in runs):.4f}", f"{max(r['score'] for r in runs):.1e}"]
        cells.append(f"{sum(r['lost'] for r in runs)} of {sum(r['queries'] for r in runs)}")
    cells += [f"{row['float64']['pixels']:.4f}", f"{row['float64']['lost']} of {row['float64']['queries']}"]
    return f"| {' | '.join(cells)} |"


def export_forms(name: str) -> tuple[Sampling | None, ...]:
    decoder = detector_config(name).decoder
    if isinstance(decoder, EdgeDecoderConfig):
        return (None,)
    return ("discrete",) if decoder.sampling == "discrete" else ("gather", "grid_sample")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of photos; the first eight by name are used")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--model", nargs="+", default=list(MODELS), choices=MODELS)
    arguments = parser.parse_args()
    photos = sorted(arguments.images.glob("*.jpg"))[: max(BATCHES)]
    rows: list[dict[str, Any]] = json.loads(arguments.out.read_text()) if arguments.out.is_file() else []
    for name in arguments.model:
        for sampling in export_forms(name):
            row = measure(name, sampling, photos, arguments.weights)
            rows = [r for r in rows if (r["model"], r["sampling"]) != (name, sampling)] + [row]
            arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
            print(markdown(row), flush=True)


if __name__ == "__main__":
    main()

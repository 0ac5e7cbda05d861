"""How the accuracy after quantisation depends on the calibration set: its size, and the strategy that chose it.

    python -m benchmarks.calibration_sets MODEL.onnx [MODEL.onnx ...] --calibrate DIR --calibrate-annotations FILE \\
        --images DIR --annotations FILE --out DIR

Writes benchmarks/results/calibration_sets.json, calibration_sets.md and calibration_sets.png.

MODEL.onnx is a COCO model in one of the forms that `edgedet import` reads. Each point is one set, `quantize` with its
defaults, and the AP of the INT8 model in OpenVINO. Points are kept in --out as they come, so an interrupted run goes
on. Tables say in brackets how many seeds a figure is the mean of.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from calibration.collect import CollectOptions
from calibration.embedding import EncoderEmbedding
from calibration.quantize import QuantizeOptions, quantize, record_sample
from calibration.sampling import STRATEGIES, EvaluationImages, Sample, Strategy, draw, evaluation_images
from edgedet import Detector
from edgedet.coco_eval import CocoDataset, collect_results, evaluate, load_annotations, match_categories
from edgedet.files import write_atomically
from edgedet.labels import COCO80
from edgedet.onnx_import import import_model

SIZES = (8, 16, 32, 64, 128, 256)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Point:
    """AP of a model that was calibrated on `size` images."""

    model: str
    strategy: Strategy
    size: int
    seed: int
    ap: float


def ap_of(bundle: Path, precision: str, dataset: CocoDataset, images: Path, threads: int) -> float:
    """AP of one precision of a bundle through OpenVINO."""
    detector = Detector(bundle, backend="openvino", precision=precision, threads=threads)
    categories = match_categories(dataset, detector.info.classes, detector.info.category_ids)
    return evaluate(collect_results(detector, dataset, images, categories), dataset)["AP"]


def measure(options: argparse.Namespace, model: Path, dataset: CocoDataset, evaluation: EvaluationImages) -> None:
    """Fill in the points of a model that --out has not yet."""
    with tempfile.TemporaryDirectory() as folder:
        plain = import_model(model, Path(folder) / "float", labels=COCO80)
        if not (file := options.out / f"{model.stem}.float.json").is_file():
            ap = ap_of(plain, "fp32", dataset, options.images, options.threads)
            write_atomically(file, json.dumps({"model": model.stem, "ap": ap}).encode())
        for seed, strategy in itertools.product(options.seeds, STRATEGIES):
            files = {size: options.out / f"{model.stem}.{strategy}.{size}.{seed}.json" for size in options.sizes}
            missing = [size for size, file in files.items() if not file.is_file()]
            if not missing:
                continue
            # The largest set; smaller ones are its beginning.
            sample = draw(
                options.calibrate,
                count=max(options.sizes),
                seed=seed,
                strategy=strategy,
                annotations=options.calibrate_annotations,
                exclude=evaluation,
                embedding=EncoderEmbedding(plain, threads=options.threads) if strategy == "diverse" else None,
            )
            for size in missing:
                ap = quantised_ap(options, model, replace(sample, images=sample.images[:size]), dataset)
                point = Point(model.stem, strategy, size, seed, ap)
                write_atomically(files[size], json.dumps(asdict(point)).encode())
                print(point, flush=True)


def quantised_ap(options: argparse.Namespace, model: Path, sample: Sample, dataset: CocoDataset) -> float:
    """AP in INT8 after calibration on a set."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = import_model(model, Path(folder) / "bundle", labels=COCO80)
        record_sample(bundle, sample)
        collect = CollectOptions(threads=options.threads)
        quantize(bundle, backend="openvino", options=QuantizeOptions(collect=collect))
        return ap_of(bundle, "int8", dataset, options.images, options.threads)


def rows(points: Sequence[Point], floats: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Mean, standard deviation and range over seeds of each cell."""
    cells: dict[tuple[str, str, int], list[float]] = {}
    for point in points:
        cells.setdefault((point.model, point.strategy, point.size), []).append(point.ap)
    for (model, strategy, size), values in cells.items():
        yield {
            "model": model,
            "strategy": strategy,
            "size": size,
            "seeds": len(values),
            "ap_float": floats[model],
            "ap": statistics.mean(values),
            "sd": statistics.stdev(values) if len(values) > 1 else None,
            "lowest": min(values),
            "highest": max(values),
        }


def table(summary: Sequence[dict[str, Any]]) -> str:
    """AP by size, one line per model and strategy: mean and standard deviation over seeds, in Markdown."""
    sizes = sorted({row["size"] for row in summary})
    cells = {(row["model"], row["strategy"], row["size"]): row for row in summary}
    lines = [
        "| model | AP in float | strategy | " + " | ".join(f"{size} images" for size in sizes) + " |",
        "|" + "---|" * (3 + len(sizes)),
    ]
    for model, strategy in dict.fromkeys((row["model"], row["strategy"]) for row in summary):
        own = [cells.get((model, strategy, size)) for size in sizes]
        ap_float = next(row["ap_float"] for row in own if row is not None)
        lines.append(f"| {model} | {ap_float:.4f} | {strategy} | {' | '.join(cell(row) for row in own)} |")
    return "\n".join(lines) + "\n"


def cell(row: dict[str, Any] | None) -> str:
    """Mean, standard deviation and number of seeds."""
    if row is None:
        return "-"
    spread = "" if row["sd"] is None else f" ± {row['sd']:.4f}"
    return f"{row['ap']:.4f}{spread} ({row['seeds']})"


def plot(points: Sequence[Point], summary: Sequence[dict[str, Any]], target: Path) -> None:
    """AP over size, every seed a dot, means joined."""
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(row["model"] for row in summary))
    figure = Figure(figsize=(5.2 * len(models), 4), layout="constrained")
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        own = [row for row in summary if row["model"] == model]
        axes.axhline(own[0]["ap_float"], color="0.4", linestyle=":", label="float")
        for index, strategy in enumerate(STRATEGIES):
            line = [row for row in own if row["strategy"] == strategy]
            shift = 1.06 ** (index - 1)  # beside each other, not over each other
            axes.plot(
                [row["size"] * shift for row in line], [row["ap"] for row in line], color=f"C{index}", label=strategy
            )
            dots = [point for point in points if (point.model, point.strategy) == (model, strategy)]
            axes.plot([dot.size * shift for dot in dots], [dot.ap for dot in dots], ".", color=f"C{index}", alpha=0.6)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes := sorted({row["size"] for row in own}), [str(size) for size in sizes])
        axes.set(title=model, xlabel="calibration images", ylabel="AP in INT8")
        axes.legend()
    figure.savefig(target, dpi=110)


def write(out: Path, models: Sequence[str], evaluation_count: int, candidates: int) -> None:
    """Put what is there into benchmarks/results."""
    documents = [json.loads(file.read_text()) for file in sorted(out.glob("*.json"))]
    floats = {entry["model"]: entry["ap"] for entry in documents if "seed" not in entry}
    points = sorted(
        (Point(**entry) for entry in documents if "seed" in entry and entry["model"] in models),
        key=lambda point: (point.model, STRATEGIES.index(point.strategy), point.size, point.seed),
    )
    summary = list(rows(points, floats))
    results = Path(__file__).parent / "results"
    document = {
        "evaluation_images": evaluation_count,
        "candidates": candidates,
        "settings": {key: value for key, value in asdict(QuantizeOptions()).items() if key != "collect"},
        "versions": {name: metadata.version(name) for name in ("onnxruntime", "openvino")},
        "summary": summary,
        "points": [asdict(point) for point in points],
    }
    (results / "calibration_sets.json").write_text(json.dumps(document, indent=1) + "\n")
    (results / "calibration_sets.md").write_text(table(summary))
    plot(points, summary, results / "calibration_sets.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL.onnx")
    parser.add_argument("--calibrate", type=Path, required=True, metavar="DIR", help="images to choose from")
    parser.add_argument("--calibrate-annotations", type=Path, required=True, metavar="FILE", help="their COCO file")
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="evaluation images")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="their COCO file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="one JSON per point, to go on from")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, metavar="S")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    dataset, evaluation = load_annotations(options.annotations), evaluation_images([options.images])
    for model in options.models:
        measure(options, model, dataset, evaluation)
    candidates = len(load_annotations(options.calibrate_annotations).images)
    write(options.out, [model.stem for model in options.models], len(dataset.images), candidates)


if __name__ == "__main__":
    main()

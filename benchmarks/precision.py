"""The answer of `search` on published detectors, verified; and what int8 gains on a larger network's time alone.

    python -m benchmarks.precision MODEL.onnx [MODEL.onnx ...] --train DIR --train-annotations FILE \
        --val DIR --val-annotations FILE [--speed LARGE.onnx] [--work DIR]

MODEL.onnx is a COCO model in one of the forms that `edgedet import` reads. Of the training images, `--count` calibrate
and the others decide; the validation images are looked at once, by `verify`. LARGE.onnx has one input, `images`; it may
have random weights: ranges are percentiles on eight training images, every layer that the rules allow is in int8, and
the network alone is timed in OpenVINO, by turns with the float one. Interrupted, the same command goes on in `--work`.

Writes benchmarks/results/precision.json, precision.md, and precision.MODEL.png: the front of each search.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from calibration.calibrate import work_folder
from calibration.collect import CollectOptions, collect
from calibration.graph import load, prepare
from calibration.inputs import network_feed, network_input
from calibration.observers import observe
from calibration.placement import PlacementOptions, place
from calibration.quantize import record_sample
from calibration.render import render
from calibration.sampling import draw, evaluation_images, read_sample
from calibration.search.options import SearchOptions
from calibration.search.profile import time_by_kind
from calibration.search.run import search
from calibration.verify import VerifyOptions, verify
from edgedet import preprocess, read_image
from edgedet.bundle import load_model_json
from edgedet.images import find_images
from edgedet.labels import COCO80
from edgedet.onnx_import import import_model

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Search, verify, time, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--train-annotations", type=Path, required=True)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--val-annotations", type=Path, required=True)
    parser.add_argument("--speed", type=Path, action="append", default=[])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--max-drop", type=float, default=0.005)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=None)
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    rows = [searched(model, options, work) for model in options.models]
    speeds = [large(model, options) for model in options.speed]
    machine = {"machine": platform.machine(), "threads": options.threads, "calibration_images": options.count}
    RESULTS.joinpath("precision.json").write_text(
        json.dumps({**machine, "models": rows, "speed": speeds}, indent=2) + "\n"
    )
    RESULTS.joinpath("precision.md").write_text(table(rows, speeds))
    print(table(rows, speeds))


def searched(model: Path, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """One model through `sample`, `search` and `verify`."""
    bundle = work / model.stem
    if not bundle.exists():
        import_model(model, bundle, labels=COCO80, name=model.stem)
        excluded = evaluation_images([options.val])
        record_sample(bundle, draw(options.train, count=options.count, seed=0, exclude=excluded))
    remaining = work / f"{model.stem}.json"
    others(options.train_annotations, {image.file for image in read_sample(bundle).images}, remaining)
    began = time.perf_counter()
    answer = search(
        bundle,
        images=options.train,
        annotations=remaining,
        options=SearchOptions(max_drop=options.max_drop, threads=options.threads),
    )
    minutes = (time.perf_counter() - began) / 60
    results = work_folder(bundle) / "search"
    shutil.copyfile(results / "search.png", RESULTS / f"precision.{model.stem}.png")
    journal = json.loads((results / "search.json").read_text())
    entry: dict[str, Any] = {
        "model": model.stem,
        "precision": answer.precision,
        "reason": answer.reason,
        "candidate": None if answer.candidate is None else asdict(answer.candidate),
        "search_minutes": round(minutes, 1),
        "candidates": len(journal["candidates"]),
        "float_ap_of_search": answer.float_ap,
    }
    if answer.precision != "fp32":
        report = verify(
            bundle,
            images=options.val,
            annotations=options.val_annotations,
            options=VerifyOptions(precision=answer.precision, max_drop=options.max_drop, threads=options.threads),
        )
        kept = ("candidate", "ap", "ap_drop", "ap_drop_se", "latency_ms", "latency_ratio", "inference_ratio", "device")
        entry["verify"] = {key: report[key] for key in (*kept, "verdict")}
    if answer.precision == "int8":
        spec = load_model_json(bundle)
        first = read_image(find_images(options.val)[0])
        feed = network_feed(network_input(first, spec)[None], spec)
        files = {"fp32": spec["models"]["fp32"]["*"], "int8": spec["models"]["int8"]["openvino"]}
        entry["time_by_kind_ms"] = {
            name: time_by_kind(onnx.load(str(bundle / file)), feed, threads=options.threads)
            for name, file in files.items()
        }
    print(json.dumps({key: entry[key] for key in ("model", "precision", "reason", "search_minutes")}), flush=True)
    return entry


def others(annotations: Path, taken: set[str], target: Path) -> None:
    """The annotations of the images that do not calibrate."""
    document = json.loads(annotations.read_text())
    document["images"] = [image for image in document["images"] if image["file_name"] not in taken]
    ids = {image["id"] for image in document["images"]}
    document["annotations"] = [entry for entry in document["annotations"] if entry["image_id"] in ids]
    target.write_text(json.dumps(document))


def large(model: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Time of one network with everything that the rules allow in int8."""
    graph = prepare(load(model))
    shape = graph.model.graph.input[0].type.tensor_type.shape.dim
    height, width = shape[2].dim_value, shape[3].dim_value
    frames = [read_image(path) for path in find_images(options.train)[:8]]
    feeds = [{"images": preprocess(frame, width=width, height=height)[None]} for frame in frames]
    placement = place(graph, PlacementOptions(scope="all"))
    statistics = collect(
        graph.model, placement.activations, lambda: feeds, options=CollectOptions(batch=1, threads=options.threads)
    )
    ranges = {name: observe(entry.histogram, "percentile") for name, entry in statistics.items()}
    quantised = render(graph, placement, ranges, "openvino")
    models = {"fp32": onnx.load(str(model)), "int8": quantised}
    taken = by_turns(models, feeds[0], options.threads)
    medians = {name: float(np.median(values)) for name, values in taken.items()}
    return {
        "model": model.stem,
        "input": [width, height],
        "layers": len(placement.layers),
        "kept_float": len(placement.kept),
        "median_ms": medians,
        "minimum_ms": {name: min(values) for name, values in taken.items()},
        "ratio": medians["int8"] / medians["fp32"],
        "time_by_kind_ms": {
            name: time_by_kind(entry, feeds[0], threads=options.threads) for name, entry in models.items()
        },
    }


def by_turns(models: dict[str, onnx.ModelProto], feed: dict[str, Any], threads: int) -> dict[str, list[float]]:
    """Milliseconds of each network in OpenVINO, as our runtime compiles it; blocks of three, by turns."""
    import openvino

    core = openvino.Core()
    requests = {}
    for name, model in models.items():
        network = core.read_model(model.SerializeToString(), b"")
        network.reshape({key: list(value.shape) for key, value in feed.items()})
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
        }
        requests[name] = core.compile_model(network, "CPU", settings).create_infer_request()
        requests[name].infer(feed)
    taken: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(8):
        for name, request in requests.items():
            request.infer(feed)
            for _ in range(3):
                start = time.perf_counter()
                request.infer(feed)
                taken[name].append((time.perf_counter() - start) * 1e3)
    return taken


def table(rows: list[dict[str, Any]], speeds: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| model | answer | int8 layers | AP float | its AP | drop | end to end | network alone | verdict | search |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "verify" not in row:
            lines.append(f"| {row['model']} | {row['precision']}: {row['reason']} | | | | | | | | {cost(row)} |")
            continue
        report = row["verify"]
        before, after = (report["ap"][precision]["AP"] for precision in ("fp32", report["candidate"]))
        verdict = "passed" if report["verdict"]["passed"] else "refused: " + "; ".join(report["verdict"]["reasons"])
        lines.append(
            f"| {row['model']} | {row['precision']} | {row['candidate']['layers']} | {before:.4f} | {after:.4f} "
            f"| {report['ap_drop']:+.4f} | x{report['latency_ratio']:.2f} | x{report['inference_ratio']:.2f} "
            f"| {verdict} | {cost(row)} |"
        )
    lines += [
        f"| {entry['model']} | speed only | {entry['layers']} | | | | | x{entry['ratio']:.2f} "
        f"({entry['median_ms']['fp32']:.0f} to {entry['median_ms']['int8']:.0f} ms) | | |"
        for entry in speeds
    ]
    kinds = [entry for entry in [*rows, *speeds] if "time_by_kind_ms" in entry]
    if kinds:
        names = list(kinds[0]["time_by_kind_ms"]["fp32"])
        lines += ["", "| share of the network's time | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        for entry in kinds:
            for precision, shares in entry["time_by_kind_ms"].items():
                whole = sum(shares.values())
                cells = " | ".join(f"{shares[name] / whole:.0%}" for name in names)
                lines.append(f"| {entry['model']} {precision} | {cells} |")
    return "\n".join(lines) + "\n"


def cost(row: dict[str, Any]) -> str:
    """What the search took."""
    return f"{row['candidates']} candidates, {row['search_minutes']:.0f} min"


if __name__ == "__main__":
    main()

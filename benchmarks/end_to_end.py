"""From a frame in memory to its detections: edgedet against the plain Python way, side by side in one process.

    python -m benchmarks.end_to_end MODEL.onnx

Writes benchmarks/results/end_to_end.json and end_to_end.md.

MODEL.onnx is a COCO model of the RT-DETR lineage (inputs images and orig_target_sizes; outputs labels, boxes, scores).
The plain way is what a script does: cv2.resize, cv2.cvtColor, NumPy normalisation and transpose, an inference session
(onnxruntime, and OpenVINO's Python API for comparison), NumPy threshold and clipping. All use the same number of
threads and the same BGR frame. Contenders take turns in an order that rotates, so that a machine that slows down for a
while slows all of them; ratios are of medians over all calls.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import openvino
from numpy.typing import NDArray

import edgedet
from edgedet.cli.bench import synthetic_frame
from edgedet.labels import COCO80
from edgedet.onnx_import import import_model

SCORE = 0.3
Frame = NDArray[np.uint8]
Found = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]
OURS, PLAIN, PLAIN_OPENVINO = "edgedet", "OpenCV + onnxruntime", "OpenCV + openvino"


def plain_preprocess(frame: Frame, side: tuple[int, int]) -> NDArray[np.float32]:
    resized = cv2.cvtColor(cv2.resize(frame, side, interpolation=cv2.INTER_LINEAR), cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray((resized.astype(np.float32) / 255.0).transpose(2, 0, 1)[None])


def plain_postprocess(outputs: tuple[Any, Any, Any], width: int, height: int) -> Found:
    labels, boxes, scores = (np.asarray(output)[0] for output in outputs)
    keep = scores >= SCORE
    limits = np.array([width, height, width, height], np.float32)
    return np.clip(boxes[keep], 0, limits), scores[keep], labels[keep].astype(np.int64)


def plain_onnxruntime(model: Path, side: tuple[int, int], threads: int) -> Callable[[Frame], Found]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def detect(frame: Frame) -> Found:
        height, width = frame.shape[:2]
        size = np.array([[width, height]], np.int64)
        feeds = {"images": plain_preprocess(frame, side), "orig_target_sizes": size}
        labels, boxes, scores = session.run(["labels", "boxes", "scores"], feeds)
        return plain_postprocess((labels, boxes, scores), width, height)

    return detect


def plain_openvino(model: Path, side: tuple[int, int], threads: int) -> Callable[[Frame], Found]:
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    network = openvino.Core().compile_model(str(model), "CPU", options)

    def detect(frame: Frame) -> Found:
        height, width = frame.shape[:2]
        size = np.array([[width, height]], np.int64)
        outputs = network({"images": plain_preprocess(frame, side), "orig_target_sizes": size})
        return plain_postprocess((outputs["labels"], outputs["boxes"], outputs["scores"]), width, height)

    return detect


def take_turns(
    contenders: dict[str, Callable[[], object]], *, rounds: int, calls: int, warmup: int
) -> dict[str, list[list[float]]]:
    """Milliseconds of each call, by contender and round."""
    for call in contenders.values():
        for _ in range(warmup):
            call()
    names = list(contenders)
    taken: dict[str, list[list[float]]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            call, times = contenders[name], []
            call()  # the caches are the previous contender's
            for _ in range(calls):
                start = time.perf_counter()
                call()
                times.append((time.perf_counter() - start) * 1e3)
            taken[name].append(times)
    return taken


def summary(rounds: list[list[float]]) -> dict[str, float]:
    times = np.concatenate([np.array(times) for times in rounds])
    p50, p90, p99 = np.percentile(times, (50, 90, 99)).tolist()
    return {"p50": p50, "p90": p90, "p99": p99, "mean": float(times.mean())}


def compare(taken: dict[str, list[list[float]]], first: str, second: str) -> dict[str, float]:
    """How many times slower ``second`` is: ratio of medians over all calls, and its range over the rounds."""
    rounds = [
        statistics.median(slow) / statistics.median(fast)
        for fast, slow in zip(taken[first], taken[second], strict=True)
    ]
    ratio = summary(taken[second])["p50"] / summary(taken[first])["p50"]
    return {"ratio_of_medians": ratio, "lowest_round": min(rounds), "highest_round": max(rounds)}


def agreement(ours: edgedet.Detections, plain: Found) -> dict[str, Any]:
    """Detections of both, matched in order of score; the same rows are expected, up to rounding."""
    boxes, scores, labels = plain
    order = np.argsort(-scores, kind="stable")
    same = len(ours) == len(scores) and bool((ours.labels == labels[order]).all())
    return {
        "detections": len(ours),
        "same_labels": same,
        "largest_box_difference_px": float(np.abs(ours.boxes - boxes[order]).max(initial=0)) if same else None,
        "largest_score_difference": float(np.abs(ours.scores - scores[order]).max(initial=0)) if same else None,
    }


def measure(model: Path, frame: Frame, *, threads: int, rounds: int, calls: int, warmup: int) -> dict[str, Any]:
    cv2.setNumThreads(threads)
    with tempfile.TemporaryDirectory() as folder:
        bundle = import_model(model, Path(folder) / "bundle", labels=COCO80)
        detector = edgedet.Detector(bundle, threads=threads, score_threshold=SCORE)
    info = detector.info
    side = (info.width, info.height)
    onnxruntime_way = plain_onnxruntime(model, side, threads)
    openvino_way = plain_openvino(model, side, threads)
    stages: list[edgedet.StageTimes] = []

    def ours() -> None:
        stages.append(detector.detect_timed([frame], format="bgr")[1])

    whole = take_turns(
        {OURS: ours, PLAIN: lambda: onnxruntime_way(frame), PLAIN_OPENVINO: lambda: openvino_way(frame)},
        rounds=rounds,
        calls=calls,
        warmup=warmup,
    )
    alone = take_turns(
        {
            OURS: lambda: edgedet.preprocess(frame, width=side[0], height=side[1], format="bgr", threads=threads),
            PLAIN: lambda: plain_preprocess(frame, side),
        },
        rounds=rounds,
        calls=calls * 10,
        warmup=warmup,
    )
    preprocess, inference, decode = np.median(np.array(stages), axis=0).tolist()
    median = summary(whole[OURS])["p50"]
    return {
        "model": model.name,
        "frame": f"{frame.shape[1]}x{frame.shape[0]}",
        "threads": threads,
        "calls": rounds * calls,
        "end_to_end_ms": {name: summary(times) for name, times in whole.items()},
        "against_onnxruntime": compare(whole, OURS, PLAIN),
        "against_openvino_python": compare(whole, OURS, PLAIN_OPENVINO),
        "stages_ms": {"preprocess": preprocess, "inference": inference, "decode": decode},
        "share_of_preprocess_and_decode": (preprocess + decode) / median,
        "preprocess_ms": {name: summary(times) for name, times in alone.items()},
        "preprocess_against_opencv": compare(alone, OURS, PLAIN),
        "agreement_with_onnxruntime": agreement(detector(frame, format="bgr"), onnxruntime_way(frame)),
        "versions": {
            "edgedet": edgedet.__version__,
            "device": info.device,
            "onnxruntime": onnxruntime.__version__,
            "opencv": cv2.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def markdown(figures: dict[str, Any]) -> str:
    """The same as a table for documents."""
    lines = [
        f"{figures['model']}, {figures['frame']} frame in memory, {figures['threads']} threads, "
        f"{figures['calls']} calls each.",
        "",
        "| way | p50 ms | p90 ms | p99 ms | time against edgedet (rounds) |",
        "|---|---|---|---|---|",
    ]
    ratios = {PLAIN: "against_onnxruntime", PLAIN_OPENVINO: "against_openvino_python"}
    for name, row in figures["end_to_end_ms"].items():
        ratio = "1"
        if name in ratios:
            found = figures[ratios[name]]
            low, high = found["lowest_round"], found["highest_round"]
            ratio = f"{found['ratio_of_medians']:.2f} ({low:.2f} to {high:.2f})"
        lines.append(f"| {name} | {row['p50']:.2f} | {row['p90']:.2f} | {row['p99']:.2f} | {ratio} |")
    stages, alone = figures["stages_ms"], figures["preprocess_against_opencv"]
    lines += [
        "",
        f"Stages of edgedet: preprocess {stages['preprocess']:.3f} ms, inference {stages['inference']:.2f} ms, decode "
        f"{stages['decode']:.3f} ms; preprocess and decode are {figures['share_of_preprocess_and_decode']:.1%} of the "
        "end-to-end median.",
        f"Preprocess alone: OpenCV and NumPy take {alone['ratio_of_medians']:.1f} times as long "
        f"({alone['lowest_round']:.1f} to {alone['highest_round']:.1f}).",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.end_to_end",
        description="Time edgedet against OpenCV + onnxruntime, from a frame in memory to its detections.",
    )
    parser.add_argument("model", metavar="MODEL.onnx", type=Path, help="a COCO model of the RT-DETR lineage")
    parser.add_argument("--image", metavar="FILE", type=Path, help="frame to use (default: synthetic, 640x480)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of every way (default: 2)")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="turns of each way (default: 15)")
    parser.add_argument("--calls", type=int, default=20, metavar="N", help="calls a turn (default: 20)")
    parser.add_argument("--warmup", type=int, default=10, metavar="N", help="calls before (default: 10)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    options = parser.parse_args()
    if options.image is None:
        frame = synthetic_frame(640, 480)
    else:
        frame = np.ascontiguousarray(edgedet.read_image(options.image)[..., ::-1])
    figures = measure(
        options.model,
        frame,
        threads=options.threads,
        rounds=options.rounds,
        calls=options.calls,
        warmup=options.warmup,
    )
    print(markdown(figures))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "end_to_end.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    (options.out / "end_to_end.md").write_text(markdown(figures), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

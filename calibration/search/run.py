"""`search`: set up, run, and leave the answer, the table and the plot behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from calibration.calibrate import work_folder
from calibration.collect import CollectOptions
from calibration.half import HalfOptions
from calibration.half_bundle import add_half
from calibration.inputs import float_model
from calibration.quantize import store
from calibration.sampling import read_record, read_sample, sha256
from calibration.search.bench import Bench, computed_halves, half_files
from calibration.search.front import plot, table
from calibration.search.journal import Journal
from calibration.search.options import SearchOptions
from calibration.search.search import Answer, Search
from calibration.verify import evaluation_images
from edgedet import InvalidInputError
from edgedet.bundle import add_json, load_model_json, name_model
from edgedet.coco_eval import load_annotations
from edgedet.files import write_atomically
from edgedet.verdict import HALVES


def search(
    bundle: Path,
    *,
    images: Path | None,
    annotations: Path | None,
    options: SearchOptions,
    calibration_images: Path | None = None,
    out: Path | None = None,
    collect: CollectOptions | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Answer:
    """Find the fastest model of a bundle that keeps the accuracy, and put it into the bundle.

    Writes search.json into `out` while it goes on, and into the bundle when it has finished; search.md and search.png
    beside the former.

    Args:
        bundle: bundle with a float model and a recorded calibration set.
        images: folder of the labelled images that decide. They are neither calibrated on nor those that verify.
        annotations: COCO file of these images.
        options: see `SearchOptions`.
        calibration_images: folder of the calibration images, where it is not the recorded one.
        out: folder of the results; in the work folder beside the bundle if not given, one per backend.
        collect: batch, memory bound and threads of the calibration.
        progress: told (stage, done, total); total 0 where it is not known.

    Raises:
        InvalidInputError: no calibration set, no labelled images, or some were calibrated on.
    """
    if images is None or annotations is None:
        raise InvalidInputError("expected --images and --annotations of the labelled images that decide, got none")
    collect = collect or CollectOptions(threads=options.threads)
    if options.backend == "tensorrt" and "fp16" in computed_halves(options.backend):
        _give_half(bundle, collect, calibration_images, progress)
    spec = load_model_json(bundle)
    sample = read_sample(bundle)
    dataset = load_annotations(annotations)
    chosen, paths = evaluation_images(bundle, dataset, images)
    folder = calibration_images or Path(sample.directory)
    probe = [folder / image.file for image in sample.images[: options.probe]]
    target = out or work_folder(bundle) / ("search" if options.backend == "openvino" else f"search-{options.backend}")
    with Bench(
        bundle,
        options.backend,
        dataset=dataset,
        images=chosen,
        paths=paths,
        probe=probe,
        threads=options.threads,
    ) as bench:
        about = {
            "backend": options.backend,
            "device": bench.device,
            "threads": bench.threads,
            "float_sha256": spec["files"][float_model(spec, options.backend)]["sha256"],
            "input": spec["input"],
            "calibration": [image.sha256 for image in sample.images],
            "annotations_sha256": sha256(annotations),
            "images": len(chosen),
            "probe": len(probe),
        }
        journal = Journal.open(target / "search.json", about)
        runner = Search(
            bundle, bench, journal, options=options, collect=collect, images=calibration_images, progress=progress
        )
        answer = runner.run()
        candidate = answer.candidate
        journal.answer = {
            "precision": answer.precision,
            "reason": answer.reason,
            "choice": None if candidate is None else asdict(candidate.choice),
            "float_ap": answer.float_ap,
            "float_ms": answer.float_ms,
            "complete": answer.complete,
            "limits": {"max_drop": options.max_drop, "target": options.target},
        }
        journal.save()
        candidates = list(journal.candidates.values())
        write_atomically(target / "search.md", table(candidates, journal.answer).encode())
        if candidates:
            write_atomically(target / "search.png", plot(candidates, journal.answer))
        if answer.precision in HALVES:
            name_model(bundle, answer.precision, options.backend, half_files(spec, options.backend)[answer.precision])
        if answer.precision == "int8" and candidate is not None:
            choice = candidate.choice
            made = runner.build(choice)
            store(bundle, runner.calibrated(choice.alpha), made, options.backend, choice.options(collect))
    add_json(bundle, "search.json", journal.document())
    return answer


def _give_half(
    bundle: Path, collect: CollectOptions, images: Path | None, progress: Callable[[str, int, int], None]
) -> None:
    """The half precision model that TensorRT needs, unless the bundle has one of its float model."""
    spec = load_model_json(bundle)
    recorded = read_record(bundle).get("half")
    record = recorded.get("tensorrt") if isinstance(recorded, dict) else None
    current = isinstance(record, dict) and (
        record.get("float_sha256") == spec["files"][float_model(spec, "tensorrt")]["sha256"]
    )
    if not current or "fp16" not in half_files(spec, "tensorrt"):
        add_half(bundle, options=HalfOptions(collect=collect), images=images, progress=progress)

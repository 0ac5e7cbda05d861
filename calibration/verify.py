"""The gate: INT8 or a half type against the float engine of the same bundle, on the backend that ships; a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from calibration.gate.binding import calibration_binding
from calibration.gate.checks import judge
from calibration.gate.evidence import gather
from calibration.gate.options import VerifyOptions
from calibration.gate.page import render_page
from calibration.gate.pictures import picture, worst_images
from calibration.gate.report import build_report, summary
from calibration.sampling import read_record, read_sample, sha256
from edgedet import InvalidInputError
from edgedet.bundle import add_file, add_json, load_model_json, set_best
from edgedet.coco_compare import compare, match_run
from edgedet.coco_eval import CocoDataset, CocoImage, load_annotations, match_categories
from edgedet.matching import confusions, drift
from edgedet.verdict import CANDIDATES, Candidate, Verdict, model_file, read_verdict

__all__ = ["VerifyOptions", "check_report", "evaluation_images", "summary", "verify"]


def verify(
    bundle: Path,
    *,
    images: Path | None,
    annotations: Path | None,
    options: VerifyOptions,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Run both engines on labelled images in one pass and record in the bundle what came out.

    Writes report.json and report.html, and the best precision into model.json.

    Returns:
        The report as it is written; `["verdict"]["passed"]` says whether the candidate is recorded as best.

    Raises:
        InvalidInputError: no model to judge, no evaluation data, or calibration images among the evaluation images.
    """
    if images is None or annotations is None:
        raise InvalidInputError("expected --images and --annotations of the evaluation set, got none")
    spec = load_model_json(bundle)
    candidate = choose_candidate(bundle, spec, options)
    binding = calibration_binding(bundle, spec, options.backend, candidate)
    dataset = load_annotations(annotations)
    chosen, paths = evaluation_images(bundle, dataset, images, limit=options.limit)
    categories = match_categories(dataset, spec["classes"], spec["category_ids"])

    evidence = gather(
        bundle,
        spec,
        paths,
        precision=candidate,
        backend=options.backend,
        threads=options.threads,
        progress=progress,
    )
    ours, theirs = evidence.runs["fp32"].detections, evidence.runs[candidate].detections
    matched = {name: match_run(run.detections, dataset, chosen, categories) for name, run in evidence.runs.items()}
    accuracy = compare({name: subsets for name, (subsets, _) in matched.items()}, dataset.categories)
    found = drift(ours, theirs)
    checks = judge(
        accuracy=accuracy,
        found=found,
        confused=confusions(ours, theirs),
        classes=spec["classes"],
        evidence=evidence,
        binding=binding,
        options=options,
    )
    worst = worst_images([image.file_name for image in chosen], ours, theirs)
    report = build_report(
        spec=spec,
        evaluation={"images": len(chosen), "of": len(dataset.images), "first": chosen[0].file_name},
        figures={name: figures for name, (_, figures) in matched.items()},
        accuracy=accuracy,
        found=found,
        evidence=evidence,
        binding=binding,
        worst=worst,
        checks=checks,
        options=options,
    )
    shown = worst if options.pictures else []
    pictures = [picture(paths[image.position], (ours[image.position], theirs[image.position])) for image in shown]
    _record(bundle, options.backend, report, render_page(report, pictures))
    return report


def choose_candidate(bundle: Path, spec: Mapping[str, Any], options: VerifyOptions) -> Candidate:
    """The precision that is judged: the one that was asked for, or the first that the bundle has.

    Args:
        bundle: the bundle folder.
        spec: its model.json.
        options: its `precision` and `backend`.

    Raises:
        InvalidInputError: the bundle has no such model for the backend.
    """
    wanted = [precision for precision in CANDIDATES if options.precision in ("", precision)]
    for precision in wanted:
        if model_file(spec, precision, options.backend) is not None:
            return precision
    have = [precision for precision in spec["models"] if model_file(spec, precision, options.backend) is not None]
    halves = "`half`" if options.backend == "tensorrt" else "`search`"
    remedy = halves if options.precision in ("bf16", "fp16") else "`quantize` or `search`"
    raise InvalidInputError(
        f"{bundle}: expected a model in {' or '.join(wanted)} for {options.backend}, got {', '.join(have)}; "
        f"run {remedy} first"
    )


def evaluation_images(
    bundle: Path, dataset: CocoDataset, folder: Path, *, limit: int = 0
) -> tuple[Sequence[CocoImage], list[Path]]:
    """The images to judge by and their files.

    Args:
        bundle: whose calibration images must not be among them.
        dataset: the annotations.
        folder: of the images.
        limit: the first ones only, 0 for all.

    Raises:
        InvalidInputError: a file is missing, none of them has objects, or some were calibrated on.
    """
    chosen = dataset.images[: limit or None]
    ids = {image.id for image in chosen}
    if not any(entry["image_id"] in ids for entry in dataset.document["annotations"]):
        raise InvalidInputError(
            f"{dataset.source}: expected objects in the first {len(chosen)} images, got none; raise --limit"
        )
    paths = [folder / image.file_name for image in chosen]
    digests = [sha256(path) for path in paths]
    calibration = {image.sha256 for image in read_sample(bundle).images} if "sample" in read_record(bundle) else set()
    shared = [path for path, digest in zip(paths, digests, strict=True) if digest in calibration]
    if shared:
        raise InvalidInputError(
            f"expected evaluation images that were not calibrated on, got {len(shared)} that were, "
            f"the first: {shared[0]}; run `sample` with --exclude"
        )
    return chosen, paths


def check_report(bundle: Path, backend: str = "openvino") -> Verdict:
    """What the bundle's report says, and whether it still speaks of what is in the bundle.

    Raises:
        InvalidInputError: there is no report.
    """
    spec = load_model_json(bundle)
    if "report.json" not in spec["files"]:
        raise InvalidInputError(f"{bundle}: expected report.json, got none; run `verify`")
    return read_verdict(bundle, spec, backend)


def _record(bundle: Path, backend: str, report: Mapping[str, Any], page: str) -> None:
    """The float model is best while the report is written, so that a crash never leaves another without proof."""
    set_best(bundle, backend, "fp32")
    add_json(bundle, "report.json", report)
    add_file(bundle, "report.html", page.encode())
    if report["verdict"]["passed"]:
        set_best(bundle, backend, report["candidate"])

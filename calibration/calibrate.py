"""Equalise a bundle's float graph and measure the ranges of its tensors on the recorded set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from calibration.collect import CollectOptions, Statistics, channel_extents, collect
from calibration.equalise import equalise
from calibration.graph import Graph, load, prepare
from calibration.inputs import batch_size, float_model, sample_batches
from calibration.memory import StatisticsFiles
from calibration.placement import Placement, PlacementOptions, place
from calibration.render import BackendName, measured
from calibration.sampling import Sample, read_sample
from edgedet import ModelError
from edgedet.bundle import load_model_json

Progress = Callable[[str, int, int], None]

# Images that decide the factors of the equalisation; more change them in the second digit only.
_EQUALISE_IMAGES = 32


@dataclass(frozen=True)
class Calibrated:
    """A float graph that is ready to be quantised.

    Attributes:
        spec: model.json of the bundle.
        float_file: name of the float model in the bundle.
        sample: the calibration set.
        folder: where its images are.
        graph: the float graph, simplified and equalised.
        placement: every layer that the rules allow in int8.
        statistics: of every tensor that `calibration.render.measured` names.
        factors: number of channel classes that were rescaled.
    """

    spec: dict[str, Any]
    float_file: str
    sample: Sample
    folder: Path
    graph: Graph
    placement: Placement
    statistics: dict[str, Statistics]
    factors: int


def calibrate(
    bundle: Path,
    *,
    backend: BackendName,
    alpha: float,
    placement: PlacementOptions,
    collect_options: CollectOptions,
    images: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Calibrated:
    """Run the float model over the recorded set.

    What was measured is kept in a folder beside the bundle (`work_folder`), so that an interrupted run goes on and
    another observer costs no second pass.

    Args:
        bundle: bundle with a float model and a recorded sample.
        backend: whose float model.
        alpha: strength of the channel equalisation, 0 (off) to 1.
        placement: layers to consider.
        collect_options: batch, memory bound and threads.
        images: folder of the calibration images, where it is not the recorded one.
        progress: told (stage, images done, images in all).

    Raises:
        InvalidInputError: no sample, or its images changed.
        ModelError: the float model is broken or has nothing to quantise.
        BundleError: the bundle is damaged.
    """
    spec = load_model_json(bundle)
    sample = read_sample(bundle)
    folder = images or Path(sample.directory)
    float_file = float_model(spec, backend)
    graph = prepare(load(bundle / float_file))
    allowed = place(graph, placement)
    if not allowed.layers:
        reasons = "; ".join(sorted({kept.reason for kept in allowed.kept})) or "it has no Conv or MatMul with weights"
        raise ModelError(f"{bundle / float_file}: expected layers to quantise, got none ({reasons})")
    batch = batch_size(graph, spec, collect_options.batch)
    settings = CollectOptions(batch=batch, memory_mb=collect_options.memory_mb, threads=collect_options.threads)
    total = len(sample.images)
    factors = 0
    if alpha > 0.0:
        few = min(_EQUALISE_IMAGES, total)
        extents = channel_extents(
            graph.model,
            allowed.activations,
            lambda: islice(sample_batches(folder, sample, spec, batch=batch), -(-few // batch)),
            options=settings,
            advance=counter(progress, "ranges of channels", few),
        )
        factors = equalise(graph, allowed, extents, alpha=alpha)
        allowed = place(graph, placement)  # the weights have new names
    memory = StatisticsFiles(
        work_folder(bundle),
        {
            "model": spec["files"][float_file]["sha256"],
            "input": spec["input"],
            "images": [image.sha256 for image in sample.images],
            "alpha": alpha,
            "scope": placement.scope,
            "minimum_channels": placement.minimum_channels,
            "batch": batch,
        },
        images=total,
    )
    statistics = collect(
        graph.model,
        measured(graph, allowed, backend),
        lambda: sample_batches(folder, sample, spec, batch=batch),
        options=settings,
        advance=counter(progress, "ranges of tensors", total),
        memory=memory,
    )
    return Calibrated(spec, float_file, sample, folder, graph, allowed, statistics, factors)


def work_folder(bundle: Path) -> Path:
    """Folder beside a bundle for what is worth keeping and not part of it. May be deleted at any time."""
    return bundle.parent / f"{bundle.name}.calibration"


def counter(progress: Progress, stage: str, total: int) -> Callable[[int], None]:
    """A function that is told images as they are done and passes on their number so far."""
    done = 0

    def advance(images: int) -> None:
        nonlocal done
        done += images
        progress(stage, min(done, total), total)

    progress(stage, 0, total)
    return advance

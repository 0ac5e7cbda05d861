"""Choose a calibration set: at random, balanced over kinds of image, or spread over what the network sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from calibration.sets.balance import balance
from calibration.sets.candidates import Inspection, Pixels, names_in
from calibration.sets.evaluation import EvaluationImages
from calibration.sets.k_centre import k_centre
from calibration.sets.strata import appearance, objects
from edgedet import InvalidInputError
from edgedet.calibration_set import Sample, SampledImage
from edgedet.coco_eval import CocoDataset, load_annotations

Strategy = Literal["random", "stratified", "diverse"]
STRATEGIES: Final[tuple[Strategy, ...]] = get_args(Strategy)

Vectors = npt.NDArray[np.float32]


class Embedding(Protocol):
    """Turns images into points; images that the network sees alike are near each other."""

    def prepare(self, pixels: Pixels) -> Vectors:
        """What is kept of an (H, W, 3) RGB image until its turn comes. Called in other threads."""

    def points(self, prepared: Iterable[Vectors]) -> Iterator[Vectors]:
        """(n, C) arrays, whose rows are the points of the images in their order."""


def draw(
    directory: Path,
    *,
    count: int,
    seed: int,
    strategy: Strategy = "random",
    annotations: Path | None = None,
    exclude: EvaluationImages | None = None,
    embedding: Embedding | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Sample:
    """Choose `count` images of a folder.

    A broken file, a copy of another candidate and an evaluation image are never chosen; they are recorded with the
    reason. `random` decodes images until it has enough of them, the others decode every candidate once. Pixels are not
    kept. A smaller set of the same seed is the beginning of a larger one.

    Args:
        directory: folder of images.
        count: number wanted, >= 1.
        seed: the same seed over the same files gives the same set.
        strategy: `random`, uniform without repeats; `stratified`, balanced over brightness and blur and, with
            annotations, over the classes and sizes of objects; `diverse`, k-centre on `embedding`.
        annotations: COCO file; only images it lists are candidates.
        exclude: evaluation images.
        embedding: for `diverse`.
        progress: told (stage, images done, images in all).

    Raises:
        InvalidInputError: fewer than `count` usable images; the message counts the reasons.
        ImageError: the folder holds no image.
    """
    if count < 1:
        raise InvalidInputError(f"expected a count >= 1, got {count}")
    if strategy not in STRATEGIES:
        raise InvalidInputError(f"expected a strategy of {', '.join(STRATEGIES)}, got '{strategy}'")
    dataset = load_annotations(annotations) if annotations is not None else None
    names = names_in(directory, dataset)
    order = [names[position] for position in np.random.default_rng(seed).permutation(len(names))]

    def looked(images: int, usable: int) -> None:
        if strategy == "random":
            progress("candidates", usable, count)
        else:
            progress("candidates", images, len(names))

    inspection = Inspection(directory, exclude or EvaluationImages(), looked)
    if strategy == "random":
        images = _random(inspection, order, count)
    elif strategy == "stratified":
        images = _stratified(inspection, order, count, dataset)
    elif embedding is None:
        raise InvalidInputError("expected an embedding for the strategy 'diverse', got none; see calibration.embedding")
    else:
        images = _diverse(inspection, order, count, embedding)
    if len(images) < count:
        refused = inspection.refused
        first = f", the first: {refused[0].file}: {refused[0].reason}" if refused else ""
        raise InvalidInputError(
            f"expected {count} usable images in {directory}, got {len(images)} of {len(names)} "
            f"({len(refused)} refused{first}); ask for fewer or add images"
        )
    return Sample(str(directory), strategy, seed, len(names), tuple(images), tuple(inspection.refused))


def _random(inspection: Inspection, order: Sequence[str], count: int) -> list[SampledImage]:
    with closing(inspection.usable(order, lambda pixels: None)) as found:
        return [replace(image, reason="drawn at random") for image, _ in islice(found, count)]


def _stratified(
    inspection: Inspection, order: Sequence[str], count: int, dataset: CocoDataset | None
) -> list[SampledImage]:
    found = list(inspection.usable(order, appearance))
    families: list[list[tuple[str, ...]]] = [[(look,) for _, look in found]]
    if dataset is not None:
        kinds = objects(dataset)
        families.append([kinds[image.file] for image, _ in found])
    return [
        replace(found[pick.candidate][0], reason=", ".join(reversed(pick.reasons)))
        for pick in balance(families, min(count, len(found)))
    ]


def _diverse(inspection: Inspection, order: Sequence[str], count: int, embedding: Embedding) -> list[SampledImage]:
    images: list[SampledImage] = []

    def prepared() -> Iterator[Vectors]:
        for image, values in inspection.usable(order, embedding.prepare):
            images.append(image)
            yield values

    parts = list(embedding.points(prepared()))
    if not images:
        return []
    chosen, distances = k_centre(np.concatenate(parts), min(count, len(images)))
    reasons = ["first, drawn at random", *(f"{distance:.2f} from the nearest before" for distance in distances[1:])]
    return [replace(images[at], reason=reason) for at, reason in zip(chosen, reasons, strict=True)]

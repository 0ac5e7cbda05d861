"""What a detector found in one image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from edgedet._core import Error, InvalidInputError

if TYPE_CHECKING:
    import supervision
    from PIL import Image

    from edgedet.image_input import ImageInput, PixelFormat


class Detection(NamedTuple):
    """One object: its box (x0, y0, x1, y1) in pixels of the source image, score in [0, 1], class index and name."""

    box: tuple[float, float, float, float]
    score: float
    label: int
    name: str


class StageTimes(NamedTuple):
    """Milliseconds that the stages of one call took, for all of its images together."""

    preprocess: float
    inference: float
    decode: float


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects found in one image, best first. The networks are trained to say each object once: there is no NMS.

    Attributes:
        boxes: (N, 4) float32, corners x0, y0, x1, y1 in pixels of the source image, clipped to it.
        scores: (N,) float32 in [0, 1].
        labels: (N,) int32, index into the bundle's classes.
        names: Class name of each of the N objects.

    Raises:
        InvalidInputError: The lengths or shapes disagree.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    names: list[str]

    def __post_init__(self) -> None:
        rows = len(self.names)
        if self.boxes.shape != (rows, 4) or self.scores.shape != (rows,) or self.labels.shape != (rows,):
            raise InvalidInputError(
                f"expected boxes ({rows}, 4), scores ({rows},) and labels ({rows},) for {rows} names, got "
                f"{self.boxes.shape}, {self.scores.shape} and {self.labels.shape}",
            )

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Detection]:
        """Yields the objects one by one, as plain Python values."""
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), self.names)
        for (x0, y0, x1, y1), score, label, name in rows:
            yield Detection((x0, y0, x1, y1), score, label, name)

    @overload
    def __getitem__(self, rows: int) -> Detection: ...

    @overload
    def __getitem__(self, rows: slice | Sequence[int] | NDArray[Any]) -> Detections: ...

    def __getitem__(self, rows: int | slice | Sequence[int] | NDArray[Any]) -> Detection | Detections:
        """One object by its place, or several: by a slice, by places, or by an array of N booleans."""
        if isinstance(rows, (int, np.integer)) and not isinstance(rows, bool):
            places = np.arange(len(self))[[rows]]
            return next(iter(self[places]))
        index = rows if isinstance(rows, (slice, np.ndarray)) else np.asarray(rows, None if np.size(rows) else np.intp)
        places = np.arange(len(self))[index]
        if places.ndim != 1:
            raise InvalidInputError(f"expected a slice or one-dimensional places or booleans, got {rows!r}")
        names = [self.names[place] for place in places.tolist()]
        return Detections(self.boxes[places], self.scores[places], self.labels[places], names)

    def filter(self, score: float) -> Detections:
        """Keeps the objects with at least this score."""
        return self[self.scores >= score]

    def plot(self, image: ImageInput, *, format: PixelFormat = "rgb", scores: bool = True) -> Image.Image:
        """Draws the objects on their image.

        Args:
            image: What was detected in, as a detector takes it, but not NV12 or in a device's memory; it stays as it
                is.
            format: Pixel format of an array.
            scores: Write the score behind the name.

        Returns:
            A new RGB picture of Pillow; ``.save("found.jpg")`` writes it.
        """
        from edgedet.draw import draw_detections
        from edgedet.image_input import as_rgb

        return draw_detections(as_rgb(image, format), self, scores=scores)

    def to_coco(self, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """COCO results: one dict per object with image_id, category_id, bbox (x, y, width, height) and score.

        Args:
            image_id: Id of the image in the dataset.
            category_ids: The dataset's id of each class, as in the bundle. Must cover every label.
        """
        if len(self) and int(self.labels.max()) >= len(category_ids):
            raise InvalidInputError(
                f"expected a category id for each class, got {len(category_ids)} ids and label "
                f"{int(self.labels.max())}; pass the bundle's category_ids",
            )
        corners = self.boxes.astype(np.float64)
        corners[:, 2:] -= corners[:, :2]
        rows = zip(corners.tolist(), self.scores.tolist(), self.labels.tolist())
        return [
            {"image_id": image_id, "category_id": category_ids[label], "bbox": bbox, "score": score}
            for bbox, score, label in rows
        ]

    def to_supervision(self) -> supervision.Detections:
        """The same as ``supervision.Detections``, names under ``data["class_name"]``.

        Raises:
            Error: The package supervision is not installed, or not completely.
        """
        try:
            import supervision
        except ModuleNotFoundError as error:
            raise Error(f"supervision cannot be imported ({error}); run: pip install supervision") from None
        return supervision.Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.labels.astype(np.int64),
            data={"class_name": np.array(self.names, dtype=np.str_)},
        )


def padded(found: Sequence[Detections], rows: int) -> dict[str, NDArray[Any]]:
    """The detections of N images as tensors of one size, for protocols that know no other.

    rows: M, not less than any image has.

    Returns:
        num_detections (N,) int32, boxes (N, M, 4) float32, scores (N, M) float32, labels (N, M) int32; behind an
        image's number boxes and scores are 0, labels -1.
    """
    count = len(found)
    boxes = np.zeros((count, rows, 4), np.float32)
    scores = np.zeros((count, rows), np.float32)
    labels = np.full((count, rows), -1, np.int32)
    for place, one in enumerate(found):
        own = slice(len(one))
        boxes[place, own], scores[place, own], labels[place, own] = one.boxes, one.scores, one.labels
    numbers = np.array([len(one) for one in found], np.int32)
    return {"num_detections": numbers, "boxes": boxes, "scores": scores, "labels": labels}

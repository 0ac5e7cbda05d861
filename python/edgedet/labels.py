"""Class names and the dataset ids that go with them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgedet._core import InvalidInputError


@dataclass(frozen=True)
class Labels:
    """The classes of a model: by label, their names and their ids in the dataset (COCO's ids have gaps).

    Raises:
        InvalidInputError: No class, an empty or repeated name, a repeated id, or lengths that differ.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.category_ids):
            raise InvalidInputError(
                f"expected one id for each of at least one class, got {len(self.names)} names and "
                f"{len(self.category_ids)} ids",
            )
        if not all(name.strip() for name in self.names):
            raise InvalidInputError("expected a name for each class, got an empty one")
        for what, values in (("class name", self.names), ("category id", self.category_ids)):
            repeated = sorted({str(value) for value in values if values.count(value) > 1})
            if repeated:
                raise InvalidInputError(f"expected each {what} once, got {', '.join(repeated)} more than once")


# fmt: off
_COCO80: Final = (
    (1, "person"), (2, "bicycle"), (3, "car"), (4, "motorcycle"), (5, "airplane"), (6, "bus"), (7, "train"),
    (8, "truck"), (9, "boat"), (10, "traffic light"), (11, "fire hydrant"), (13, "stop sign"), (14, "parking meter"),
    (15, "bench"), (16, "bird"), (17, "cat"), (18, "dog"), (19, "horse"), (20, "sheep"), (21, "cow"), (22, "elephant"),
    (23, "bear"), (24, "zebra"), (25, "giraffe"), (27, "backpack"), (28, "umbrella"), (31, "handbag"), (32, "tie"),
    (33, "suitcase"), (34, "frisbee"), (35, "skis"), (36, "snowboard"), (37, "sports ball"), (38, "kite"),
    (39, "baseball bat"), (40, "baseball glove"), (41, "skateboard"), (42, "surfboard"), (43, "tennis racket"),
    (44, "bottle"), (46, "wine glass"), (47, "cup"), (48, "fork"), (49, "knife"), (50, "spoon"), (51, "bowl"),
    (52, "banana"), (53, "apple"), (54, "sandwich"), (55, "orange"), (56, "broccoli"), (57, "carrot"), (58, "hot dog"),
    (59, "pizza"), (60, "donut"), (61, "cake"), (62, "chair"), (63, "couch"), (64, "potted plant"), (65, "bed"),
    (67, "dining table"), (70, "toilet"), (72, "tv"), (73, "laptop"), (74, "mouse"), (75, "remote"), (76, "keyboard"),
    (77, "cell phone"), (78, "microwave"), (79, "oven"), (80, "toaster"), (81, "sink"), (82, "refrigerator"),
    (84, "book"), (85, "clock"), (86, "vase"), (87, "scissors"), (88, "teddy bear"), (89, "hair drier"),
    (90, "toothbrush"),
)
# fmt: on

#: The 80 classes of COCO with the ids that its annotation files use (1 to 90, with gaps).
COCO80: Final = Labels(tuple(name for _, name in _COCO80), tuple(number for number, _ in _COCO80))


def read_labels(source: str | os.PathLike[str]) -> Labels:
    """Reads class names.

    Args:
        source: "coco80", a text file with one name per line (ids become 1, 2, ...), or a COCO annotation file ending in
            ``.json``, whose categories give names and ids, in the order of their ids.

    Raises:
        InvalidInputError: The file is missing, empty or of another form.
    """
    if str(source) == "coco80":
        return COCO80
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            f'{path}: expected "coco80", a text file with one class name per line or a COCO .json, got {error}',
        ) from None
    if path.suffix.lower() == ".json":
        return _from_coco(text, path)
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not names:
        raise InvalidInputError(f"{path}: expected one class name per line, got no name")
    return Labels(names, tuple(range(1, len(names) + 1)))


def _from_coco(text: str, path: Path) -> Labels:
    try:
        categories = sorted((entry["id"], entry["name"]) for entry in json.loads(text)["categories"])
    except (ValueError, KeyError, TypeError):
        raise InvalidInputError(
            f'{path}: expected COCO JSON with "categories": [{{"id": 1, "name": "..."}}, ...], got something else',
        ) from None
    return Labels(tuple(name for _, name in categories), tuple(number for number, _ in categories))
